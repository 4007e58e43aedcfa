"""Learning rates as pure functions of (step, budget): a resumed, rewound or longer run needs nothing else.

A schedule gives the share of the base learning rate, in [0, 1], of step 0 <= step < budget.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]


def cosine(step: int, budget: int) -> float:
    """Fall from 1 to nearly 0 on half a cosine, Loshchilov & Hutter 2017, arXiv:1608.03983."""
    return 0.5 * (1 + math.cos(math.pi * step / max(1, budget)))


def milestones(step: int, budget: int) -> float:
    """Divide by 10 after half and after three quarters of the budget, as the slimming papers do."""
    return 0.1 ** ((2 * step >= budget) + (4 * step >= 3 * budget))


def warmed_up(schedule: Schedule, share: float) -> Schedule:
    """Let a schedule rise on a line over the first `share` of the budget, in [0, 1); its length stays."""

    def rising(step: int, budget: int) -> float:
        rise = share * budget
        return schedule(step, budget) * (min(1.0, (step + 1) / rise) if rise > 1 else 1.0)

    return rising


def total(schedule: Schedule, budget: int, first: int = 0, last: int | None = None) -> float:
    """Sum a schedule over steps first <= step < last (the whole budget unless given)."""
    return math.fsum(schedule(step, budget) for step in range(first, budget if last is None else last))


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "step": milestones}
