"""Whether there are enough images to tell a drop by."""

from collections.abc import Sequence
from math import ceil, floor, log10, sqrt

from slimkit.errors import DataError, SpecError
from slimkit.measure.quality import LIKELY, are_hits
from slimkit.quantity import number_of
from slimkit.results import Attempt
from slimkit.runs.cut.least import COUNTED
from slimkit.runs.cut.parts import APART, COMPARED
from slimkit.settings import CompressSpec
from slimkit.tasks.metric import BatchRows, Metric

_ALL = 100  # points
_POINTS = _ALL * LIKELY * sqrt(2)  # over the number of images: the least drop that can be told
_FEW = 32  # of fewer images a bootstrap says little
_PAIR = 2  # of one image there is no spread


def needed(max_drop: float, metric: Metric | None = None, rows: BatchRows | None = None) -> int:
    """Return how many images it takes at the least to tell a drop, as far as that is known before it is measured.

    Where images are right or wrong one of them is the least that two networks differ by. Of any other metric nobody
    knows beforehand how little what two networks make of the same image differs: that is judged by what is measured.

    Args:
        max_drop: in points, or in the metric's own unit.
        metric: None: inputs are counted that are of the same class.
        rows: what the metric gave of some images.

    Raises:
        SpecError: it is in points, and more than there are.
    """
    least, counted = ceil(_POINTS / max_drop), metric is None or (rows is not None and are_hits(rows))
    if max_drop > _ALL and (counted or (metric is not None and metric.unit == "share")):
        raise SpecError(f"max_drop is {max_drop:g}: it is in points here, and there are {_ALL}.\n  Give fewer")
    if metric is None or counted:
        return least
    drawn = metric.of_sum is not None or metric.of_all is not None
    return min(least, _FEW) if drawn else _PAIR


def check(spec: CompressSpec, images: int | None, least: int, given: int | None = None, *, alike: bool = False) -> None:
    """Check that a drop can be told at all.

    Args:
        spec: has the drop.
        images: to judge by; None: there are none.
        least: how many it takes, see `needed`.
        given: unlabelled inputs of which these are the part that is held out; None: they are labelled.
        alike: inputs resemble each other, so that both are numbers of groups of them.

    Raises:
        DataError: there is nothing to judge by, or too little for so small a drop.
    """
    assert spec.max_drop is not None
    if images is None:
        raise DataError(
            f"max_drop is {spec.max_drop:g}: there is nothing to measure it on.\n"
            "  Give labelled data, for example `data='digits'`, or unlabelled inputs, `calibration='folder:PHOTOS'`"
        )
    if images < least:
        what = "group" if alike else "image"
        said = f"{number_of(images, what)}{' of inputs that resemble each other' if alike else ''}"
        of, advice = "so small a drop", _advice(least, given, alike)
        if least == _PAIR:
            of, advice = "a drop", "Give more data"
        raise DataError(
            f"max_drop is {spec.max_drop:g}: {said} cannot tell {of}, it takes {least} or more.\n  {advice}"
        )


def amount(value: float, limit: float, unit: str) -> str:
    """Return a drop in words, as fine as the limit that it is held against asks for."""
    return f"{value:.{_digits(limit)}f}{f' {unit}' if unit else ''}"


def _digits(limit: float) -> int:
    return max(2, 1 - floor(log10(limit)))


def short(
    spec: CompressSpec,
    tried: Sequence[Attempt],
    unit: str,
    images: int,
    given: int | None = None,
    *,
    alike: bool = False,
) -> str:
    """Say which smaller network only its margin has kept from being taken, and what would tell more; "" of none.

    A margin falls with the root of the number of images. Where ten times as many would be needed, what is lost is as
    good as what may be. The arguments are those of `check`, what was tried, and the unit of the drop.
    """
    limit = spec.max_drop
    assert limit is not None
    taken = min((one.share for one in tried if one.within), default=1.0)
    close = [one for one in tried if one.share < taken and one.margin and one.margin < sqrt(10) * (limit - one.drop)]
    if not close:
        return ""
    best = min(close, key=lambda one: one.share)
    margin, fine = best.margin or 0.0, 10 ** _digits(limit)
    needed = _rounded_up(images * (margin / (limit - best.drop)) ** 2)
    work = "parameters" if COUNTED.get(spec.minimise, spec.minimise) == "params" else "multiply-adds"
    kind = "validation images" if given is None else "groups of inputs held out" if alike else "inputs held out"
    return (
        f"A network of {best.share:.2f} of the {work} loses {amount(best.drop, limit, unit)}, of {limit:g} that may be "
        f"lost, and was not taken: {images:,} {kind} can tell that to {amount(margin, limit, '')} only. About "
        f"{needed:,} would do: "
        f"allow `max_drop={ceil(fine * (best.drop + margin)) / fine:g}`, or {_more(needed, given, alike)}."
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
