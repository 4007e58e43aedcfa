"""Rank channels by BatchNorm scale: Network Slimming, Liu et al. 2017, arXiv:1708.06519."""

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.modules import named_tensors
from slimkit.selection.ranking.context import Context


def scores(model: nn.Module, graph: Graph, context: Context) -> Tensor:
    """Return mean |gamma| of each unit over its BatchNorms, [U]; NaN for units without one.

    Departs from the paper: branches that are added together share one score, so that their channels can
    really be removed.
    """
    total = torch.zeros(graph.units, dtype=torch.float64)
    count = torch.zeros(graph.units, dtype=torch.float64)
    tensors = named_tensors(model)
    names = dict.fromkeys(name for group in graph.groups for name in group.norms)  # in one order in every process
    for name in names:
        for axis in graph.by_tensor.get(name, []):
            inside = axis.unit_of >= 0
            gamma = tensors[name].detach().abs().double().cpu()
            total.index_add_(0, axis.unit_of[inside], gamma[inside])
            count.index_add_(0, axis.unit_of[inside], torch.ones(int(inside.sum()), dtype=torch.float64))
    return (total / count).float()  # 0 / 0: no BatchNorm, NaN
