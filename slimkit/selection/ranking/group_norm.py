"""Rank channels by the norm of everything coupled to them: DepGraph, Fang et al. 2023, arXiv:2301.12900."""

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.dtypes import differentiable
from slimkit.errors import MaskError
from slimkit.selection.ranking.context import Context


def scores(model: nn.Module, graph: Graph, context: Context) -> Tensor:
    """Return, per unit, the sum of squares of all weights coupled to it, over the mean of its group; [U].

    Filters that make the unit, gammas that scale it, weights that read it; no biases: a channel that is always
    off has a large one. Sums, not means, so that a filter counts for more than its gamma: with all tensors
    counting alike a ResNet-20 halved in every layer kept 65 % of its accuracy instead of 85 %.
    """
    return relative_to_group(squares(model, graph, readers_only=False), graph)


def squares(model: nn.Module, graph: Graph, readers_only: bool) -> Tensor:
    """Return, per unit, the sum of squares of the weights coupled to it, or of those that read it; float64 [U]."""
    total = torch.zeros(graph.units, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    for name, axes in graph.by_tensor.items():
        parameter = parameters.get(name)
        if parameter is None or not differentiable(parameter) or name.rpartition(".")[2] == "bias":
            continue
        for axis in axes:
            if readers_only and not axis.reads:
                continue
            others = [d for d in range(parameter.dim()) if d != axis.dim]
            values = parameter.detach().abs().double().square()
            by_index = (values.sum(dim=others) if others else values).cpu()
            inside = axis.unit_of >= 0
            total.index_add_(0, axis.unit_of[inside], by_index[inside])
    return total


def relative_to_group(values: Tensor, graph: Graph) -> Tensor:
    """Divide each value by the mean of its group, float32 [U].

    Raises:
        MaskError: values of a group are not finite.
    """
    relative = values.clone()
    for group in graph.groups:
        mean = values[group.members].mean()
        if not bool(mean.isfinite()):
            raise MaskError(
                f"what channels of {group.name!r} matter is not finite: a weight is not, or a gradient, as of the root "
                "of 0.\n  See to the weights; where it is a gradient, rank by what needs none: `ranking='group-norm'`"
            )
        relative[group.members] = values[group.members] / mean if mean > 0 else 0.0
    return relative.float()
