"""Rank channels by scores that were trained, not weights: edge-popup, Ramanujan et al. 2020, arXiv:1911.13299.

On channels of a trained network. On an untrained one it is no substitute for training: subnetworks of whole
channels are weaker than those of weights, Malach et al. 2020, arXiv:2002.00585.
"""

from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimkit.channels import Graph
from slimkit.dtypes import differentiable
from slimkit.errors import SpecError
from slimkit.modules import copied
from slimkit.selection.ranking.context import Context
from slimkit.selection.ranking.group_norm import relative_to_group, squares
from slimkit.selection.unread import read_only_by, readers, straight_through, unread

KEEP = 0.5  # share of each group that a step computes with
STEPS = 40
_RATE, _MOMENTUM = 0.005, 0.9  # above 0.01 the scores forget the weights that they started from


def scores(model: nn.Module, graph: Graph, context: Context) -> Tensor:
    """Return, per unit, a score trained straight through the choice of the best half of each group; [U].

    Scores start at the norm of the unit's weights, relative to its group, and take `STEPS` steps of SGD over the
    batches; weights stay. What reads a unit that is left out has zeros there, see `slimkit.selection.unread`; units
    that no weight reads keep the score that they start with. A copy of the network runs in eval mode, its BatchNorms
    on the statistics of the batch, since those of half a network are others.

    Raises:
        SpecError: no batches were given.
    """
    if not context.batches:
        raise SpecError("ranking is 'popup': it needs data.\n  Give labelled data, for example `data='digits'`")
    twin = copied(model).eval().requires_grad_(False)
    for module in twin.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    device = next(twin.parameters()).device
    tensors = {n: t for n, t in chain(twin.named_parameters(), twin.named_buffers()) if differentiable(t)}
    reading = {name: axes for name, axes in readers(graph).items() if name in tensors}
    groups = read_only_by(graph, reading)
    values = relative_to_group(squares(model, graph, readers_only=False), graph).sqrt().to(device).requires_grad_(True)
    optimizer = torch.optim.SGD([values], lr=_RATE, momentum=_MOMENTUM)
    for step in range(STEPS if groups else 0):
        mask = straight_through(values, groups, KEEP)
        masked = {name: unread(tensors[name], axes, mask) for name, axes in reading.items()}
        optimizer.zero_grad()
        context.loss(partial(_called, twin, masked), *context.batches[step % len(context.batches)], device).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return relative_to_group(values.detach().abs().cpu(), graph)


def _called(model: nn.Module, tensors: dict[str, Tensor], *arguments: Any, **named: Any) -> Any:
    return torch.func.functional_call(model, tensors, arguments, named)
