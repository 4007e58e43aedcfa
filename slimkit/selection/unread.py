"""A choice of channels that can be trained: what reads a channel that is left out does not, all else stays.

Ramanujan et al. 2020, arXiv:1911.13299, let the gradient of a weight's score be what the loss gains from the weight,
chosen or not. Of a channel it must be what the loss gains from its being read. A mask on what makes a channel cannot
say: before a BatchNorm the size of a channel that stays makes no difference, and behind a ReLU one at zero has no
gradient. So the mask is on the slices of weights that read the channel, and the channel is computed in any case. The
network then computes what it would with the channel removed, but for statistics across channels and products of two
activations.

U = units of the graph.
"""

from collections.abc import Container, Sequence

import torch
from torch import Tensor

from slimkit.channels import Graph
from slimkit.channels.graph import Axis


def readers(graph: Graph) -> dict[str, list[Axis]]:
    """Return the dimensions that channels are read along, of each parameter or buffer that reads any."""
    found = {name: [axis for axis in axes if axis.reads] for name, axes in graph.by_tensor.items()}
    return {name: axes for name, axes in found.items() if axes}


def read_only_by(graph: Graph, tensors: Container[str]) -> list[Tensor]:
    """Return the members of each group of which all that reads it is among some parameters or buffers, and is any."""
    inside, outside = torch.zeros(2, graph.units + 1, dtype=torch.bool)  # the last is for index -1
    for name, axes in readers(graph).items():
        for axis in axes:
            (inside if name in tensors else outside)[axis.unit_of] = True
    return [group.members for group in graph.groups if bool((inside & ~outside)[group.members].all())]


def straight_through(scores: Tensor, groups: Sequence[Tensor], share: float) -> Tensor:
    """Return [U + 1]: 1 for the share of each group whose |score| is largest, one at least, else 0; then a 1.

    The gradient is that of |scores|.

    Args:
        scores: [U].
        groups: the members of each; units of none all stay.
        share: in (0, 1].
    """
    sizes = scores.abs()
    kept = torch.ones_like(scores)
    for members in (one.to(scores.device) for one in groups):
        best = sizes.detach()[members].topk(max(1, round(share * len(members)))).indices
        kept[members] = 0.0
        kept[members[best]] = 1.0
    return torch.cat([kept + (sizes - sizes.detach()), kept.new_ones(1)])


def unread(weight: Tensor, axes: Sequence[Axis], mask: Tensor) -> Tensor:
    """Return a weight times the mask [U + 1] along the dimensions that channels are read along."""
    for axis in axes:
        shape = [-1 if d == axis.dim else 1 for d in range(weight.dim())]
        weight = weight * mask[axis.unit_of.to(mask.device)].view(shape)  # index -1 is the last entry: what must stay
    return weight
