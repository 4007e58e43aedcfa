"""What channels are worth, looked at again from half way: deep cuts change what is left.

    losses = elimination.losses(dense, graph, batches)
    mask = half_way(graph, losses, 0.14**0.5)    # on the way to 0.14
    losses = look_again(dense, graph, losses, mask, batches, example)

The losses then serve as the first ones did: `widths.candidates`, `widths.timed`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.example import Example
from slimkit.progress import Progress
from slimkit.recovery import elimination
from slimkit.recovery.elimination import Losses
from slimkit.recovery.reconstruct import reconstruct
from slimkit.recovery.widths import least_loss
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask
from slimkit.selection.scope import fill_unranked
from slimkit.surgery.remove import remove
from slimkit.surgery.traced import trace


def half_way(graph: Graph, losses: Losses, share: float, fixed: Tensor | None = None) -> Mask:
    """Return the mask that leaves a share of the multiply-adds, in (0, 1), and loses least; widths are any.

    Args:
        fixed: bool [U], units that stay.

    Raises:
        MaskError, BudgetError: so little cannot be left.
    """
    scores = fill_unranked(losses.measured.float(), torch.arange(graph.units).float())
    return least_loss(graph, scores, "macs", share * graph.macs(Mask.full(graph).keep), Widths(1), fixed)


def look_again(
    dense: nn.Module,
    graph: Graph,
    losses: Losses,
    mask: Mask,
    batches: Sequence[Example],
    example: Example,
    *,
    progress: Progress | None = None,
) -> Losses:
    """Return losses of which those of channels that a mask keeps are measured where it has been applied.

    The network is cut by the mask and fitted to what the original computes, and its channels are measured again. Losses
    of two looks are comparable as far as they add up.

    Args:
        losses: of the network before; those of channels that the mask removes stay.
        batches: as for `elimination.losses`.
        example: an input, or all of them.
    """
    nearer = reconstruct(dense, remove(dense, graph, mask), graph, mask, batches, progress=progress).model
    smaller = trace(nearer, example)
    now = elimination.losses(nearer, smaller, batches, progress=progress)
    places = graph.places(mask.keep, smaller)
    return Losses(
        estimated=_joined(graph, mask, places, losses.estimated, now.estimated),
        measured=_joined(graph, mask, places, losses.measured, now.measured),
    )


def _joined(graph: Graph, mask: Mask, places: Tensor, before: Tensor, now: Tensor) -> Tensor:
    """Return the losses of all units: of those that are gone as before, of others as now and not below them; [U]."""
    joined = before.clone()
    joined[places >= 0] = now[places[places >= 0]].to(before)
    for group in graph.groups:
        keep = mask.keep[group.members]
        gone, left = before[group.members[~keep]], group.members[keep]
        if len(gone):
            joined[left] = joined[left].maximum(gone.nan_to_num().max())
    return joined
