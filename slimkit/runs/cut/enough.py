"""Whether there are enough images to tell a drop by."""

from math import ceil, sqrt

from slimkit.errors import DataError
from slimkit.measure.quality import LIKELY
from slimkit.quantity import number_of
from slimkit.settings import CompressSpec


def check(spec: CompressSpec, images: int | None, given: int | None = None) -> None:
    """Check that a drop can be told at all.

    Args:
        spec: has the drop.
        images: to judge by; None: there are none.
        given: unlabelled inputs of which these are the part that is held out; None: they are not.

    Raises:
        DataError: there is nothing to judge by, or too little for so small a drop.
    """
    assert spec.max_drop is not None
    if images is None:
        raise DataError(
            f"max_drop is {spec.max_drop:g}: there is nothing to measure it on.\n"
            "  Give labelled data, for example `data='digits'`, or unlabelled inputs, `calibration='folder:PHOTOS'`"
        )
    needed = ceil(100 * LIKELY * sqrt(2) / spec.max_drop)
    if images < needed:
        more = f": of unlabelled inputs, here {given}, an eighth is held out to judge by" if given else ""
        raise DataError(
            f"max_drop is {spec.max_drop:g}: {number_of(images, 'image')} cannot tell so small a drop, it takes "
            f"{needed} or more.\n"
            f"  Allow a larger drop, or give more data{more}"
        )
