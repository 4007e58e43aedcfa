"""Whether there are enough images to tell a drop by."""

from collections.abc import Sequence
from math import ceil, sqrt

from slimkit.errors import DataError
from slimkit.measure.quality import LIKELY
from slimkit.quantity import number_of
from slimkit.results import Attempt
from slimkit.runs.cut.least import COUNTED
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


def short(
    spec: CompressSpec, tried: Sequence[Attempt], images: int, given: int | None = None, *, alike: bool = False
) -> str:
    """Say which smaller network only its margin has kept from being taken, and what would tell more; "" of none.

    A margin falls with the root of the number of images. Where ten times as many would be needed, what is lost is as
    good as what may be. The arguments are those of `check`, and what was tried.
    """
    limit = spec.max_drop
    assert limit is not None
    taken = min((one.share for one in tried if one.within), default=1.0)
    close = [one for one in tried if one.share < taken and one.margin and one.margin < sqrt(10) * (limit - one.drop)]
    if not close:
        return ""
    best = min(close, key=lambda one: one.share)
    margin = best.margin or 0.0
    needed = _rounded_up(images * (margin / (limit - best.drop)) ** 2)
    work = "parameters" if COUNTED.get(spec.minimise, spec.minimise) == "params" else "multiply-adds"
    kind = "validation images" if given is None else "groups of inputs held out" if alike else "inputs held out"
    return (
        f"A network of {best.share:.2f} of the {work} loses {best.drop:.2f}, of {limit:g} that may be lost, and was "
        f"not taken: {images:,} {kind} can tell that to {margin:.2f} only. About {needed:,} would do: "
        f"allow `max_drop={ceil(100 * (best.drop + margin)) / 100:g}`, or {_more(needed, given, alike)}."
    )


def _rounded_up(number: float) -> int:
    """Return a number rounded up to two digits: it is an estimate."""
    step = int("1".ljust(len(str(ceil(number))) - 1, "0"))
    return ceil(number / step) * step


def _advice(needed: int, given: int | None, alike: bool) -> str:
    least = ceil(100 * _POINTS / COMPARED) / 100
    drop = f"a drop of {least:g} or more" if given is not None and needed > COMPARED else "a larger drop"
    return f"Allow {drop}, or {_more(needed, given, alike)}"


def _more(needed: int, given: int | None, alike: bool) -> str:
    """Say what to give, that so many can be judged by."""
    if given is None:
        return "give more data"
    if needed > COMPARED:
        return f"give labelled data: of unlabelled inputs at most {COMPARED} are judged by"
    what = f"inputs of {ceil(needed / APART):,} such groups" if alike else f"{ceil(needed / APART):,} unlabelled inputs"
    return f"give {what} or more, here {given:,}: an eighth of them is held out to judge by"
