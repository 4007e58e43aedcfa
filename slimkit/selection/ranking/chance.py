"""Rank channels by chance: the control that every criterion has to beat."""

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.selection.ranking.context import Context


def scores(model: nn.Module, graph: Graph, context: Context) -> Tensor:
    """Return uniform random numbers from the context's seed, [U]."""
    return torch.rand(graph.units, generator=torch.Generator().manual_seed(context.seed))
