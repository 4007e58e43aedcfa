"""Widths for a time: what is lost per millisecond that is saved, lowest first. G = groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

_FAR = 64  # widths ahead that are looked at: a single step may save nothing

GroupCounts = NDArray[np.int64]  # [G], units kept in each group
Saved = Callable[[int, int, GroupCounts], float]  # (group, count after, counts now) -> milliseconds


@dataclass(frozen=True)
class Choice:
    """The widths of one group.

    Attributes:
        counts: units that may be kept, all of them first.
        losses: what is lost with each, rising from 0.
    """

    counts: tuple[int, ...]
    losses: tuple[float, ...]


def solve(
    choices: Sequence[Choice], saved: Saved, counts: GroupCounts, now: float, limit: float
) -> tuple[GroupCounts, float]:
    """Narrow groups until the network takes no longer than a limit; then widen again what still fits.

    Greedy: of all groups and widths the one that loses least per millisecond saved goes next. As milliseconds
    depend on the neighbours' widths too, a ratio is computed again before it is used; narrowing only makes
    what is left to save smaller, so no ratio falls and the order is exact.

    Args:
        choices: [G], the widths of each group.
        saved: milliseconds saved by another count of one group, negative when it grows.
        counts: [G], units kept now; not changed.
        now: milliseconds at `counts`.
        limit: milliseconds to reach.

    Returns:
        Counts, and the milliseconds they take; above the limit where no widths reach it.
    """
    counts = counts.copy()
    place = [choice.counts.index(int(count)) for choice, count in zip(choices, counts, strict=True)]

    def best(group: int) -> tuple[float, int, int]:
        """Return loss per millisecond, group and width of the group's best next width."""
        choice, here = choices[group], place[group]
        found = (np.inf, group, -1)
        for there in range(here + 1, min(here + 1 + _FAR, len(choice.counts))):
            gain = saved(group, choice.counts[there], counts)
            if gain > 0:
                ratio = (choice.losses[there] - choice.losses[here]) / gain
                if ratio < found[0]:
                    found = (ratio, group, there)
        return found

    heap = [entry for entry in map(best, range(len(choices))) if entry[2] >= 0]
    heapify(heap)
    trail: list[tuple[int, int, int]] = []
    while heap and now > limit:
        entry = best(heappop(heap)[1])
        if entry[2] < 0:
            continue
        if heap and entry > heap[0]:
            heappush(heap, entry)
            continue
        _, group, there = entry
        now -= saved(group, choices[group].counts[there], counts)
        trail.append((group, place[group], there))
        place[group], counts[group] = there, choices[group].counts[there]
        following = best(group)
        if following[2] >= 0:
            heappush(heap, following)
    for group, _, _ in reversed(trail):
        while place[group] > 0:
            wider = choices[group].counts[place[group] - 1]
            if now - saved(group, wider, counts) > limit:
                break
            now -= saved(group, wider, counts)
            place[group], counts[group] = place[group] - 1, wider
    return counts, now


def bound(choices: Sequence[Choice], saved: Saved, counts: GroupCounts, now: float, limit: float) -> float:
    """Return a loss that no widths within the limit can be below, with each group's savings as at `counts`.

    The Lagrangian dual: for any price of a millisecond, every group at its own best width and the price of
    what is missing bound the loss from below; the best price is found by halving.
    """
    gains = [np.array([saved(group, count, counts) for count in choice.counts]) for group, choice in enumerate(choices)]
    losses = [np.array(choice.losses) for choice in choices]

    def dual(price: float) -> float:
        least = sum(float((loss - price * gain).min()) for loss, gain in zip(losses, gains, strict=True))
        return least + price * (now - limit)

    low, high = -30.0, 30.0  # of the price's exponent; the dual is concave
    for _ in range(80):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (a, high) if dual(np.exp(a)) < dual(np.exp(b)) else (low, b)
    return max(dual(float(np.exp((low + high) / 2))), 0.0)
