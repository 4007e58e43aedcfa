"""Which channels go in a run of `compress`: by what reconstruction can do without, or by a criterion."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from slimkit.channels import Graph
from slimkit.errors import BudgetError, MaskError
from slimkit.example import Example, batch_size, on
from slimkit.hardware import on_device
from slimkit.recovery.calibration import some
from slimkit.recovery.elimination import FEW, Losses
from slimkit.recovery.reconstruct import Reconstruction, reconstruct, refit
from slimkit.recovery.rounds import half_way, look_again
from slimkit.recovery.widths import affordable, best, candidates, nearest, timed
from slimkit.results import MeasuredBudget
from slimkit.runs.cut.begun import Begun
from slimkit.runs.start import allowed_widths, outer, told_apart
from slimkit.selection import counted
from slimkit.selection.budget import Widths, within_reach
from slimkit.selection.choose import choose, fixed_units
from slimkit.selection.mask import Mask
from slimkit.selection.measured import LatencySolver, SizeSolver
from slimkit.settings import Budget, CompressSpec
from slimkit.surgery.evidence import runs
from slimkit.surgery.prove import Slimmed, prove
from slimkit.surgery.remove import remove
from slimkit.surgery.trials import Trial

_TRIED = 256  # inputs at most that masks are tried with; they are compared on all, and one is fitted to all
_DEEP = 0.4  # of the multiply-adds: where a second look was seen to change much


@dataclass(frozen=True)
class ChosenCut:
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


def cut(begun: Begun, spec: CompressSpec, solver: LatencySolver | SizeSolver | None, quick: bool = False) -> ChosenCut:
    """Choose what goes, remove it and prove it; reconstruct what is left.

    With `ranking = "auto"` and inputs to go by, channels are ranked by what the least squares of their readers lose
    without them, and a budget of MACs, parameters, latency or energy is shared out between the groups by the same
    losses. The same share of every group is tried beside it, and the better of the two is taken. Without inputs: by
    the norm of all that is coupled to a channel.

    Args:
        begun: the network, its channels and how much they matter, unlabelled inputs.
        spec: budget, ranking, scope, widths, what to keep.
        solver: chooses masks for budgets that have to be measured.
        quick: the mask of least loss is taken untried, and fitted to few inputs, once.
    """
    graph, calibration, order = begun.graph, begun.calibration, begun.order
    dense, inputs, progress = begun.given.at_work, begun.inputs, begun.given.progress
    fixed = fixed_units(graph, spec.keep, spec.without_bn, outer(dense))
    batches = calibration.batches if calibration and calibration.fits else None
    few = some(batches or [], _TRIED)
    found: dict[bytes, tuple[_Try, Reconstruction | None]] = {}

    def noted(one: _Try, rebuilt: Reconstruction | None) -> Mask:
        found[_key(one.mask)] = one, rebuilt
        return one.mask

    def tried(tries: Sequence[_Try], batches: Sequence[Example]) -> tuple[Mask, Reconstruction]:
        return best(dense, graph, [one.mask for one in tries], few, compared=batches, progress=progress)

    def chosen(fixed: Tensor) -> Mask:
        progress("choosing channels", None)
        tries = _tries(begun, spec, solver, order.losses, fixed)[: 1 if quick else None]
        mask, rebuilt = tries[0].mask, None
        if batches and len(tries) > 1:
            if stuck := _stuck(begun, tries):
                return noted(stuck, None)  # the proof finds which groups are to blame
            mask, rebuilt = tried(tries, batches)
        rounds = _rounds(begun, spec, mask)
        if batches and rebuilt and order.losses and rounds > 1:
            progress("looking again at what channels are worth", None)
            nearer = _looked_again(begun, order.losses, batches, mask, rounds, fixed)
            more = _tries(begun, spec, solver, nearer, fixed)
            if stuck := _stuck(begun, more):
                return noted(stuck, None)
            mask, rebuilt = nearest(dense, [(mask, rebuilt), tried(more, batches)], batches)
            tries = [*tries, *more]
        whole = rebuilt if few is batches else None
        return noted(next(one for one in tries if _key(one.mask) == _key(mask)), whole)

    slimmed = prove(begun.given.dense, graph, chosen, told_apart(inputs), fixed)
    made, rebuilt = found[_key(slimmed.mask)]
    if batches:
        progress("fitting what is left", None)
        slim = on_device(slimmed.model, begun.given.device)
        if rebuilt is None:
            rebuilt = reconstruct(dense, slim, graph, slimmed.mask, few if quick else batches, progress=progress)
        if not quick:
            rebuilt = refit(dense, slim, graph, slimmed.mask, batches, rebuilt, progress=progress)
        rebuilt.model.cpu()
    return ChosenCut(slimmed, rebuilt, made.record, made.widths)


@dataclass(frozen=True)
class _Try:
    """A mask within the budget, the widths that were allowed, and how it meets a budget that had to be measured."""

    mask: Mask
    widths: Widths
    record: MeasuredBudget | None = None


def _tries(
    begun: Begun, spec: CompressSpec, solver: LatencySolver | SizeSolver | None, losses: Losses | None, fixed: Tensor
) -> list[_Try]:
    """Return the masks that are worth a try, one at least."""
    graph, scores, budget = begun.graph, begun.order.scores, spec.budget
    limit = counted.limit_of(budget, graph)

    def within(most: float, widths: Widths) -> list[_Try]:
        if losses is None:
            return [_Try(choose(graph, scores, Budget(budget.kind, most, absolute=True), widths, fixed), widths)]
        if widths.adapt:
            widths = affordable(graph, losses, budget.kind, most, widths, fixed)
        return [_Try(mask, widths) for mask in candidates(graph, losses, budget.kind, most, widths, fixed)]

    def excess(one: _Try, limit: float) -> float:
        small = remove(begun.given.dense, graph, one.mask)
        return (counted.count(budget.kind, small, begun.given.example) or 0) - limit

    def attempt(widths: Widths) -> list[_Try]:
        if limit is not None:
            chosen = partial(within, widths=widths)
            return counted.held(budget.kind, limit, chosen, partial(excess, limit=limit))
        if losses is not None and isinstance(solver, LatencySolver):
            return [_Try(mask, widths, record) for mask, record in timed(graph, losses, solver, scores, widths, fixed)]
        if solver is not None:
            return [_Try(solver(graph, scores, widths, fixed), widths, solver.record())]
        return [_Try(choose(graph, scores, budget, widths, fixed), widths)]

    return within_reach(graph, allowed_widths(spec), attempt)


def _stuck(begun: Begun, tries: Sequence[_Try]) -> _Try | None:
    """Return a mask whose network does not run, though the original does: nothing can be fitted to it."""
    dense, trial = begun.given.dense, Trial("as given", begun.inputs[0])
    stuck = (one for one in tries if not runs(remove(dense, begun.graph, one.mask), trial))
    return next(stuck, None) if runs(dense, trial) else None


def _rounds(begun: Begun, spec: CompressSpec, mask: Mask) -> int:
    """Return how often to look at what channels are worth."""
    if spec.rounds != "auto":
        return int(spec.rounds)
    whole, calibration = begun.graph.macs(Mask.full(begun.graph).keep), begun.calibration
    if calibration is not None and sum(map(batch_size, calibration.batches)) < FEW:
        return 1  # of a handful of inputs a second look tells less than the first
    made = calibration is not None and calibration.made  # where it would take longer than all else
    return 2 if not made and begun.graph.macs(mask.keep) <= _DEEP * whole else 1


def _looked_again(
    begun: Begun, losses: Losses, batches: Sequence[Example], mask: Mask, rounds: int, fixed: Tensor
) -> Losses:
    """Return losses measured again on the way to what a mask leaves, in equal steps, the first look being taken."""
    given, graph = begun.given, begun.graph
    example = on(given.device, given.example)
    share = graph.macs(mask.keep) / graph.macs(Mask.full(graph).keep)
    for number in range(1, rounds):
        try:
            nearer = half_way(graph, losses, share ** (number / rounds), fixed)
        except (MaskError, BudgetError):  # whoever chooses the mask says what can be had
            break
        losses = look_again(given.at_work, graph, losses, nearer, batches, example, progress=given.progress)
    return losses


def note_on_widths(made: ChosenCut, graph: Graph, spec: CompressSpec) -> list[str]:
    """Say where widths are not those that the engine likes, and why."""
    step, liked = (widths.fitted(graph).step for widths in (made.widths, allowed_widths(spec)))
    if step >= liked:
        return []
    return [
        f"Widths are multiples of {step}: multiples of {liked}, which this engine likes, would lose more accuracy, or "
        "do not reach the budget."
    ]


def _key(mask: Mask) -> bytes:
    return bytes(mask.keep.numpy().tobytes())
