"""Scores and a budget to a mask.

Within a group channels go from the lowest score up, in blocks that leave a width the engine likes; the
blocks of all groups compete by their mean score. U = units of the graph.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, gcd
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from slimkit.channels import Graph, Group
from slimkit.errors import BudgetError, MaskError, OutOfReachError, SpecError
from slimkit.quantity import number_of, share
from slimkit.selection.hint import hint
from slimkit.selection.mask import Mask

Tried = TypeVar("Tried")

_NEAR, _TRIES = 0.9, 8  # of a limit: where less is left, others are tried, so often
_NARROW = 0.1  # share of channels in narrow groups from which a network itself is narrow


@dataclass(frozen=True)
class Widths:
    """Which counts of channels a group may keep.

    Engines compute channels in blocks of `step`: a count between two multiples takes as long as the next
    one, and a grouped convolution leaves the fast kernel (ONNX Runtime on AVX-512: 8 channels a convolution
    group take as long as 16, and 24 longer than 32). So counts are multiples of the step, and groups that
    have no smaller multiple stay whole. A step that was asked for counts the channels of every layer that makes or
    reads them: all convolution groups together, but each part of a layer that is taken apart (gates, pixels to
    shuffle), where another one reads parts alone. One that an engine likes (`adapt`) counts those of each convolution
    group, and has two exceptions, which use half the step, a quarter, ...: units tied across convolution groups
    narrower than a step, so on the slow kernel anyway; and networks so narrow that little could be removed.

    Attributes:
        step: counts are multiples of it, and at least it.
        adapt: the step is what an engine likes, not one that was asked for.
        cap: largest share of a group that may be removed, in (0, 1).

    Raises:
        SpecError: a number is out of range.
    """

    step: int = 1
    adapt: bool = True
    cap: float = 0.9

    def __post_init__(self) -> None:
        if not (isinstance(self.step, int) and self.step >= 1 and 0 < self.cap < 1):
            raise SpecError(
                f"widths have the step {self.step!r} and the cap {self.cap!r}: a step is a whole number of 1 or more, "
                "a cap lies in (0, 1).\n  Give Widths(step=8, cap=0.9)"
            )

    def fitted(self, graph: Graph) -> "Widths":
        """Return these widths with the largest step that a network is not too narrow for."""
        plain = [len(group.members) for group in graph.groups if group.per_unit == 1]
        step = self.step
        while self.adapt and step > 1 and sum(n for n in plain if n < 2 * step) > _NARROW * sum(plain):
            step //= 2
        return replace(self, step=step)

    def finer(self, graph: Graph) -> "Widths | None":
        """Return these widths with half of the step that they have for a network; None where it was asked for, or 1."""
        step = self.fitted(graph).step
        return replace(self, step=step // 2) if self.adapt and step > 1 else None

    def of_step(self, group: Group) -> int:
        """Return the step of one group's counts of units."""
        step = self.step if self.adapt else self.step // gcd(self.step, group.common)
        if self.adapt and group.per_unit > 1 and len(group.members) < step:
            while step > 1 and len(group.members) < 2 * step:
                step //= 2
        return step

    def of(self, group: Group) -> list[int]:
        """Return the counts that a group may keep, from all of its channels down."""
        n, step = len(group.members), self.of_step(group)
        least = ceil(n * (1 - self.cap) - 1e-9)
        start = (n - 1) // step * step
        return [n, *(count for count in range(start, 0, -step) if count >= least)]


def within_reach(graph: Graph, widths: Widths, attempt: Callable[[Widths], Tried]) -> Tried:
    """Return what an attempt gives for the widths; for the next finer ones that reach the budget, where they do not.

    That an engine likes a step is no reason to refuse what was asked for; a step that was asked for is.

    Args:
        attempt: widths -> what was wanted.

    Raises:
        OutOfReachError, MaskError: of the finest that are allowed; of those that came nearest, where that was measured:
            more channels can be faster, if an engine likes their number.
    """
    nearest = math.inf
    nearest_error: OutOfReachError | None = None
    while True:
        try:
            return attempt(widths)
        except (OutOfReachError, MaskError) as error:  # too little, or nothing, may go
            if isinstance(error, OutOfReachError) and error.reached < nearest:
                nearest, nearest_error = error.reached, error
            finer = widths.finer(graph)
            if finer is None:
                raise nearest_error or error from None
            widths = finer


@dataclass(frozen=True)
class Blocks:
    """Blocks of units that may be removed, the cheapest first; those of one group stay in order.

    Attributes:
        groups: [B], the group of each block.
        costs: [B], the mean score of each.
        ends: [B + 1], where each block ends in `units`, after a first 0.
        units: [sum of sizes], the units of all blocks.
    """

    groups: list[int]
    costs: list[float]
    ends: list[int]
    units: Tensor

    def size(self, block: int) -> int:
        """Return the number of units in a block."""
        return self.ends[block + 1] - self.ends[block]

    def of(self, block: int) -> Tensor:
        """Return the units of a block."""
        return self.units[self.ends[block] : self.ends[block + 1]]

    def before(self, block: int) -> "Blocks":
        """Return these without a block, and without those of its group that come after it."""
        own = self.groups[block]
        left = [n for n, group in enumerate(self.groups) if group != own or n < block]
        return Blocks(
            groups=[self.groups[n] for n in left],
            costs=[self.costs[n] for n in left],
            ends=[0, *accumulate(map(self.size, left))],
            units=torch.cat([self.units[:0], *map(self.of, left)]),
        )


def blocks(graph: Graph, scores: Tensor, widths: Widths, fixed: Tensor | None = None) -> Blocks:
    """Return every block that may be removed.

    Args:
        graph: U units in groups.
        scores: [U], finite; ties are cut by index.
        widths: which counts are allowed.
        fixed: bool [U], units that must stay though they could be removed; the rest of their group stays too.

    Raises:
        MaskError: scores or `fixed` are not of this kind.
    """
    check_of(graph, scores, fixed)
    widths = widths.fitted(graph)
    units: list[Tensor] = []
    costs: list[Tensor] = []
    groups: list[int] = []
    sizes: list[int] = []
    shares: list[float] = []
    for number, group in enumerate(graph.groups):
        if fixed is not None and bool(fixed[group.members].any()):
            continue
        allowed = widths.of(group)
        steps = [before - after for before, after in zip(allowed, allowed[1:], strict=False)]
        if not steps:
            continue
        own, place = scores[group.members].sort(stable=True)
        units.append(group.members[place[: sum(steps)]])
        means = torch.segment_reduce(own[: sum(steps)].double(), "mean", lengths=torch.tensor(steps))
        costs.append(means.float())  # single precision: means of equal scores are equal, however many
        groups += [number] * len(steps)
        sizes += steps
        shares += [1 - after / allowed[0] for after in allowed[1:]]
    if not units:
        return Blocks([], [], [0], torch.zeros(0, dtype=torch.long))
    cost = torch.cat(costs).numpy()
    order = np.lexsort((np.array(shares), cost))  # where all scores tie, every group loses the same share
    size = np.array(sizes)
    start = (size.cumsum() - size)[order]
    size = size[order]
    ends = np.concatenate([[0], size.cumsum()])
    place_in_all = np.arange(ends[-1]) + np.repeat(start - ends[:-1], size)
    return Blocks(
        groups=np.array(groups)[order].tolist(),
        costs=cost[order].tolist(),
        ends=ends.tolist(),
        units=torch.cat(units)[torch.from_numpy(place_in_all)],
    )


def check_of(graph: Graph, scores: object, fixed: object) -> None:
    """Refuse scores, or units that must stay, that are not of a graph: a `MaskError`."""
    whole = (graph.units,)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != whole or not bool(scores.isfinite().all()):
        raise MaskError(
            f"scores are {_kind(scores)}: it takes [{graph.units}], one finite score a unit.\n"
            "  Make them from this graph: slimkit.selection.ranking.rank"
        )
    if fixed is not None and (not isinstance(fixed, Tensor) or fixed.dtype != torch.bool or fixed.shape != whole):
        raise MaskError(
            f"fixed is {_kind(fixed)}: it takes bool [{graph.units}], true where a unit must stay.\n"
            "  Make it from this graph: slimkit.selection.choose.fixed_units"
        )


def _kind(given: object) -> str:
    if not isinstance(given, Tensor):
        return type(given).__name__
    holes = "" if bool(given.isfinite().all()) else ", and hold what is no number"
    return f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)}{holes}"


def without(graph: Graph, units: Tensor) -> Tensor:
    """Return `keep`, bool [U], that lacks some units."""
    return torch.ones(graph.units, dtype=torch.bool).index_fill_(0, units, False)


def to_ratio(graph: Graph, scores: Tensor, ratio: float, widths: Widths, fixed: Tensor | None = None) -> Mask:
    """Remove a share of the removable units: exactly, or to the nearest allowed widths.

    Args:
        ratio: share in [0, 1) of the units that are not `fixed`.

    Raises:
        MaskError: nothing can be removed, or nothing was.
        OutOfReachError: cap and widths do not allow that much; the message has the largest ratio they do.
    """
    widths = widths.fitted(graph)
    found = blocks(graph, scores, widths, fixed)
    if not found.groups:
        raise MaskError(nothing(graph, widths))
    removable = graph.units - (int(fixed.sum()) if fixed is not None else 0)
    goal = round(ratio * removable)
    last = bisect_right(found.ends, goal) - 1  # blocks that fit
    if last < len(found.groups) and goal:
        over, under = found.ends[last + 1] - goal, goal - found.ends[last]
        last += over < under or (last == 0 and over == under)  # nearer; something has to go
    taken, removed = [found.units[: found.ends[last]]], found.ends[last]
    for block in range(last, len(found.groups)):  # make up with the next in rank that still fit: if one
        if removed + found.size(block) <= goal:  # does not, the later ones of its group, as large, don't either
            taken.append(found.of(block))
            removed += found.size(block)

    def short(reached: int, other: Widths) -> bool:
        return goal - reached > sum(other.of_step(group) // 2 for group in graph.groups)

    if short(removed, widths):
        more = hint(widths, lambda other: not short(blocks(graph, scores, other, fixed).ends[-1], other))
        steps = f" and counts in steps of {widths.step}" if widths.step > 1 else ""
        raise OutOfReachError(
            f"ratio is {ratio:g}: with at most {widths.cap:.0%} of a group removed{steps}, {removed / removable:.3f} "
            f"is the most that can be removed.\n  Lower the ratio{more}"
        )
    if ratio > 0 and not removed:
        raise MaskError(
            f"ratio is {ratio:g}: nothing would be removed, since the smallest step takes "
            f"{min(map(found.size, range(len(found.groups))))} of {number_of(removable, 'channel')}.\n"
            "  Raise the ratio, or set `round_to=1`"
        )
    return Mask(without(graph, torch.cat(taken)))


def to_limit(
    graph: Graph,
    scores: Tensor,
    measure: Callable[[Tensor], float],
    limit: float,
    widths: Widths,
    what: str,
    fixed: Tensor | None = None,
) -> Mask:
    """Remove the cheapest blocks until a measure of the network is within a limit; put back what still fits.

    Where that leaves much less, another choice is taken that comes nearer: if what it removes scores less in sum; or,
    where one block was of tied channels, as a head is, if none scores more than all of them would.

    Args:
        measure: keep [U] -> cost of the network; never grows when units are removed.
        limit: largest cost allowed, in the measure's unit.
        what: name of the measure, for messages.

    Raises:
        BudgetError: the network is within the limit as it is.
        OutOfReachError: no mask reaches the limit; the message has the lowest value and the groups that hold it.
    """
    found = blocks(graph, scores, widths, fixed)
    if not found.groups:
        raise MaskError(nothing(graph, widths))
    original = measure(Mask.full(graph).keep)
    if original <= limit:
        raise BudgetError(
            f"max_{what} is {amount(limit, what)}: the network already needs no more than "
            f"{amount(original, what)}, so nothing would be removed.\n  Lower the budget"
        )
    least = without(graph, found.units)
    if measure(least) > limit:
        more = hint(widths, lambda other: measure(without(graph, blocks(graph, scores, other, fixed).units)) <= limit)
        raise OutOfReachError(out_of_reach(graph, least, measure, limit, what) + more)
    keep, last = _cheapest(graph, found, measure, limit)
    reached, lost, dearest = measure(keep), scores[~keep].double().sum(), math.inf
    for _ in range(_TRIES):
        if reached >= _NEAR * limit:
            break
        channels = found.size(last) * graph.groups[found.groups[last]].per_unit
        tied = channels > widths.fitted(graph).step
        dearest = min(dearest, channels * found.costs[last] if tied else -math.inf)
        found = found.before(last)
        if measure(without(graph, found.units)) > limit:
            break
        other, last = _cheapest(graph, found, measure, limit)
        if measure(other) > reached and (found.costs[last] <= dearest or scores[~other].double().sum() < lost):
            keep, reached = other, measure(other)
    return Mask(keep)


def _cheapest(graph: Graph, found: Blocks, measure: Callable[[Tensor], float], limit: float) -> tuple[Tensor, int]:
    """Return `keep`, bool [U], for a limit that all blocks reach, and the last block that had to go."""
    low, high = 0, len(found.groups)
    while low < high:
        middle = (low + high) // 2
        if measure(without(graph, found.units[: found.ends[middle]])) <= limit:
            high = middle
        else:
            low = middle + 1
    keep = without(graph, found.units[: found.ends[low]])
    closed: set[int] = set()
    for block in range(low - 1, -1, -1):  # put back what fits, the dearest first
        if found.groups[block] in closed:
            continue
        keep[found.of(block)] = True
        if measure(keep) > limit:
            keep[found.of(block)] = False
            closed.add(found.groups[block])
    return keep, low - 1


def out_of_reach(graph: Graph, least: Tensor, measure: Callable[[Tensor], float], limit: float, what: str) -> str:
    """Say that no mask reaches a limit: the smallest value, that of `least`, and what holds it."""
    best, original = measure(least), measure(Mask.full(graph).keep)
    return (
        f"max_{what} is {amount(limit, what)} ({share(limit / original)} of the original): the smallest that "
        f"the allowed widths reach is {amount(best, what)} ({share(best / original)}); "
        f"most of it is held by {_holders(graph, least, measure)}.\n"
        "  Raise the budget"
    )


def _holders(graph: Graph, least: Tensor, measure: Callable[[Tensor], float]) -> str:
    """Name the groups that hold most of what is measured, or the layers that must stay and why, where they do."""
    best, stays = measure(least), measure(torch.zeros_like(least))
    whole = sorted((kept for kept in graph.kept if not kept.output), key=lambda kept: -kept.channels)
    if 2 * stays > best and whole:
        return "what must stay: " + ", ".join(f"{kept.layer} ({kept.reason})" for kept in whole[:3])

    def held(group: Group) -> float:
        return best - measure(least.index_fill(0, group.members, False))

    return ", ".join(group.name for group in sorted(graph.groups, key=held, reverse=True)[:3])


def amount(value: float, what: str) -> str:
    """Return a value with its unit as a person writes it: 1.81G, 2.5 ms, 30 mJ."""
    if what in ("latency", "energy"):
        return f"{value:.4g} {'ms' if what == 'latency' else 'mJ'}"
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.4g}{letter}{'B' if what == 'bytes' else ''}"
    return f"{value:.4g}"


def nothing(graph: Graph, widths: Widths) -> str:
    """Say that nothing can be removed, and why."""
    reasons: dict[str, int] = {}
    for kept in graph.kept:
        reasons[kept.reason] = reasons.get(kept.reason, 0) + kept.channels
    why = "; ".join(f"{n} channels: {r}" for r, n in sorted(reasons.items(), key=lambda i: -i[1])[:3])
    if graph.units:
        fits = f" that is a multiple of {widths.step}" if widths.step > 1 else ""
        why = (
            f"no group has a smaller count{fits}, or those that have are kept on request, or did not run or compute "
            "the same without"
        )
    return (
        "nothing can be removed from this network" + (f" ({why})" if why else "") + ".\n"
        "  See what holds each layer with: slimkit inspect CHECKPOINT"
    )
