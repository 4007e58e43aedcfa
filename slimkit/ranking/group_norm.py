"""Rank channels by the norm of everything coupled to them: DepGraph, Fang et al. 2023, arXiv:2301.12900."""

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.ranking.context import Context


def scores(model: nn.Module, graph: Graph, context: Context) -> Tensor:
    """Return, per unit, the sum of squares of all weights coupled to it, over the mean of its group; [U].

    Filters that make the unit, gammas that scale it, weights that read it; no biases: a channel that is always
    off has a large one. Sums, not means, so that a filter counts for more than its gamma: with all tensors
    counting alike a ResNet-20 halved in every layer kept 65 % of its accuracy instead of 85 %.
    """
    total = torch.zeros(graph.units, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    for name, axes in graph.by_tensor.items():
        parameter = parameters.get(name)
        if parameter is None or not parameter.is_floating_point() or name.rpartition(".")[2] == "bias":
            continue
        squares = parameter.detach().double().square()
        for axis in axes:
            others = [d for d in range(squares.dim()) if d != axis.dim]
            by_index = (squares.sum(dim=others) if others else squares).cpu()
            inside = axis.units >= 0
            total.index_add_(0, axis.units[inside], by_index[inside])
    return relative_to_group(total.float(), graph)


def relative_to_group(values: Tensor, graph: Graph) -> Tensor:
    """Divide each value by the mean of its group, [U]."""
    relative = values.clone()
    for group in graph.groups:
        mean = values[group.units].mean()
        relative[group.units] = values[group.units] / mean if mean > 0 else 0.0
    return relative
