"""Rank channels by scores that were trained, not weights: edge-popup, Ramanujan et al. 2020, arXiv:1911.13299.

On channels of a trained network. On an untrained one it is no substitute for training: subnetworks of whole
channels are weaker than those of weights, Malach et al. 2020, arXiv:2002.00585.
"""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimkit.channels import Graph
from slimkit.dtypes import differentiable
from slimkit.errors import SpecError
from slimkit.selection.ranking.context import Context
from slimkit.selection.ranking.group_norm import relative_to_group, squares

KEEP = 0.5  # share of each group that a step computes with
STEPS = 40
_RATE, _MOMENTUM = 0.005, 0.9  # above 0.01 the scores forget the weights that they started from


def scores(model: nn.Module, graph: Graph, context: Context) -> Tensor:
    """Return, per unit, a score trained straight through the choice of the best half of each group; [U].

    Scores start at the norm of the unit's weights, relative to its group, and take `STEPS` steps of SGD over the
    batches; weights stay. A copy of the network runs in eval mode, its BatchNorms on the statistics of the batch,
    since those of half a network are others.

    Raises:
        SpecError: no batches were given.
    """
    if not context.batches:
        raise SpecError("ranking is 'popup': it needs data.\n  Give labelled data, for example `data='digits'`")
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    for module in twin.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    device = next(twin.parameters()).device
    makers = _makers(twin, graph, device)
    values = relative_to_group(squares(model, graph, readers_only=False), graph).sqrt().to(device).requires_grad_(True)
    optimizer = torch.optim.SGD([values], lr=_RATE, momentum=_MOMENTUM)
    for step in range(STEPS):
        mask = _straight_through(values, graph)
        tensors = {name: _masked(weight, axes, mask) for name, (weight, axes) in makers.items()}
        masked = partial(_called, twin, tensors)
        optimizer.zero_grad()
        context.loss(masked, *context.batches[step % len(context.batches)], device).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return relative_to_group(values.detach().abs().cpu(), graph)


def _called(model: nn.Module, tensors: dict[str, Tensor], *arguments: Any, **named: Any) -> Any:
    return torch.func.functional_call(model, tensors, arguments, named)


def _makers(model: nn.Module, graph: Graph, device: torch.device) -> dict[str, tuple[Tensor, list[tuple[int, Tensor]]]]:
    """Return the parameters that let units out, with (dimension, unit of each index, -1: none) of each axis.

    They are gamma and beta of a unit that a BatchNorm scales, so that what a unit left out would say still reaches
    its score; of other units the weights and biases that make it.
    """
    gammas = {name for group in graph.groups for name in group.norms}
    norms = gammas | {f"{name.removesuffix('weight')}bias" for name in gammas}
    scaled = torch.cat([graph.has_norm, torch.zeros(1, dtype=torch.bool)])
    found = {}
    for name, parameter in model.named_parameters():
        axes = []
        for axis in graph.by_tensor.get(name, ()):
            units = axis.unit_of if name in norms else torch.where(scaled[axis.unit_of], -1, axis.unit_of)
            if not axis.reads and bool((units >= 0).any()):
                axes.append((axis.dim, units.to(device)))
        if axes and differentiable(parameter):
            found[name] = (parameter.detach(), axes)
    return found


def _masked(weight: Tensor, axes: list[tuple[int, Tensor]], mask: Tensor) -> Tensor:
    for dim, units in axes:
        shape = [-1 if d == dim else 1 for d in range(weight.dim())]
        weight = weight * mask[units].view(shape)  # index -1 is the last entry: what must stay
    return weight


def _straight_through(values: Tensor, graph: Graph) -> Tensor:
    """Return [U + 1]: 1 for the best share of each group, else 0, with the gradient of |values|; then a 1."""
    sizes = values.abs()
    kept = torch.zeros_like(values)
    for group in graph.groups:
        members = group.members.to(values.device)
        best = sizes.detach()[members].topk(max(1, round(KEEP * len(members)))).indices
        kept[members[best]] = 1.0
    return torch.cat([kept + (sizes - sizes.detach()), kept.new_ones(1)])
