"""Controls: would the small network have done as well alone? Liu et al. 2019, arXiv:1810.05270.

All that a ticket of channels keeps without its weights is a list of widths, so the controls are: those widths
from fresh weights, for as many epochs (scratch-E) or as many MACs (scratch-B); random channels of the same
network; other widths at equal MACs. U = units of the graph.
"""

from bisect import bisect_right

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.errors import BudgetError
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import remove

CAP = 2.0  # the most that the paper lets scratch-B train longer on ImageNet


def epochs_e(epochs: int) -> int:
    """Return the epochs of scratch-E: those of the dense network."""
    return epochs


def epochs_b(epochs: float, dense_macs: int, slim_macs: int, cap: float | None = None) -> int:
    """Return the epochs of scratch-B: as many MACs as training the dense network for `epochs`.

    Args:
        epochs: the budget in epochs of the dense network: for an equal cost with a ticket, those that its
            whole run was worth (the strict budget).
        cap: largest factor over `epochs`; `CAP` is the paper's for ImageNet, None its for network slimming.
    """
    factor = dense_macs / slim_macs
    return int(epochs * (min(factor, cap) if cap is not None else factor))


def scratch(fresh: nn.Module, graph: Graph, mask: Mask) -> nn.Module:
    """Return a network of the mask's widths with fresh weights.

    `fresh` has weights just drawn by its architecture: independent of each other, so which of them stay does
    not matter.
    """
    return remove(fresh, graph, mask)


def random_channels(graph: Graph, mask: Mask, seed: int) -> Mask:
    """Return a mask of the same widths that keeps other channels, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.zeros(graph.units, dtype=torch.bool)
    for group, count in zip(graph.groups, mask.counts(graph), strict=True):
        keep[group.members[torch.randperm(len(group.members), generator=generator)[:count]]] = True
    return Mask(keep)


def uniform(graph: Graph, macs: int) -> Mask:
    """Return a mask that takes the same share of every group and has at most so many MACs.

    Raises:
        BudgetError: one unit in each group has more.
    """

    def keeping(share: float) -> Tensor:
        keep = torch.zeros(graph.units, dtype=torch.bool)
        for group in graph.groups:
            keep[group.members[: max(1, round(share * len(group.members)))]] = True
        return keep

    shares = [step / 1000 for step in range(1001)]
    place = bisect_right(shares, macs, key=lambda share: graph.macs(keeping(share)))
    if not place:
        raise BudgetError(
            f"{macs} MACs were given for uniform widths, but one channel a group has "
            f"{graph.macs(keeping(0))}.\n"
            "  Raise the budget"
        )
    return Mask(keeping(shares[place - 1]))
