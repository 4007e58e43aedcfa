"""Which channels go in a run of `compress`: by what reconstruction can do without, or by a criterion."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.example import Example
from slimkit.recovery import elimination
from slimkit.recovery.reconstruct import Reconstruction, reconstruct
from slimkit.recovery.widths import best, candidates
from slimkit.runs.calibrate import Calibration
from slimkit.runs.result import Progress
from slimkit.runs.start import allowed_widths
from slimkit.selection.choose import Chooser, choose, fixed_units
from slimkit.selection.mask import Mask
from slimkit.selection.ranking import Context, rank
from slimkit.selection.scope import by_scope, fill_unranked
from slimkit.settings import CompressSpec
from slimkit.surgery.prove import Slimmed, prove


@dataclass(frozen=True)
class Cut:
    """What went, proven, and the small network reconstructed where there was something to go by."""

    slimmed: Slimmed
    reconstruction: Reconstruction | None


def cut(
    spec: CompressSpec,
    dense: nn.Module,
    graph: Graph,
    inputs: Sequence[Example],
    context: Context,
    calibration: Calibration | None,
    solver: Chooser | None,
    progress: Progress,
) -> Cut:
    """Rank channels, choose what goes, remove it and prove it; reconstruct what is left.

    With `ranking = "auto"` and inputs to go by, channels are ranked by what the least squares of their readers lose
    without them, and a budget of MACs or parameters is shared out between the groups by the same losses. The same
    share of every group is tried beside it, and the better of the two is taken. Without inputs: by the norm of all that
    is coupled to a channel.

    Args:
        spec: budget, ranking, scope, widths, what to keep.
        dense, graph: the network, untouched, and its channels.
        inputs: of the proof.
        context: what the ranking may need.
        calibration: unlabelled inputs.
        solver: chooses masks for budgets that have to be measured.
        progress: called with what is being done, and the share done.
    """
    budget, widths = spec.budget, allowed_widths(spec)
    fixed = fixed_units(graph, spec.keep, spec.without_bn)
    batches = calibration.batches if calibration and spec.recover else None
    found: dict[bytes, Reconstruction] = {}
    losses: Tensor | None = None
    if spec.ranking == "auto" and batches:
        progress("ranking channels by what can be done without them", None)
        losses = elimination.losses(dense, graph, batches, progress=progress)
        scores = by_scope(graph, fill_unranked(losses.float(), rank("group-norm", dense, graph)), "group")
    else:
        name = "group-norm" if spec.ranking == "auto" else spec.ranking
        scores = rank(name, dense, graph, spec.scope, context)

    def chosen(fixed: Tensor) -> Mask:
        progress("choosing channels", None)
        if losses is not None and batches and budget.kind in ("macs", "params"):
            whole = getattr(graph, budget.kind)(Mask.full(graph).keep)
            limit = budget.value if budget.absolute else budget.value * whole
            masks = candidates(graph, losses, budget.kind, limit, widths, fixed)
            mask, rebuilt = best(dense, graph, masks, batches, progress=progress)
            found[mask.keep.numpy().tobytes()] = rebuilt
            return mask
        return solver(graph, scores, widths, fixed) if solver else choose(graph, scores, budget, widths, fixed)

    slimmed = prove(dense, graph, chosen, inputs, fixed)
    rebuilt = found.get(slimmed.mask.keep.numpy().tobytes())
    if rebuilt is None and batches:
        progress("fitting what is left", None)
        rebuilt = reconstruct(dense, slimmed.model, graph, slimmed.mask, batches, progress=progress)
    return Cut(slimmed, rebuilt)
