"""Which channels go in a run of `compress`: by what reconstruction can do without, or by a criterion."""

from dataclasses import dataclass

from torch import Tensor

from slimkit.channels import Graph
from slimkit.recovery.reconstruct import Reconstruction, reconstruct
from slimkit.recovery.widths import affordable, best, candidates, timed
from slimkit.results import MeasuredBudget
from slimkit.runs.begun import Begun
from slimkit.runs.start import allowed_widths, told_apart
from slimkit.selection.budget import Widths
from slimkit.selection.choose import choose, fixed_units
from slimkit.selection.mask import Mask
from slimkit.selection.measured import LatencySolver, SizeSolver
from slimkit.settings import CompressSpec
from slimkit.surgery.prove import Slimmed, prove


@dataclass(frozen=True)
class Cut:
    """What went, and what is left.

    Attributes:
        slimmed: the proven cut.
        reconstruction: the small network fitted to what the original computes; None without inputs to go by.
        budget: how the mask meets a budget that had to be measured, for the report.
        widths: the counts of channels that were allowed.
    """

    slimmed: Slimmed
    reconstruction: Reconstruction | None
    budget: MeasuredBudget | None
    widths: Widths


def cut(begun: Begun, spec: CompressSpec, solver: LatencySolver | SizeSolver | None) -> Cut:
    """Choose what goes, remove it and prove it; reconstruct what is left.

    With `ranking = "auto"` and inputs to go by, channels are ranked by what the least squares of their readers lose
    without them, and a budget of MACs, parameters, latency or energy is shared out between the groups by the same
    losses. The same share of every group is tried beside it, and the better of the two is taken. Without inputs: by
    the norm of all that is coupled to a channel.

    Args:
        begun: the network, its channels and how much they matter, unlabelled inputs.
        spec: budget, ranking, scope, widths, what to keep.
        solver: chooses masks for budgets that have to be measured.
    """
    graph, calibration, order = begun.graph, begun.calibration, begun.order
    dense, inputs, progress = begun.given.dense, begun.inputs, begun.given.progress
    budget, widths = spec.budget, allowed_widths(spec)
    fixed = fixed_units(graph, spec.keep, spec.without_bn)
    batches = calibration.batches if calibration and spec.fits else None
    found: dict[bytes, tuple[Reconstruction | None, MeasuredBudget | None]] = {}
    scores, losses = order.scores, order.losses
    fitting: list[Widths] = []  # found while the mask is chosen

    def chosen(fixed: Tensor) -> Mask:
        progress("choosing channels", None)
        records: list[MeasuredBudget | None] = [None] * 3
        if losses is not None and budget.kind in ("macs", "params"):
            whole = getattr(graph, budget.kind)(Mask.full(graph).keep)
            limit = budget.value if budget.absolute else budget.value * whole
            if widths.adapt:
                fitting.append(affordable(graph, losses, budget.kind, limit, widths, fixed))
            masks = candidates(graph, losses, budget.kind, limit, (fitting or [widths])[-1], fixed)
        elif losses is not None and isinstance(solver, LatencySolver):
            masks, records = map(list, zip(*timed(graph, losses, solver, scores, widths, fixed), strict=True))
        elif solver is not None:
            masks, records = [solver(graph, scores, widths, fixed)], [solver.record()]
        else:
            masks = [choose(graph, scores, budget, widths, fixed)]
        mask, rebuilt = (
            (masks[0], None)
            if len(masks) == 1 or not batches
            else best(dense, graph, masks, batches, progress=progress)
        )
        found[_key(mask)] = (rebuilt, records[[_key(one) for one in masks].index(_key(mask))])
        return mask

    slimmed = prove(dense, graph, chosen, told_apart(inputs), fixed)
    rebuilt, record = found[_key(slimmed.mask)]
    if rebuilt is None and batches:
        progress("fitting what is left", None)
        rebuilt = reconstruct(dense, slimmed.model, graph, slimmed.mask, batches, progress=progress)
    return Cut(slimmed, rebuilt, record, (fitting or [widths])[-1])


def note_on_widths(made: Cut, graph: Graph, spec: CompressSpec) -> list[str]:
    """Say where widths are not those that the engine likes, and why."""
    step, liked = (widths.fitted(graph).step for widths in (made.widths, allowed_widths(spec)))
    if step >= liked:
        return []
    return [f"Widths are multiples of {step}: multiples of {liked}, which this engine likes, would lose more accuracy."]


def _key(mask: Mask) -> bytes:
    return bytes(mask.keep.numpy().tobytes())
