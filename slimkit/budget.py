"""Scores and a budget to a mask.

Within a group channels go from the lowest score up, in blocks that leave a width the engine likes; the
blocks of all groups compete by their mean score. U = units of the graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from slimkit.channels import Graph, Group
from slimkit.errors import BudgetError, MaskError
from slimkit.mask import Mask


@dataclass(frozen=True)
class Widths:
    """Which counts of channels a group may keep.

    Attributes:
        step: counts are multiples of it, and at least it.
        adapt: a group narrower than two steps uses half of it, a quarter, ...; otherwise it stays whole.
        cap: largest share of a group that may be removed, in (0, 1).
    """

    step: int = 1
    adapt: bool = True
    cap: float = 0.9

    def of(self, group: Group) -> list[int]:
        """Return the counts that a group may keep, from all of its channels down."""
        n, step = len(group.units), self.step
        while self.adapt and step > 1 and n < 2 * step:
            step //= 2
        least = max(step, ceil(n * (1 - self.cap) - 1e-9), 1)
        start = (n - 1) // step * step
        return [n, *(count for count in range(start, 0, -step) if count >= least)]


@dataclass(frozen=True)
class Block:
    """Units of one group that are removed together, after the blocks before it, to reach an allowed width."""

    group: int
    units: Tensor
    cost: float


def fill_unranked(scores: Tensor, fallback: Tensor) -> Tensor:
    """Give units that a criterion cannot rank (NaN) a score: the same quantile that `fallback` puts them at.

    So they lose the same share as the others, whatever the two scales are. All [U].
    """
    unknown = scores.isnan()
    if not bool(unknown.any()):
        return scores
    known = scores[~unknown].sort().values
    order = fallback[unknown].argsort(stable=True)
    place = torch.empty(len(order))
    place[order] = (torch.arange(len(order)) + 0.5) / len(order)
    filled = scores.clone()
    if len(known):
        index = (place * len(known)).long().clamp(max=len(known) - 1)
        filled[unknown] = known[index]
    else:
        filled[unknown] = place
    return filled


def by_scope(graph: Graph, scores: Tensor, scope: str) -> Tensor:
    """Replace scores by quantiles within the pool in which channels compete; [U].

    Scopes: `global` (one pool: scores stay), `group` (each group its own pool), `isomorphic` (groups built
    alike, Fang et al. 2024, arXiv:2407.04616: the same kinds of tensors with the same dimensions).
    """
    if scope == "global":
        return scores
    pools: dict[object, list[Tensor]] = {}
    shape = _signature(graph) if scope == "isomorphic" else {}
    for number, group in enumerate(graph.groups):
        pools.setdefault(shape.get(group.name, number), []).append(group.units)
    result = scores.clone()
    for members in pools.values():
        units = torch.cat(members)
        order = scores[units].argsort(stable=True)
        quantile = torch.empty(len(units))
        quantile[order] = (torch.arange(len(units)) + 0.5) / len(units)
        result[units] = quantile
    return result


def _signature(graph: Graph) -> dict[str, object]:
    """Return, per group name, what the group is built of: dimensions and kinds of the tensors it indexes."""
    group_of = torch.full((graph.units,), -1)
    for number, group in enumerate(graph.groups):
        group_of[group.units] = number
    parts: list[list[tuple[int, int, bool, tuple[int, ...]]]] = [[] for _ in graph.groups]
    for axis in graph.axes:
        shape = graph.shapes.get(axis.tensor, (0,))
        for number in set(group_of[axis.units[axis.units >= 0]].tolist()):
            parts[number].append((axis.dim, len(shape), axis.reads, shape[2:]))
    return {g.name: tuple(sorted(p)) for g, p in zip(graph.groups, parts, strict=True)}


def blocks(graph: Graph, scores: Tensor, widths: Widths, fixed: Tensor | None = None) -> list[Block]:
    """Return every block that may be removed, the cheapest first; those of one group stay in order.

    Args:
        graph: U units in groups.
        scores: [U], finite; ties are cut by index.
        widths: which counts are allowed.
        fixed: bool [U], units that must stay although they could be removed.
    """
    found: list[tuple[float, float, Block]] = []
    for number, group in enumerate(graph.groups):
        if fixed is not None and bool(fixed[group.units].any()):
            continue
        own = scores[group.units]
        order = group.units[own.argsort(stable=True)]
        allowed = widths.of(group)
        highest = float("-inf")
        for before, after in zip(allowed, allowed[1:], strict=False):
            units = order[len(group.units) - before : len(group.units) - after]
            highest = max(highest, float(scores[units].double().mean()))
            found.append((highest, 1 - after / len(group.units), Block(number, units, highest)))
    found.sort(key=lambda entry: entry[:2])  # where all scores tie, every group loses the same share
    return [block for _, _, block in found]


def mask_of(graph: Graph, removed: list[Block]) -> Mask:
    """Return the mask that lacks the units of some blocks."""
    keep = torch.ones(graph.units, dtype=torch.bool)
    for block in removed:
        keep[block.units] = False
    return Mask(keep)


def to_ratio(graph: Graph, scores: Tensor, ratio: float, widths: Widths, fixed: Tensor | None = None) -> Mask:
    """Remove a share of the removable units: exactly, or to the nearest allowed widths.

    Args:
        ratio: share in [0, 1) of the units that are not `fixed`.

    Raises:
        MaskError: nothing can be removed, or nothing was.
        BudgetError: cap and widths do not allow that much; the message has the largest ratio they do.
    """
    candidates = blocks(graph, scores, widths, fixed)
    removable = graph.units - (int(fixed.sum()) if fixed is not None else 0)
    if not candidates:
        raise MaskError(_nothing(graph, widths))
    goal = round(ratio * removable)
    taken: list[Block] = []
    removed = 0
    for place, block in enumerate(candidates):
        size = len(block.units)
        if removed + size - goal > goal - removed:  # it would overshoot by more than is missing now
            _top_up(taken, candidates[place:], goal - removed)
            break
        taken.append(block)
        removed += size
    removed = sum(len(block.units) for block in taken)
    slack = sum(widths.step for _ in graph.groups) / 2
    if goal - removed > slack:
        raise BudgetError(
            f"ratio is {ratio:g}: with at most {widths.cap:.0%} of a group removed and counts in steps of "
            f"{widths.step}, {removed / removable:.3f} is the most that can be removed.\n"
            "  Lower the ratio, or raise --set cap, or set --set round_to=1"
        )
    if ratio > 0 and not taken:
        raise MaskError(
            f"ratio is {ratio:g}: nothing would be removed, since the smallest step takes "
            f"{min(len(b.units) for b in candidates)} of {removable} channels.\n"
            "  Raise the ratio, or set --set round_to=1"
        )
    return mask_of(graph, taken)


def _top_up(taken: list[Block], candidates: list[Block], missing: int) -> None:
    """Add the next blocks in rank that still fit, each after those of its group that come before it."""
    closed: set[int] = set()
    for block in candidates:
        if missing <= 0:
            return
        if block.group not in closed and len(block.units) <= missing:
            taken.append(block)
            missing -= len(block.units)
        else:
            closed.add(block.group)


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

    Args:
        measure: keep [U] -> cost of the network; never grows when units are removed.
        limit: largest cost allowed, in the measure's unit.
        what: name of the measure, for messages.

    Raises:
        BudgetError: no mask reaches the limit; the message has the lowest value and the groups that hold it.
    """
    candidates = blocks(graph, scores, widths, fixed)
    if not candidates:
        raise MaskError(_nothing(graph, widths))
    low, high = 0, len(candidates)
    if measure(mask_of(graph, candidates).keep) > limit:
        raise BudgetError(_out_of_reach(graph, candidates, measure, limit, what))
    while low < high:
        middle = (low + high) // 2
        if measure(mask_of(graph, candidates[:middle]).keep) <= limit:
            high = middle
        else:
            low = middle + 1
    taken = candidates[:low]
    closed: set[int] = set()
    for block in reversed(taken[:]):  # the dearest first; only the last block of a group can come back
        if block.group in closed:
            continue
        fewer = [b for b in taken if b is not block]
        if measure(mask_of(graph, fewer).keep) <= limit:
            taken = fewer
        else:
            closed.add(block.group)
    return mask_of(graph, taken)


def _out_of_reach(
    graph: Graph, candidates: list[Block], measure: Callable[[Tensor], float], limit: float, what: str
) -> str:
    least = mask_of(graph, candidates)
    best = measure(least.keep)
    held: list[tuple[float, str]] = []
    for group in graph.groups:
        without = least.keep.clone()
        without[group.units] = False
        held.append((best - measure(without), group.name))
    worst = ", ".join(name for _, name in sorted(held, reverse=True)[:3])
    return (
        f"max_{what} is {limit:.4g}: the smallest that the allowed widths reach is {best:.4g}; "
        f"most of it is held by {worst}.\n"
        "  Raise the budget, or allow more: --set cap=0.98, --set round_to=1"
    )


def _nothing(graph: Graph, widths: Widths) -> str:
    reasons: dict[str, int] = {}
    for kept in graph.kept:
        reasons[kept.reason] = reasons.get(kept.reason, 0) + kept.channels
    why = "; ".join(f"{n} channels: {r}" for r, n in sorted(reasons.items(), key=lambda i: -i[1])[:3])
    if graph.units:
        why = f"every group is narrower than two steps of {widths.step} channels, or was kept on request"
    return (
        "nothing can be removed from this network" + (f" ({why})" if why else "") + ".\n"
        "  See what holds each layer with: slimkit inspect CHECKPOINT"
    )
