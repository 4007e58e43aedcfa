"""Masks that remove an exact number of units, many ratios from one ranking; fast enough for every few steps.

U = units of the graph.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from slimkit.channels import Graph
from slimkit.errors import BudgetError, MaskError
from slimkit.selection.budget import Widths, blocks, without
from slimkit.selection.mask import Mask


def masks(
    graph: Graph, scores: Tensor, ratios: Sequence[float], cap: float, fixed: Tensor | None = None
) -> dict[float, Mask]:
    """Return, per ratio, the mask without the `round(ratio * removable)` units of the lowest scores.

    It is `budget.to_ratio` with widths in steps of 1, so that a mask changes only where the ranking does.

    Args:
        scores: [U], finite.
        ratios: shares in [0, 1).
        cap: largest share of a group that may go, in (0, 1); one unit stays at least.
        fixed: bool [U], units that stay; a group with one of them stays whole.

    Raises:
        MaskError: nothing can be removed.
        BudgetError: the cap does not allow a ratio.
    """
    order = blocks(graph, scores, Widths(1, cap=cap), fixed).units
    if not len(order):
        raise MaskError(
            "nothing can be removed from this network, so there is no ticket to draw.\n"
            "  See what holds each layer with: slimkit inspect CHECKPOINT"
        )
    removable = graph.units - (int(fixed.sum()) if fixed is not None else 0)
    found = {}
    for ratio in ratios:
        count = round(ratio * removable)
        if count > len(order):
            raise BudgetError(
                f"ratio is {ratio:g}: at most {len(order) / removable:.3f} can be removed without emptying "
                "a group or passing the cap.\n  Lower the ratio, or raise `cap`"
            )
        found[ratio] = Mask(without(graph, order[:count]))
    return found


def movable(graph: Graph, cap: float, fixed: Tensor | None = None) -> list[Tensor]:
    """Return the units, int64 [n], of each group that can lose some; arguments as for `masks`."""
    found = blocks(graph, torch.zeros(graph.units), Widths(1, cap=cap), fixed)
    return [graph.groups[number].members for number in sorted(set(found.groups))]


def undecided(scores: Tensor, mask: Mask, units: Tensor) -> int:
    """Return the number of units that ties at the cut leave to chance.

    Units with the score of the last one removed could stand on either side. Scores [U]; `units`, int64 [n], are
    those that compete with one another.
    """
    keep = mask.keep[units]
    gone, kept = scores[units][~keep], scores[units][keep]
    if not len(gone) or not len(kept):
        return 0
    cut = gone.max()
    if not cut > 0:
        return 0  # among zeros the choice is harmless: they compute nothing either way
    return 2 * min(int((gone == cut).sum()), int((kept == cut).sum()))
