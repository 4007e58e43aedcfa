"""The widths that a network asks for: least loss under a budget, and never worse than the same share everywhere.

    losses = elimination.losses(dense, graph, batches)
    masks = candidates(graph, losses, "macs", 0.25 * graph.macs(Mask.full(graph).keep), Widths(8))
    mask, found = best(dense, graph, masks, batches)   # reconstructs each, returns the better one

Losses of `elimination` add up over units and groups, so that the widths are a knapsack: solved per multiply-add or
parameter saved, or per millisecond by `selection.measured` with the same scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.errors import BudgetError, MaskError, OutOfReachError
from slimkit.example import Example
from slimkit.progress import Progress
from slimkit.quantity import share
from slimkit.recovery.calibration import chunks
from slimkit.recovery.elimination import Losses
from slimkit.recovery.gap import gaps
from slimkit.recovery.reconstruct import Reconstruction, reconstruct
from slimkit.results import MeasuredBudget
from slimkit.selection import products
from slimkit.selection.budget import Widths, amount, check_of, nothing, to_limit
from slimkit.selection.hint import hint
from slimkit.selection.mask import Mask
from slimkit.selection.measured import LatencySolver
from slimkit.selection.measured.knapsack import Choice, solve
from slimkit.selection.measured.problem import Aim
from slimkit.selection.scope import by_scope, fill_unranked
from slimkit.settings.checks import choice, number
from slimkit.surgery.remove import remove

_DEARER, _UNSEEN = 1.25, 0.005  # times the loss in steps of 1, and nats that no accuracy shows
COSTS = {"macs": (products.macs, Graph.macs), "params": (products.params, Graph.params)}


def least_loss(
    graph: Graph, scores: Tensor, kind: str, limit: float, widths: Widths, fixed: Tensor | None = None
) -> Mask:
    """Return the mask within a budget that loses least.

    Args:
        scores: [U], what is lost with each unit; sums over units and groups mean something. Groups with NaN stay whole.
        kind: `macs` or `params`.
        limit: largest number of them.
        widths: which counts are allowed.
        fixed: bool [U], units that must stay; the rest of their group stays too.

    Raises:
        OutOfReachError: no allowed widths are within the limit.
        SpecError: the kind is another, or the limit no number. MaskError: scores or `fixed` do not fit the graph.
    """
    kind, limit = choice(*COSTS)("kind", kind), number(0)("limit", limit)
    check_of(graph, scores.nan_to_num() if isinstance(scores, Tensor) else scores, fixed)
    widths = widths.fitted(graph)
    whole = scores.isnan() if fixed is None else scores.isnan() | fixed
    order = [group.members[scores[group.members].argsort(stable=True)] for group in graph.groups]
    choices = []
    for group, units in zip(graph.groups, order, strict=True):
        counts = [len(units)] if bool(whole[units].any()) else widths.of(group)
        gone = torch.cat([torch.zeros(1, dtype=scores.dtype), scores[units].cumsum(0)])
        choices.append(Choice(tuple(counts), tuple(float(gone[len(units) - count]) for count in counts)))
    full = np.array([len(units) for units in order])
    cost = COSTS[kind][0](graph)
    found, reached = solve(choices, cost.saved, full, cost.total(full), limit)
    if reached > limit:
        if all(len(choice.counts) == 1 for choice in choices):
            raise MaskError(nothing(graph, widths))
        left = reached / cost.total(full)
        raise OutOfReachError(
            f"max_{kind} is {amount(limit, kind)}: the smallest that the allowed widths reach is "
            f"{amount(reached, kind)} ({share(left)} of the original).\n  Raise the budget{hint(widths)}"
        )
    keep = torch.ones(graph.units, dtype=torch.bool)
    for units, count in zip(order, found.tolist(), strict=True):
        keep[units[: len(units) - count]] = False
    return Mask(keep)


def candidates(
    graph: Graph, losses: Losses, kind: str, limit: float, widths: Widths, fixed: Tensor | None = None
) -> list[Mask]:
    """Return the masks within a budget that are worth a try: of least loss, and with the same share everywhere.

    Losses know nothing of how far a LayerNorm moves when it is taken over fewer channels, or attention that sums over
    fewer; so, where there are such channels, also of least loss among those that leave them, or their streams, alone,
    if within the budget.

    The other arguments and the errors are those of `least_loss`.

    Args:
        losses: of `elimination`; each of the two ways gives a mask.
    """
    least = [least_loss(graph, lost, kind, limit, widths, fixed) for lost in (losses.measured, losses.estimated)]
    filled = fill_unranked(losses.measured.float(), torch.arange(graph.units).float())
    even = to_limit(
        graph, by_scope(graph, filled, "group"), lambda keep: COSTS[kind][1](graph, keep), limit, widths, kind, fixed
    )
    masks = [*least, even]
    for aside in _unknown(graph, fixed):
        with suppress(BudgetError, MaskError):
            return [*masks, least_loss(graph, losses.measured, kind, limit, widths, aside)]
    return masks


def _unknown(graph: Graph, fixed: Tensor | None) -> list[Tensor]:
    """Return what to leave alone, most first, bool [U] each: those whose losses are not known, streams of them."""
    unknown = graph.statistics | graph.products
    streams = torch.zeros(graph.units, dtype=torch.bool)
    for group in graph.groups:
        streams[group.members] = len(group.layers) > 1
    found = [unknown, unknown & streams]
    return [aside if fixed is None else aside | fixed for aside in found if bool(aside.any())]


def affordable(
    graph: Graph, losses: Losses, kind: str, limit: float, widths: Widths, fixed: Tensor | None = None
) -> Widths:
    """Return the widths with the largest step that costs little: what engines like is not worth much of the network.

    Narrow networks under a tight budget pay for it (ResNet-20 at 0.14 of its multiply-adds, without training: 87.4 % in
    steps of 8, 90.5 in steps of 4, 90.7 in steps of 1; 0.42, 0.42 and 0.55 of the latency).

    The arguments and the errors are those of `candidates`.
    """
    scores = fill_unranked(losses.measured.float(), torch.arange(graph.units).float())

    def lost(step: int) -> float:
        mask = least_loss(graph, scores, kind, limit, replace(widths, step=step), fixed)
        return float(scores[~mask.keep].sum())

    step = widths.fitted(graph).step
    if step == 1:
        return widths
    enough = _DEARER * lost(1) + _UNSEEN
    while step > 1:
        try:
            if lost(step) <= enough:
                break
        except (OutOfReachError, MaskError):  # in steps as large
            pass
        step //= 2
    return replace(widths, step=step)


def timed(
    graph: Graph, losses: Losses, solver: LatencySolver, norms: Tensor, widths: Widths, fixed: Tensor
) -> list[tuple[Mask, MeasuredBudget]]:
    """Return masks within a latency or energy that are worth a try, each with how it meets it.

    Of least loss by each way to see it, of least importance, and with the same share everywhere: the first asks more of
    a table of layers than the last, which is as near to the budget in every network.

    Args:
        solver: of the network and the budget; it measures.
        norms: finite scores [U]: where losses are not known, and within a group of even shares.
        widths, fixed: as for `least_loss`.

    Raises:
        OutOfReachError: none reaches it; of the mask that came nearest.
    """
    measured, estimated = (fill_unranked(lost.float(), norms) for lost in (losses.measured, losses.estimated))
    tries: tuple[tuple[Aim, Tensor], ...] = (
        ("losses", measured),
        ("losses", estimated),
        ("importance", by_scope(graph, measured, "group")),
        ("even", measured),
    )
    found, missed = [], []
    for aim, scores in tries:
        copy = replace(solver, aim=aim)
        try:
            found.append((copy(graph, scores, widths, fixed), copy.record()))
        except OutOfReachError as error:
            missed.append(error)
    if not found:
        raise min(missed, key=lambda error: error.reached)
    for aside in _unknown(graph, fixed):  # as for `candidates`
        copy = replace(solver, aim="losses")
        with suppress(BudgetError, MaskError):
            return [*found, (copy(graph, measured, widths, aside), copy.record())]
    return found


def best(
    dense: nn.Module,
    graph: Graph,
    masks: Sequence[Mask],
    batches: Sequence[Example],
    *,
    compared: Sequence[Example] | None = None,
    progress: Progress | None = None,
) -> tuple[Mask, Reconstruction]:
    """Reconstruct the network of each mask; return the one whose predictions stay nearest to the dense network's.

    All inputs are compared, those fitted to as well: both networks were fitted to them alike, and the divergence of a
    few hundred images held out hangs on a handful of them (ResNet-20, 256 of 1,024 images, two networks: 0.057 and
    0.045, where 1,024 others said 0.030 and 0.040).

    Args:
        masks: at least one; equal ones are tried once.
        dense, graph, batches, progress: as for `reconstruct`.
        compared: inputs to compare on, where that are more than `batches`.

    Raises:
        MaskError: no mask was given.
    """
    if not masks:
        raise MaskError("masks is empty: there is none to try.\n  Give those of slimkit.recovery.widths.candidates")
    tried: list[tuple[Mask, Reconstruction]] = []
    for mask in masks:
        if not any(torch.equal(mask.keep, other.keep) for other, _ in tried):
            slim = remove(dense, graph, mask)
            tried.append((mask, reconstruct(dense, slim, graph, mask, batches, progress=progress)))
    return nearest(dense, tried, compared or batches)


def nearest(
    dense: nn.Module, tried: Sequence[tuple[Mask, Reconstruction]], batches: Sequence[Example]
) -> tuple[Mask, Reconstruction]:
    """Return that of several masks and their networks whose predictions are nearest to the dense network's."""
    if len(tried) == 1:
        return tried[0]
    found = gaps(dense, [made.model for _, made in tried], chunks(batches))
    return tried[min(range(len(tried)), key=found.__getitem__)]
