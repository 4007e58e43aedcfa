"""The budget people mean: the smallest network that loses at most so much of its accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, Literal

from torch import nn

from slimkit.errors import BudgetError
from slimkit.measure.quality import Drop
from slimkit.progress import Progress
from slimkit.results import Attempt, WithinDrop
from slimkit.runs.cut import enough
from slimkit.runs.cut.choose import ChosenCut
from slimkit.runs.cut.least import COUNTED, Contenders
from slimkit.runs.cut.recover import Recovered
from slimkit.settings import CompressSpec

How = Literal["quick", "care", "trained"]  # cut and fitted in a hurry; with all care; so, and retrained
CutAndRecover = Callable[[CompressSpec, How], tuple[ChosenCut, Recovered]]
Compare = Callable[[Sequence[nn.Module]], Contenders]
_SMALLEST, _LARGEST = 0.05, 0.95  # shares of the work that are looked between
_QUICK, _LOOKS, _RETRAININGS = 5, 3, 4  # networks that are made: in a hurry, with all care, and retrained
_HARMED = "The network of {:.2f} of the work lost more when it was retrained: it is delivered as it was before."
_CARE, _TRAINED = 1.4, 4.0  # times smaller that a network may get for the same drop by care, or by retraining


@dataclass(frozen=True)
class Smallest:
    """The network that was found, the part of the report on how, and what the user should know."""

    cut: ChosenCut
    recovered: Recovered
    record: WithinDrop
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Tried:
    """A network that was made and judged."""

    entry: Attempt
    cut: ChosenCut
    recovered: Recovered
    images: int
    how: How


def smallest(
    spec: CompressSpec,
    attempt: CutAndRecover,
    judge: Callable[[nn.Module], Drop],
    compare: Compare,
    short: Callable[[Sequence[Attempt], str], str],
    retrains: bool,
    progress: Progress,
) -> Smallest:
    """Return the smallest network whose drop stays within `spec.max_drop`, its margin included.

    First networks that are made in a hurry are halved in on; then, from there on, smaller ones that are retrained, at
    most four, or where there is no retraining such as are cut and reconstructed with all care. Of all that pass the
    least is taken, by what `spec.minimise` names: work that is looked between is no measure of time, where widths are
    in finer steps the smaller the network. If that one was made in a hurry, it is made with care now, and the better of
    the two is delivered. What passes is real: it was made and judged.

    Args:
        spec: the settings; `max_drop` in points of the metric, or in its unit.
        attempt: (settings with a budget, how it is made) -> a network.
        judge: network -> what it loses, on images that nothing is trained on.
        compare: networks -> what `minimise` names of each.
        short: (what was tried, unit of a drop) -> which smaller network only its margin has kept from being taken, or
            "".
        retrains: networks can be retrained.
        progress: called with what is being done, and the share done.

    Raises:
        BudgetError: no smaller network keeps the drop; the message has the best.
    """
    limit = spec.max_drop
    assert limit is not None
    tried: list[Attempt] = []
    passed: list[_Tried] = []
    unit = ""

    def passes(share: float, how: How) -> bool:
        nonlocal unit
        epochs = spec.epochs if how == "trained" else 0
        try:
            cut, recovered = attempt(_asking(spec, share, epochs), how)
        except BudgetError:  # narrower than the widths allow
            return False
        found = judge(recovered.model)
        unit = found.unit
        fits = found.value + found.margin <= limit
        tried.append(Attempt(share=share, epochs=epochs, drop=found.value, margin=found.margin, within=fits))
        if fits:
            passed.append(_Tried(tried[-1], cut, recovered, found.images, how))
        return fits

    def narrowed(low: float, high: float, how: How, steps: Sequence[tuple[str, float | None]]) -> tuple[float, float]:
        """Return two shares nearer to each other, in so many steps: of the lower none has passed, the higher has."""
        low = max(low, _SMALLEST)
        for said, done in steps:
            middle = sqrt(low * high)
            progress(said, done)
            low, high = (low, middle) if passes(min(middle, _LARGEST), how) else (middle, high)
        return low, high

    said, looks = f"looking for the smallest network within {limit:g}", _QUICK + (0 if retrains else _LOOKS)
    steps: list[tuple[str, float | None]] = [(said, look / looks) for look in range(looks)]
    low, high = narrowed(_SMALLEST, 1.0, "quick", steps[:_QUICK])
    if retrains:
        numbers = range(1, _RETRAININGS + 1)
        steps = [(f"retraining a smaller one, {number} of at most {_RETRAININGS}", None) for number in numbers]
        narrowed(high / _TRAINED, high, "trained", steps)
    else:
        narrowed(low / _CARE, high, "care", steps[_QUICK:])
    if not passed:
        but_for_margin = short(tried, unit)
        best_of = _nearest(tried, limit, unit)
        raise BudgetError(
            f"max_drop is {limit:g}: no smaller network that was tried keeps it; the best loses {best_of}.\n"
            "  Allow a larger drop, more `epochs`, or other widths, `round_to=1`"
            + (f".\n  {but_for_margin}" if but_for_margin else "")
        )
    progress("comparing the networks that keep it", None)
    compared = compare([one.recovered.model for one in passed])
    best, figure = passed[compared.least], compared.figures[compared.least]
    again: tuple[How, ...] = ("trained", "care") if retrains else ("care",)
    for how in again if best.how == "quick" else ():
        progress("retraining the one that was chosen" if how == "trained" else "making the one that was chosen", None)
        if passes(best.entry.share, how) and passed[-1].entry.drop <= best.entry.drop:
            best = passed[-1]
            figure = compare([best.recovered.model]).figures[0]  # its widths may be others
            break
    harmed = retrains and best.how != "trained"
    record = WithinDrop(
        max_drop=limit,
        minimise=spec.minimise,
        by=compared.by,
        figure=figure,
        drop=best.entry.drop,
        margin=best.entry.margin,
        unit=unit,
        images=best.images,
        tried=tuple(tried),
    )
    return Smallest(best.cut, best.recovered, record, (_HARMED.format(best.entry.share),) if harmed else ())


def _nearest(tried: Sequence[Attempt], limit: float, unit: str) -> str:
    """Say what the network loses that loses least."""
    if not tried:
        return "more than can be told"
    best = min(tried, key=lambda one: one.drop + (one.margin or 0.0))
    lost, more = (enough.amount(one or 0.0, limit, unit) for one in (best.drop, best.margin))
    return f"{lost}, and maybe {more} more, at {best.share:.2f} of the work"


def _asking(spec: CompressSpec, share: float, epochs: float) -> CompressSpec:
    """Return the settings of one attempt: what has to be measured is looked for by what is counted."""
    one = {"max_drop": None, "minimise": CompressSpec.minimise}  # its budget is a share
    changes: dict[str, Any] = {**one, f"max_{COUNTED.get(spec.minimise, spec.minimise)}": share, "epochs": epochs}
    return replace(spec, **changes)
