"""Rank channels by the norm of everything coupled to them: DepGraph, Fang et al. 2023, arXiv:2301.12900."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.ranking.context import Context


def scores(model: nn.Module, graph: Graph, context: Context) -> Tensor:
    """Return, per unit, the root mean square weight over all coupled parameters, relative to its group; [U].

    Each tensor counts alike, whatever its size; dividing by the group's mean makes groups comparable.
    """
    return relative_to_group(per_unit(model, graph, lambda p: p.detach().square()).sqrt(), graph)


def per_unit(model: nn.Module, graph: Graph, value: Callable[[nn.Parameter], Tensor]) -> Tensor:
    """Return, per unit, the mean over its coupled tensors of the mean of `value` over the unit's slice; [U].

    `value` maps a parameter to a tensor of its shape.
    """
    total = torch.zeros(graph.units, dtype=torch.float64)
    tensors = torch.zeros(graph.units, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    for name, axes in graph.by_tensor.items():
        if name not in parameters or not parameters[name].is_floating_point():
            continue
        values = value(parameters[name]).double()
        for axis in axes:
            others = [d for d in range(values.dim()) if d != axis.dim]
            by_index = (values.mean(dim=others) if others else values).cpu()
            inside = axis.units >= 0
            own = axis.units[inside]
            sums = torch.zeros(graph.units, dtype=torch.float64).index_add_(0, own, by_index[inside])
            slices = torch.bincount(own, minlength=graph.units)
            total += sums / slices.clamp(min=1)
            tensors += slices > 0
    return (total / tensors).float()


def relative_to_group(values: Tensor, graph: Graph) -> Tensor:
    """Divide each value by the mean of its group, [U]."""
    relative = values.clone()
    for group in graph.groups:
        mean = values[group.units].mean()
        relative[group.units] = values[group.units] / mean if mean > 0 else 0.0
    return relative
