"""Which settings would allow more, where widths keep a budget out of reach."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import Field, replace
from typing import Any, ClassVar, Protocol, TypeVar


class Allowed(Protocol):
    """What `slimkit.selection.budget.Widths` says of the counts that groups may keep."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def step(self) -> int:
        """Counts are multiples of it."""

    @property
    def adapt(self) -> bool:
        """The step may be less."""

    @property
    def cap(self) -> float:
        """Largest share of a group that may be removed."""


Counts = TypeVar("Counts", bound=Allowed)
_LARGEST = 0.98  # cap that is offered


def hint(widths: Counts, reaches: Callable[[Counts], bool] | None = None, less: int = 1) -> str:
    """Say which settings would allow more, after "Raise the budget".

    Args:
        widths: those that do not reach it.
        reaches: tells whether others do; where nobody can tell, the largest cap is said.
        less: the step to try.
    """
    finer = [replace(widths, step=less)] if widths.step > 1 and not widths.adapt else []  # else they were tried
    step = f"`round_to={less}`"
    if reaches is None:
        ways = ["`cap=0.98`"] * (widths.cap < _LARGEST) + [step] * len(finer)
        return f", or allow more: {', '.join(ways)}" if ways else ""
    ways = [f"`cap={cap:g}`"] if (cap := _least_cap(widths, reaches)) else []
    ways += [step for one in finer if reaches(one)]
    if not ways:  # alone; together they may
        ways = [f"`cap={cap:g}` with {step}" for one in finer if (cap := _least_cap(one, reaches))]
    return f", or allow more: {' or '.join(ways)}" if ways else ""


def _least_cap(widths: Counts, reaches: Callable[[Counts], bool]) -> float | None:
    """Return the least cap, in hundredths, with which these widths reach a budget; None where none does."""
    caps = [part / 100 for part in range(math.floor(100 * widths.cap + 1e-9) + 1, round(100 * _LARGEST) + 1)]
    place = bisect_left(caps, True, key=lambda cap: reaches(replace(widths, cap=cap)))
    return caps[place] if place < len(caps) else None
