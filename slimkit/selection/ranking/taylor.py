"""Rank channels by what the loss would lose without them: Molchanov et al. 2019, arXiv:1906.10771."""

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.errors import SpecError
from slimkit.modules import evaluating
from slimkit.selection.ranking.context import Context
from slimkit.selection.ranking.group_norm import relative_to_group


def scores(model: nn.Module, graph: Graph, context: Context) -> Tensor:
    """Return, per unit, the mean over batches of (sum over its coupled weights of gradient x weight)^2; [U].

    The network runs in eval mode; its gradients and flags are left as found.

    Raises:
        SpecError: no batches were given.
    """
    if not context.batches:
        raise SpecError("ranking is 'taylor': it needs data.\n  Give labelled data, for example `data='digits'`")
    parameters = [(name, p) for name, p in model.named_parameters() if name in graph.by_tensor]
    flags = [p.requires_grad for _, p in parameters]
    device = next(model.parameters()).device
    total = torch.zeros(graph.units, dtype=torch.float64)
    try:
        for _, p in parameters:
            p.requires_grad_(True)
        with evaluating(model):
            for inputs, targets in context.batches:
                loss = context.loss(model, inputs, targets, device)
                gradients = torch.autograd.grad(loss, [p for _, p in parameters], allow_unused=True)
                total += _first_order(graph, parameters, gradients).square()
    finally:
        for (_, p), flag in zip(parameters, flags, strict=True):
            p.requires_grad_(flag)
    return relative_to_group((total / len(context.batches)).sqrt(), graph)


def _first_order(
    graph: Graph, parameters: list[tuple[str, nn.Parameter]], gradients: tuple[Tensor | None, ...]
) -> Tensor:
    """Return the first-order change of the loss if the unit's own weights went to zero, [U]."""
    change = torch.zeros(graph.units, dtype=torch.float64)
    for (name, p), gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        product = (p.detach().conj() * gradient).real.double()  # of complex weights too
        for axis in graph.by_tensor[name]:
            if axis.reads:
                continue
            others = [d for d in range(product.dim()) if d != axis.dim]
            by_index = (product.sum(dim=others) if others else product).cpu()
            inside = axis.unit_of >= 0
            change.index_add_(0, axis.unit_of[inside], by_index[inside])
    return change
