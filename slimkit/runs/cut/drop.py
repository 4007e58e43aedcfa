"""The budget people mean: the smallest network that loses at most so much of its accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from torch import nn

from slimkit.errors import BudgetError
from slimkit.measure.quality import Drop
from slimkit.progress import Progress
from slimkit.results import Attempt, WithinDrop
from slimkit.runs.cut.choose import ChosenCut
from slimkit.runs.cut.least import COUNTED, Contenders
from slimkit.runs.cut.recover import Recovered
from slimkit.settings import CompressSpec

CutAndRecover = Callable[[CompressSpec], tuple[ChosenCut, Recovered]]
Compare = Callable[[Sequence[nn.Module]], Contenders]
_SMALLEST, _LARGEST = 0.05, 0.95  # shares of the work that are looked between
_LOOKS, _RETRAININGS = 6, 4


@dataclass(frozen=True)
class Smallest:
    """The network that was found, and the part of the report on how."""

    cut: ChosenCut
    recovered: Recovered
    record: WithinDrop


@dataclass(frozen=True)
class _Tried:
    """A network that was made and judged."""

    entry: Attempt
    cut: ChosenCut
    recovered: Recovered
    images: int


def smallest(
    spec: CompressSpec,
    attempt: CutAndRecover,
    judge: Callable[[nn.Module], Drop],
    compare: Compare,
    short: Callable[[Sequence[Attempt]], str],
    progress: Progress,
) -> Smallest:
    """Return the smallest network whose drop stays within `spec.max_drop`, its margin included.

    First networks that are only reconstructed are halved in on, which is quick; where there is retraining, smaller
    ones than that are then retrained, at most four. Of all that pass the least is taken, by what `spec.minimise` names:
    work that is looked between is no measure of time, where widths are in finer steps the smaller the network. If that
    one was not retrained, it is now, and the better of the two is delivered. What passes is real: it was made and
    judged.

    Args:
        spec: the settings; `max_drop` in points of the metric, or in its unit.
        attempt: settings with a budget -> a network.
        judge: network -> what it loses, on images that nothing is trained on.
        compare: networks -> what `minimise` names of each.
        short: what was tried -> which smaller network only its margin has kept from being taken, or "".
        progress: called with what is being done, and the share done.

    Raises:
        BudgetError: no smaller network keeps the drop; the message has the best.
    """
    limit = spec.max_drop
    assert limit is not None
    tried: list[Attempt] = []
    passed: list[_Tried] = []

    def passes(share: float, epochs: float) -> bool:
        try:
            cut, recovered = attempt(_asking(spec, share, epochs))
        except BudgetError:  # narrower than the widths allow
            return False
        found = judge(recovered.model)
        fits = found.value + found.margin <= limit
        tried.append(Attempt(share=share, epochs=epochs, drop=found.value, margin=found.margin, within=fits))
        if fits:
            passed.append(_Tried(tried[-1], cut, recovered, found.images))
        return fits

    def narrowed(low: float, high: float, epochs: float, steps: Sequence[tuple[str, float | None]]) -> float:
        """Return the smallest share between two that passed in so many steps, `high` where none did."""
        for said, done in steps:
            middle = sqrt(low * high)
            progress(said, done)
            low, high = (low, middle) if passes(min(middle, _LARGEST), epochs) else (middle, high)
        return high

    said = f"looking for the smallest network within {limit:g}"
    high = narrowed(_SMALLEST, 1.0, 0, [(said, look / _LOOKS) for look in range(_LOOKS)])
    if spec.epochs:
        numbers = range(1, _RETRAININGS + 1)
        steps = [(f"retraining a smaller one, {number} of at most {_RETRAININGS}", None) for number in numbers]
        narrowed(max(_SMALLEST, high / 4), high, spec.epochs, steps)
    if not passed:
        but_for_margin = short(tried)
        raise BudgetError(
            f"max_drop is {limit:g}: no smaller network that was tried keeps it; the best loses {_nearest(tried)}.\n"
            "  Allow a larger drop, more `epochs`, or other widths, `round_to=1`"
            + (f".\n  {but_for_margin}" if but_for_margin else "")
        )
    progress("comparing the networks that keep it", None)
    compared = compare([one.recovered.model for one in passed])
    best, figure = passed[compared.least], compared.figures[compared.least]
    if spec.epochs and not best.entry.epochs:
        progress("retraining the one that was chosen", None)
        if passes(best.entry.share, spec.epochs) and passed[-1].entry.drop <= best.entry.drop:
            best = passed[-1]
    record = WithinDrop(
        max_drop=limit,
        minimise=spec.minimise,
        by=compared.by,
        figure=figure,
        drop=best.entry.drop,
        margin=best.entry.margin,
        images=best.images,
        tried=tuple(tried),
    )
    return Smallest(best.cut, best.recovered, record)


def _nearest(tried: Sequence[Attempt]) -> str:
    """Say what the network loses that loses least."""
    if not tried:
        return "more than can be told"
    best = min(tried, key=lambda one: one.drop + (one.margin or 0.0))
    return f"{best.drop:.2f}, and maybe {best.margin:.2f} more, at {best.share:.2f} of the work"


def _asking(spec: CompressSpec, share: float, epochs: float) -> CompressSpec:
    """Return the settings of one attempt: what has to be measured is looked for by what is counted."""
    one = {"max_drop": None, "minimise": CompressSpec.minimise}  # its budget is a share
    changes: dict[str, Any] = {**one, f"max_{COUNTED.get(spec.minimise, spec.minimise)}": share, "epochs": epochs}
    return replace(spec, **changes)
