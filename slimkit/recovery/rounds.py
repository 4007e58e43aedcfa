"""What channels are worth, looked at again from half way: deep cuts change what is left.

    losses = elimination.losses(dense, graph, batches)
    losses = look_again(dense, graph, losses, 0.14, batches, example)

The losses then serve as the first ones did: `widths.candidates`, `widths.timed`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.errors import BudgetError, MaskError
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


def look_again(
    dense: nn.Module,
    graph: Graph,
    losses: Losses,
    share: float,
    batches: Sequence[Example],
    example: Example,
    *,
    rounds: int = 2,
    fixed: Tensor | None = None,
    progress: Progress | None = None,
) -> Losses:
    """Return losses of which those of channels that stay half way were measured there.

    The network is cut to `share ** (1 / rounds)` of its multiply-adds, fitted to what the original computes, and its
    channels are measured again; and so on, in equal steps. Losses of two looks are comparable as far as they add up.

    Args:
        losses: of the dense network.
        share: of its multiply-adds that are to be left in the end, in (0, 1).
        batches: as for `elimination.losses`.
        example: an input, or all of them.
        rounds: looks in all, the first included.
        fixed: bool [U], units that stay.
    """
    whole = graph.macs(Mask.full(graph).keep)
    for number in range(1, rounds):
        scores = fill_unranked(losses.measured.float(), torch.arange(graph.units).float())
        try:
            mask = least_loss(graph, scores, "macs", share ** (number / rounds) * whole, Widths(1), fixed)
        except (MaskError, BudgetError):  # half way cannot be had; whoever chooses the mask says what can
            return losses
        half_way = reconstruct(dense, remove(dense, graph, mask), graph, mask, batches, progress=progress).model
        smaller = trace(half_way, example)
        now = elimination.losses(half_way, smaller, batches, progress=progress)
        places = graph.places(mask.keep, smaller)
        losses = Losses(
            estimated=_joined(graph, mask, places, losses.estimated, now.estimated),
            measured=_joined(graph, mask, places, losses.measured, now.measured),
        )
    return losses


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
