"""What a network costs at any widths: its graph joined with its cost table. G = groups of the graph."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from slimkit.channels import Graph
from slimkit.channels.graph import Work
from slimkit.measure.layer_table import LatencyTable, LayerTimes
from slimkit.selection.measured.knapsack import GroupCounts


@dataclass(frozen=True)
class Side:
    """The channels on one side of a layer: a number that stays, and multiples of the counts of groups."""

    stays: int
    groups: tuple[int, ...]
    times: tuple[float, ...]

    def at(self, counts: GroupCounts) -> int:
        """Return the number of channels."""
        return self.stays + round(sum(t * int(counts[g]) for g, t in zip(self.groups, self.times, strict=True)))

    def along(self, group: int, tried: GroupCounts, counts: GroupCounts) -> NDArray[np.float64]:
        """Return the number of channels at each of several counts of one group."""
        found = np.zeros(len(tried))
        for g, times in zip(self.groups, self.times, strict=True):
            found += times * (tried if g == group else counts[g])
        return np.rint(found) + self.stays


@dataclass(frozen=True)
class Costs:
    """Milliseconds of a network as a function of the units kept in each group.

    Attributes:
        rows: the layers that depend on some group, each with its inputs and outputs.
        touched: per group, the numbers of the layers that depend on it.
        activations: [G], output elements that go with one unit of each group.
        still: milliseconds that no mask changes.
        per_activation: milliseconds of an output element, for all that is no layer.
    """

    rows: tuple[tuple[LayerTimes, Side, Side], ...]
    touched: tuple[tuple[int, ...], ...]
    activations: NDArray[np.float64]
    still: float
    per_activation: float

    def layer(self, number: int, counts: GroupCounts) -> float:
        """Return milliseconds of one layer."""
        row, inputs, outputs = self.rows[number]
        return row.at(inputs.at(counts), outputs.at(counts))

    def total(self, counts: GroupCounts) -> float:
        """Return milliseconds of the network."""
        layers = sum(self.layer(number, counts) for number in range(len(self.rows)))
        return self.still + layers + self.per_activation * float(self.activations @ counts)

    def saved(self, group: int, after: GroupCounts, counts: GroupCounts) -> NDArray[np.float64]:
        """Return the milliseconds saved by each of several other counts of one group."""
        tried = np.append(counts[group], after)
        spent = np.zeros(len(tried))
        for row, *sides in (self.rows[number] for number in self.touched[group]):
            widths = (one.along(group, tried, counts).astype(int).tolist() for one in sides)
            spent += [row.at(inputs, outputs) for inputs, outputs in zip(*widths, strict=True)]
        spent += self.per_activation * float(self.activations[group]) * tried
        return np.asarray(spent[0] - spent[1:])

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """Per group, those that it shares a layer with: what they save depends on its count."""
        sharing: list[set[int]] = [set() for _ in self.touched]
        for _, inputs, outputs in self.rows:
            for group in {*inputs.groups, *outputs.groups}:
                sharing[group] |= {*inputs.groups, *outputs.groups} - {group}
        return tuple(tuple(sorted(groups)) for groups in sharing)


def join(graph: Graph, table: LatencyTable) -> Costs:
    """Join the layers of a table with the channels of a graph of the same network."""
    of_unit = group_of(graph)
    sizes = np.array([len(group.members) for group in graph.groups])
    rows: list[tuple[LayerTimes, Side, Side]] = []
    touched: list[list[int]] = [[] for _ in graph.groups]
    activations = np.zeros(len(graph.groups))
    stays = still = 0.0
    for row, work in _pairs(table, graph):
        if work is None:
            still += row.ms[-1][-1]
            stays += row.layer.outputs * row.layer.area
            continue
        outputs, inputs = (side(one, of_unit, sizes) for one in work.sides[:2])
        stays += outputs.stays * row.layer.area
        for group, times in zip(outputs.groups, outputs.times, strict=True):
            activations[group] += times * row.layer.area
        if not inputs.groups and not outputs.groups:
            still += row.ms[-1][-1]
            continue
        for group in {*inputs.groups, *outputs.groups}:
            touched[group].append(len(rows))
        rows.append((row, inputs, outputs))
    per_activation = table.varying_ms / max(stays + float(activations @ sizes), 1.0)
    return Costs(
        rows=tuple(rows),
        touched=tuple(map(tuple, touched)),
        activations=activations,
        still=still + table.fixed_ms + per_activation * stays,
        per_activation=per_activation,
    )


def _pairs(table: LatencyTable, graph: Graph) -> list[tuple[LayerTimes, Work | None]]:
    """Find each layer's channels: by the name of its weight, else by its place among layers of the same size."""
    named: defaultdict[str, list[Work]] = defaultdict(list)
    for work in graph.works:
        if work.weight is not None:
            named[work.weight].append(work)
    by_size: defaultdict[tuple[int, int], list[Work]] = defaultdict(list)
    names = {row.layer.weight for row in table.rows}
    for work in graph.works:
        if work.weight is not None and work.weight not in names:
            by_size[_size(work)].append(work)
    found: list[tuple[LayerTimes, Work | None]] = []
    for row in table.rows:
        size = (row.layer.outputs, row.layer.inputs)
        own = named.get(row.layer.weight)
        match: Work | None = None
        if own is not None:
            match = own[0] if _size(own[0]) == size else None
        elif by_size[size]:
            match = by_size[size].pop(0)
        found.append((row, match))
    return found


def _size(work: Work) -> tuple[int, int]:
    """Return the outputs and inputs of a weight."""
    outputs, inputs = work.sides[:2]
    return len(outputs), len(inputs)


def group_of(graph: Graph) -> NDArray[np.int64]:
    """Return the group of each unit, [U + 1]; the last entry is -1, for index -1."""
    found = np.full(graph.units + 1, -1)
    for number, group in enumerate(graph.groups):
        found[group.members.numpy()] = number
    return found


def side(units: Tensor, of_unit: NDArray[np.int64], sizes: NDArray[np.int64]) -> Side:
    """Return the channels along one dimension as a function of the counts; `units` [n], -1 where one must stay."""
    groups, counts = np.unique(of_unit[units.numpy()], return_counts=True)
    stays = int(counts[groups < 0].sum())
    counts, groups = counts[groups >= 0], groups[groups >= 0]
    return Side(stays, tuple(groups.tolist()), tuple((counts / sizes[groups]).tolist()))
