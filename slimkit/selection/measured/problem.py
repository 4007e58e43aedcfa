"""Widths and importance of every group, and the masks that follow from counts. G = groups, U = units."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimkit.channels import Graph
from slimkit.selection.budget import Blocks
from slimkit.selection.measured import knapsack
from slimkit.selection.measured.cost import Costs
from slimkit.selection.measured.knapsack import Choice, GroupCounts

Aim = Literal["importance", "losses", "even"]

_LEAST = 1e-3  # of the mean score: what a unit counts for at least
_SHARES = 1024  # that all groups alike may keep


class Problem:
    """A network whose time is to be brought within a limit, at the least loss of importance.

    What a group loses is `E s log(S / left)`: S the sum of its scores, `left` that of the units it keeps, s its
    mean score, E the multiply-adds of the layers that it is part of, once for each side. As long as little goes,
    that is score x multiply-adds, so a channel goes early where its milliseconds buy few multiply-adds: where all
    are equally fast the order is that of the scores. The logarithm makes a group dearer the emptier it is; with
    equal scores on a machine where time is multiply-adds, all groups narrow by the same share: the proportions
    that the network was designed with. Scores that are `losses` (`recovery.elimination`) need none of this: a group
    loses the sum of those of the units that go. And `even` looks at none but to choose within a group: every group
    keeps the same share, as near as its allowed counts are.
    """

    def __init__(self, graph: Graph, scores: Tensor, found: Blocks, costs: Costs, aim: Aim = "importance") -> None:
        """Take the removable blocks of a graph, their scores [U], and what widths cost."""
        self.costs, self.aim = costs, aim
        self.graph = graph
        self.full: GroupCounts = np.array([len(group.members) for group in graph.groups])
        self._order: list[Tensor] = [group.members[:0] for group in graph.groups]  # what goes first, first
        steps: list[list[int]] = [[] for _ in graph.groups]
        for block, place in enumerate(found.groups):
            self._order[place] = torch.cat([self._order[place], found.of(block)])
            steps[place].append(found.size(block))
        scores = scores.double() - min(float(scores.min()), 0.0)
        scores = scores.clamp(min=max(float(scores.mean()) * _LEAST, 1e-30))
        self.choices = []
        efforts = _efforts(graph)
        for number, group in enumerate(graph.groups):
            total = float(scores[group.members].sum())
            weight = efforts[number] * total / len(group.members)
            gone = scores[self._order[number]].cumsum(0).tolist()
            ends = np.cumsum(steps[number], dtype=int).tolist()
            left = [max(total - gone[end - 1], 1e-12 * total) for end in ends]
            losses = [weight * float(np.log(total / rest)) for rest in left]
            if aim == "losses":
                losses = [gone[end - 1] for end in ends]
            counts = (len(group.members), *(len(group.members) - end for end in ends))
            self.choices.append(Choice(counts, (0.0, *losses)))

    @cached_property
    def original(self) -> float:
        """Milliseconds of the whole network, by the table."""
        return self.costs.total(self.full)

    @cached_property
    def least(self) -> GroupCounts:
        """The counts, [G], below which nothing more is saved."""
        return self.solve(0.0)[0]

    def solve(self, share: float) -> tuple[GroupCounts, float]:
        """Return counts [G] for a share of the original time, and the share that they take by the table."""
        limit = share * self.original
        if self.aim == "even":
            return self._even(limit)
        counts, now = knapsack.solve(
            self.choices, self.costs.saved, self.full, self.original, limit, self.costs.neighbours
        )
        return counts, now / self.original

    def _even(self, limit: float) -> tuple[GroupCounts, float]:
        """Return the counts of the largest share of every group that is within a time, else of the smallest."""

        def counts(share: float) -> GroupCounts:
            near = (min(c.counts, key=lambda n: abs(n - share * c.counts[0])) for c in self.choices)
            return np.array(list(near))

        low, high = 0, _SHARES
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.costs.total(counts(middle / _SHARES)) <= limit
            low, high = (middle, high) if fits else (low, middle)
        found = counts(low / _SHARES)
        return found, self.costs.total(found) / self.original

    def keep(self, counts: GroupCounts) -> Tensor:
        """Return which units stay, bool [U]: of every group those that go last."""
        keep = torch.ones(self.graph.units, dtype=torch.bool)
        for order, count, full in zip(self._order, counts.tolist(), self.full.tolist(), strict=True):
            keep[order[: full - count]] = False
        return keep

    def loss(self, counts: GroupCounts) -> tuple[float, float]:
        """Return the importance lost, and about the least that counts as fast lose, savings as at these."""
        losses = (c.losses[c.counts.index(n)] for c, n in zip(self.choices, counts.tolist(), strict=True))
        now = self.costs.total(counts)
        return float(sum(losses)), float(knapsack.estimate(self.choices, self.costs.saved, counts, now, now))

    def holders(self, counts: GroupCounts) -> list[str]:
        """Return the names of the groups whose layers take the longest, the longest first."""
        held = [
            (sum(self.costs.layer(number, counts) for number in touched), group.name)
            for touched, group in zip(self.costs.touched, self.graph.groups, strict=True)
        ]
        return [name for _, name in sorted(held, key=lambda item: -item[0])]


def _efforts(graph: Graph) -> NDArray[np.float64]:
    """Return, per group, the share of the multiply-adds that goes with it, and at least a little; [G]."""
    per_unit = torch.zeros(graph.units + 1, dtype=torch.float64)  # the last is for index -1
    for work in graph.works:
        for side in work.sides:
            per_unit += torch.bincount(side % (graph.units + 1), minlength=graph.units + 1) * (work.whole / len(side))
    found = np.array([float(per_unit[group.members].sum()) for group in graph.groups])
    share: NDArray[np.float64] = found / max(found.sum(), 1e-30)
    return np.maximum(share, _LEAST / max(len(share), 1))
