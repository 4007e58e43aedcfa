"""Whether there are enough images to tell a drop by."""

from math import ceil, sqrt

from slimkit.errors import DataError
from slimkit.measure.quality import LIKELY
from slimkit.quantity import number_of
from slimkit.runs.cut.parts import APART, COMPARED
from slimkit.settings import CompressSpec

_POINTS = 100 * LIKELY * sqrt(2)  # over the number of images: the least drop that can be told
_FEW = 32  # of fewer images a bootstrap says little


def check(
    spec: CompressSpec, images: int | None, given: int | None = None, *, alike: bool = False, by_parts: bool = False
) -> None:
    """Check that a drop can be told at all.

    Args:
        spec: has the drop.
        images: to judge by; None: there are none.
        given: unlabelled inputs of which these are the part that is held out; None: they are labelled.
        alike: inputs resemble each other, so that both are numbers of groups of them.
        by_parts: no image is right or wrong as a whole: pixels of it are counted, which tells finer.

    Raises:
        DataError: there is nothing to judge by, or too little for so small a drop.
    """
    assert spec.max_drop is not None
    if images is None:
        raise DataError(
            f"max_drop is {spec.max_drop:g}: there is nothing to measure it on.\n"
            "  Give labelled data, for example `data='digits'`, or unlabelled inputs, `calibration='folder:PHOTOS'`"
        )
    needed = ceil(_POINTS / spec.max_drop)
    needed = min(needed, _FEW) if by_parts else needed
    if images < needed:
        what = "group" if alike else "image"
        said = f"{number_of(images, what)}{' of inputs that resemble each other' if alike else ''}"
        raise DataError(
            f"max_drop is {spec.max_drop:g}: {said} cannot tell so small a drop, it takes {needed} or more.\n"
            f"  {_advice(needed, given, alike)}"
        )


def _advice(needed: int, given: int | None, alike: bool) -> str:
    if given is None:
        return "Allow a larger drop, or give more data"
    if needed > COMPARED:
        least = ceil(100 * _POINTS / COMPARED) / 100
        return (
            f"Allow a drop of {least:g} or more, or give labelled data: of unlabelled inputs at most {COMPARED} are "
            "judged by"
        )
    if alike:
        return (
            f"Allow a larger drop, or give inputs of {ceil(needed / APART):,} such groups or more, here {given:,}: an "
            "eighth of them is held out to judge by"
        )
    return (
        f"Allow a larger drop, or give {ceil(needed / APART):,} unlabelled inputs or more, here {given:,}: an eighth "
        "of them is held out to judge by"
    )
