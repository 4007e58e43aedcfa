"""A network and a budget to a smaller network that is proven to compute what the masked one computes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.channels.trace import Example
from slimkit.errors import MaskError, ProofError
from slimkit.measure.environment import preferred_step
from slimkit.selection import budget, ranking
from slimkit.selection.mask import Mask
from slimkit.selection.ranking import Context
from slimkit.settings import RunSpec
from slimkit.surgery import proof
from slimkit.surgery.remove import remove

_ROUNDS = 4  # of finding and keeping the groups that cannot be proven


class Solver(Protocol):
    """Chooses masks for budgets that have to be measured."""

    def __call__(self, graph: Graph, scores: Tensor, widths: budget.Widths, fixed: Tensor) -> Mask:
        """Return a mask; scores [U], the lowest go first; fixed bool [U], units that stay."""
        ...

    def record(self) -> dict[str, Any]:
        """Return how the last mask meets the budget, for the report."""
        ...


@dataclass(frozen=True)
class Slimmed:
    """A smaller network and how it came about.

    Attributes:
        model: the new network; weights inherited, constants of removed channels not yet folded.
        graph: channels of the dense network.
        mask: what stays.
        scores: [U], what ranked the units; the lowest went first.
        fixed: bool [U], removable units that were kept all the same: on request, or because they failed.
        error: relative error of the smaller network against the masked one.
        failing: groups that could be removed by the graph, but not by the proof, and are kept.
    """

    model: nn.Module
    graph: Graph
    mask: Mask
    scores: Tensor
    fixed: Tensor
    error: float
    failing: tuple[str, ...]


def rank(model: nn.Module, graph: Graph, spec: RunSpec, context: Context) -> Tensor:
    """Score all units as the settings say; units that the criterion cannot rank get a norm's quantile; [U].

    Raises:
        MaskError: gamma is to rank, and no BatchNorm scales any unit.
    """
    if spec.ranking == "gamma" and graph.units and not bool(graph.has_norm.any()):
        raise MaskError(
            "ranking is 'gamma', but no BatchNorm scales any of the channels that could be removed.\n"
            "  To rank them by their weights: --set ranking=group-norm"
        )
    scores = ranking.scores(spec.ranking, model, graph, context)
    if bool(scores.isnan().any()):
        scores = budget.fill_unranked(scores, ranking.scores("group-norm", model, graph, context))
    return budget.by_scope(graph, scores, spec.scope)


def widths(spec: RunSpec) -> budget.Widths:
    """Return the widths that the settings allow."""
    if spec.round_to == "auto":
        return budget.Widths(preferred_step(spec.runtime), adapt=True, cap=spec.cap)
    return budget.Widths(int(spec.round_to), adapt=False, cap=spec.cap)


def solve(graph: Graph, scores: Tensor, spec: RunSpec, fixed: Tensor) -> Mask:
    """Return the mask for a budget of channels, MACs or parameters.

    Raises:
        BudgetError: out of reach; MaskError: nothing to remove.
    """
    asked = spec.budget
    allowed = widths(spec)
    if asked.kind == "ratio":
        return budget.to_ratio(graph, scores, asked.value, allowed, fixed)
    measures: dict[str, Callable[[Tensor], int]] = {
        "macs": graph.macs,
        "params": graph.params,
        "bytes": lambda keep: 4 * graph.params(keep),
    }
    measure = measures[asked.kind]
    limit = asked.value if asked.absolute else asked.value * measure(Mask.full(graph).keep)
    return budget.to_limit(graph, scores, measure, limit, allowed, asked.kind, fixed)


def slim(
    model: nn.Module,
    graph: Graph,
    spec: RunSpec,
    inputs: Sequence[Example],
    context: Context | None = None,
    solver: Solver | None = None,
) -> Slimmed:
    """Choose channels, remove them, and prove it; groups that fail the proof are found, kept and named.

    Args:
        model: the dense network, untouched.
        graph: its channels.
        spec: budget, ranking, scope, widths.
        inputs: what the proof runs both networks on.
        context: seed and batches for the ranking.
        solver: (graph, scores, widths, fixed) -> mask, for budgets that need measurements; default `solve`.

    Raises:
        ProofError: the network's own outputs are not finite; the networks differ and no group can be blamed.
    """
    scores = rank(model, graph, spec, context or Context(seed=spec.seed))
    fixed = torch.zeros(graph.units, dtype=torch.bool)
    if spec.without_bn == "keep":
        fixed = ~graph.has_norm
    failing: list[str] = []
    for _ in range(_ROUNDS):
        mask = solver(graph, scores, widths(spec), fixed) if solver else solve(graph, scores, spec, fixed)
        smaller = remove(model, graph, mask)
        error = proof.compare(proof.outputs(proof.masked(model, graph, mask), inputs), smaller, inputs)
        if error <= proof.TOLERANCE:
            return Slimmed(smaller, graph, mask, scores, fixed, error, tuple(failing))
        if not proof.finite(proof.outputs(model, inputs)):
            raise ProofError(
                "the network's outputs are not finite, so nothing can be proved about a smaller one.\n"
                "  Its weights have diverged: train it with a lower learning rate, or give another checkpoint"
            )
        culprits = proof.failing_groups(model, graph, mask, inputs)
        if not culprits:
            break
        for number in culprits:
            failing.append(graph.groups[number].name)
            fixed[graph.groups[number].units] = True
    raise ProofError(
        f"smaller network against masked one: the outputs differ by {error:.2g} of their standard deviation, "
        f"more than {proof.TOLERANCE:.0e}, also without {', '.join(failing) or 'any one group'}.\n"
        "  Nothing was written. Please report the network: this is what the proof is for."
    )
