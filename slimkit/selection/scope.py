"""Which channels compete with which, and what scores mean between them. U = units of the graph."""

import torch
from torch import Tensor

from slimkit.channels import Graph
from slimkit.errors import SpecError

SCOPES = ("global", "isomorphic", "group")


def fill_unranked(scores: Tensor, fallback: Tensor) -> Tensor:
    """Give units that a criterion cannot rank (NaN) a score: the same quantile that `fallback` puts them at.

    So they lose the same share as the others, whatever the two scales are. All [U].
    """
    unknown = scores.isnan()
    if not bool(unknown.any()):
        return scores
    known = scores[~unknown].sort().values
    order = fallback[unknown].argsort(stable=True)
    place = torch.empty_like(scores[unknown])
    place[order] = (torch.arange(len(order)) + 0.5).to(place) / len(order)
    filled = scores.clone()
    if len(known):
        index = (place * len(known)).long().clamp(max=len(known) - 1)
        filled[unknown] = known[index]
    else:
        filled[unknown] = place
    return filled


def pools(graph: Graph, scope: str) -> list[Tensor]:
    """Return the units, int64 [n], that compete with one another, pool by pool.

    Scopes: `global` (one pool), `group` (each group its own), `isomorphic` (groups built alike, Fang et al. 2024,
    arXiv:2407.04616: the same kinds of tensors with the same dimensions).

    Raises:
        SpecError: the scope is unknown.
    """
    if scope not in SCOPES:
        raise SpecError(f"scope is {scope!r}: it must be one of {', '.join(SCOPES)}.")
    found: dict[object, list[Tensor]] = {}
    shape = _signature(graph) if scope == "isomorphic" else {}
    for number, group in enumerate(graph.groups):
        found.setdefault(0 if scope == "global" else shape.get(group.name, number), []).append(group.members)
    return [torch.cat(members) for members in found.values()]


def by_scope(graph: Graph, scores: Tensor, scope: str) -> Tensor:
    """Replace scores by quantiles within the pool in which channels compete, see `pools`; [U].

    Where all compete (`global`) scores stay.
    """
    if scope == "global":
        return scores
    result = scores.clone()
    for units in pools(graph, scope):
        order = scores[units].argsort(stable=True)
        quantile = torch.empty_like(scores[units])
        quantile[order] = (torch.arange(len(units)) + 0.5).to(quantile) / len(units)
        result[units] = quantile
    return result


def _signature(graph: Graph) -> dict[str, object]:
    """Return, per group name, what the group is built of: dimensions and kinds of the tensors it indexes."""
    group_of = torch.full((graph.units,), -1)
    for number, group in enumerate(graph.groups):
        group_of[group.members] = number
    parts: list[list[tuple[int, int, bool, tuple[int, ...]]]] = [[] for _ in graph.groups]
    for axis in graph.axes:
        shape = graph.shapes.get(axis.tensor, (0,))
        for number in set(group_of[axis.unit_of[axis.unit_of >= 0]].tolist()):
            parts[number].append((axis.dim, len(shape), axis.reads, shape[2:]))
    return {g.name: tuple(sorted(p)) for g, p in zip(graph.groups, parts, strict=True)}
