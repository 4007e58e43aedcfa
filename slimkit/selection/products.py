"""Multiply-adds and parameters as a function of the widths: sums of products of counts. G = groups of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from slimkit.channels import Graph
from slimkit.selection.measured.cost import Side, group_of, side
from slimkit.selection.measured.knapsack import GroupCounts


@dataclass(frozen=True)
class Products:
    """A cost that is a sum of products.

    Attributes:
        terms: a factor, and the channels along each dimension that can shrink.
        touched: per group, the numbers of the terms that depend on it.
        still: what no mask changes.
    """

    terms: tuple[tuple[float, tuple[Side, ...]], ...]
    touched: tuple[tuple[int, ...], ...]
    still: float

    def total(self, counts: GroupCounts) -> float:
        """Return the cost of the network."""
        return self.still + sum(self._term(number, counts) for number in range(len(self.terms)))

    def saved(self, group: int, after: GroupCounts, counts: GroupCounts) -> NDArray[np.float64]:
        """Return what each of several other counts of one group saves."""
        tried = np.append(counts[group], after)
        spent = np.zeros(len(tried))
        for factor, sides in (self.terms[number] for number in self.touched[group]):
            spent += factor * np.prod([one.along(group, tried, counts) for one in sides], axis=0)
        return np.asarray(spent[0] - spent[1:])

    def _term(self, number: int, counts: GroupCounts) -> float:
        factor, sides = self.terms[number]
        return factor * prod(one.at(counts) for one in sides)


def macs(graph: Graph) -> Products:
    """Return the multiply-adds of one image."""
    return _products(graph, [(work.each, list(work.sides)) for work in graph.works])


def params(graph: Graph) -> Products:
    """Return the number of parameters."""
    terms: list[tuple[float, list[Tensor]]] = []
    for name, shape in graph.shapes.items():
        axes = {axis.dim: axis.unit_of for axis in graph.by_tensor.get(name, [])}
        fixed = prod(size for dim, size in enumerate(shape) if dim not in axes)
        terms.append((float(fixed), list(axes.values())))
    return _products(graph, terms)


def _products(graph: Graph, terms: list[tuple[float, list[Tensor]]]) -> Products:
    of_unit = group_of(graph)
    sizes = np.array([len(group.members) for group in graph.groups])
    made = [(factor, tuple(side(units, of_unit, sizes) for units in rows)) for factor, rows in terms]
    vary = [term for term in made if any(one.groups for one in term[1])]
    touched: list[list[int]] = [[] for _ in graph.groups]
    for number, (_, sides) in enumerate(vary):
        for group in {g for one in sides for g in one.groups}:
            touched[group].append(number)
    still = sum(factor * prod(one.stays for one in sides) for factor, sides in made if (factor, sides) not in vary)
    return Products(tuple(vary), tuple(map(tuple, touched)), still)
