"""What channels are worth, looked at again from half way: deep cuts change what is left.

losses = elimination.losses(dense, graph, batches)
losses = look_again(dense, graph, losses, 0.14, batches, example)   # then `widths.candidates` as before
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimkit.channels import Graph, trace
from slimkit.errors import MaskError
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
        except MaskError:  # nothing can be removed, which whoever chooses the mask says
            return losses
        half_way = reconstruct(dense, remove(dense, graph, mask), graph, mask, batches, progress=progress).model
        smaller = trace(half_way, example)
        left = [group.members[mask.keep[group.members]] for group in graph.groups]
        if [len(units) for units in left] != [len(group.members) for group in smaller.groups]:
            return losses  # its channels cannot be told apart any more
        now = elimination.losses(half_way, smaller, batches, progress=progress)
        losses = Losses(
            estimated=_joined(graph, mask, smaller, losses.estimated, now.estimated),
            measured=_joined(graph, mask, smaller, losses.measured, now.measured),
        )
    return losses


def _joined(graph: Graph, mask: Mask, smaller: Graph, before: Tensor, now: Tensor) -> Tensor:
    """Return the losses of all units: of those that are gone as before, of others as now and not below them; [U]."""
    joined = before.clone()
    for group, narrow in zip(graph.groups, smaller.groups, strict=True):
        keep = mask.keep[group.members]
        gone = before[group.members[~keep]]
        least = gone.nan_to_num().max() if len(gone) else before.new_zeros(())
        joined[group.members[keep]] = now[narrow.members].to(before).maximum(least)
    return joined
