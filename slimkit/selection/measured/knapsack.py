"""Widths for a time: what is lost per millisecond that is saved, lowest first. G = groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

_FAR = 64  # widths ahead that are looked at: a single step may save nothing

GroupCounts = NDArray[np.int64]  # [G], units kept in each group
Saved = Callable[[int, GroupCounts, GroupCounts], NDArray[np.float64]]  # (group, counts after, now) -> ms of each


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
    choices: Sequence[Choice],
    saved: Saved,
    counts: GroupCounts,
    now: float,
    limit: float,
    neighbours: Sequence[Sequence[int]] = (),
) -> tuple[GroupCounts, float]:
    """Narrow groups until the network takes no longer than a limit; then widen again what still fits.

    Greedy: of all groups and widths the one that loses least per millisecond saved goes next. As milliseconds
    depend on the neighbours' widths too, a ratio is computed again before it is used. Of products, narrowing only makes
    what is left to save smaller, so that no ratio falls and that is enough; of tables it may make it larger, as where
    a kernel is fast at few widths alone, so that `neighbours` are looked at again after each step.

    Args:
        choices: [G], the widths of each group.
        saved: milliseconds saved by other counts of one group, negative when it grows.
        counts: [G], units kept now; not changed.
        now: milliseconds at `counts`.
        limit: milliseconds to reach.
        neighbours: [G], of each group those of which a width may save more once it is narrower; () where none does.

    Returns:
        Counts, and the milliseconds they take; above the limit where no widths reach it.
    """
    counts = counts.copy()
    place = [choice.counts.index(int(count)) for choice, count in zip(choices, counts, strict=True)]

    def best(group: int) -> tuple[float, int, int]:
        """Return loss per millisecond, group and width of the group's best next width."""
        choice, here = choices[group], place[group]
        ahead = slice(here + 1, here + 1 + _FAR)
        gains = saved(group, np.array(choice.counts[ahead], dtype=np.int64), counts)
        if not (gains > 0).any():
            return np.inf, group, -1
        more = np.array(choice.losses[ahead]) - choice.losses[here]
        ratios = np.divide(more, gains, out=np.full(len(gains), np.inf), where=gains > 0)
        least = int(ratios.argmin())
        return float(ratios[least]), group, here + 1 + least

    newest = [best(group) for group in range(len(choices))]
    heap = [entry for entry in newest if entry[2] >= 0]
    heapify(heap)

    def look_again(group: int) -> None:
        entry = best(group)
        if entry != newest[group]:
            newest[group] = entry
            if entry[2] >= 0:
                heappush(heap, entry)

    def one(group: int, there: int) -> float:
        """Return what a single width saves."""
        return float(saved(group, np.array([choices[group].counts[there]]), counts)[0])

    trail: list[int] = []
    while heap and now > limit:
        entry = heappop(heap)
        group, there = entry[1:]
        if entry != newest[group]:  # another has taken its place
            continue
        again = best(group)
        if again != entry:
            newest[group] = again
            if again[2] >= 0:
                heappush(heap, again)
            continue
        now -= one(group, there)
        trail.append(group)
        place[group], counts[group] = there, choices[group].counts[there]
        for other in (group, *(neighbours[group] if neighbours else ())):
            look_again(other)
    for group in reversed(trail):
        while place[group] > 0 and now - one(group, place[group] - 1) <= limit:
            now -= one(group, place[group] - 1)
            place[group] -= 1
            counts[group] = choices[group].counts[place[group]]
    return counts, now


def estimate(choices: Sequence[Choice], saved: Saved, counts: GroupCounts, now: float, limit: float) -> float:
    """Return about the least loss of widths within the limit: a bound if every group saved what it does at `counts`.

    It is none, as what a group saves depends on its neighbours. The Lagrangian dual: for any price of a millisecond,
    every group at its own best width and the price of what is missing bound the loss from below; the best price is
    found by halving.
    """
    gains = [saved(group, np.array(choice.counts), counts) for group, choice in enumerate(choices)]
    losses = [np.array(choice.losses) for choice in choices]

    def dual(price: float) -> float:
        least = sum(float((loss - price * gain).min()) for loss, gain in zip(losses, gains, strict=True))
        return least + price * (now - limit)

    low, high = -30.0, 30.0  # of the price's exponent; the dual is concave
    for _ in range(80):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (a, high) if dual(np.exp(a)) < dual(np.exp(b)) else (low, b)
    return max(dual(float(np.exp((low + high) / 2))), 0.0)
