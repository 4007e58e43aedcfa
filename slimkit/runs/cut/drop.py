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
from slimkit.runs.cut.recover import Recovered
from slimkit.settings import CompressSpec

CutAndRecover = Callable[[CompressSpec], tuple[ChosenCut, Recovered]]
_SMALLEST, _LARGEST = 0.05, 0.95  # shares of the work that are looked between
_LOOKS, _RETRAININGS = 6, 4


@dataclass(frozen=True)
class Smallest:
    """The network that was found, and the part of the report on how."""

    cut: ChosenCut
    recovered: Recovered
    record: WithinDrop


def smallest(
    spec: CompressSpec, attempt: CutAndRecover, judge: Callable[[nn.Module], Drop], progress: Progress
) -> Smallest:
    """Return the smallest network whose drop stays within `spec.max_drop`, its margin included.

    First networks that are only reconstructed are halved in on, which is quick; where there is retraining, smaller
    ones than that are then retrained, at most four, and what passes is real: it was made and judged.

    Args:
        spec: the settings; `max_drop` in points of the metric, or in its unit.
        attempt: settings with a budget -> a network.
        judge: network -> what it loses, on images that nothing is trained on.
        progress: called with what is being done, and the share done.

    Raises:
        BudgetError: no smaller network keeps the drop; the message has the best.
    """
    limit = spec.max_drop
    assert limit is not None
    tried: list[Attempt] = []
    best: tuple[ChosenCut, Recovered, Drop] | None = None
    nearest: tuple[float, Drop] | None = None

    def passes(share: float, epochs: float) -> bool:
        nonlocal best, nearest
        try:
            cut, recovered = attempt(_asking(spec, share, epochs))
        except BudgetError:  # narrower than the widths allow
            return False
        found = judge(recovered.model)
        fits = found.value + found.margin <= limit
        tried.append(Attempt(share=share, epochs=epochs, drop=found.value, margin=found.margin, within=fits))
        if fits:
            best = cut, recovered, found
        elif nearest is None or found.value + found.margin < nearest[1].value + nearest[1].margin:
            nearest = share, found
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
    if best is None:
        said = "more than can be told"
        if nearest is not None:
            share, drop = nearest
            said = f"{drop.value:.2f}, and maybe {drop.margin:.2f} more, at {share:.2f} of the work"
        raise BudgetError(
            f"max_drop is {limit:g}: no smaller network that was tried keeps it; the best loses {said}.\n"
            "  Allow a larger drop, more `epochs`, or other widths, `round_to=1`"
        )
    cut, recovered, drop = best
    record = WithinDrop(
        max_drop=limit,
        minimise=spec.minimise,
        drop=drop.value,
        margin=drop.margin,
        images=drop.images,
        tried=tuple(tried),
    )
    return Smallest(cut, recovered, record)


def _asking(spec: CompressSpec, share: float, epochs: float) -> CompressSpec:
    """Return the settings of one attempt: latency and energy follow the multiply-adds, bytes the parameters."""
    budget = "max_params" if spec.minimise in ("params", "bytes") else "max_macs"
    one = {"max_drop": None, "minimise": CompressSpec.minimise}  # its budget is a share
    changes: dict[str, Any] = {**one, budget: share, "epochs": epochs}
    return replace(spec, **changes)
