"""Scores, widths and a budget to a mask: the choice of what goes. U = units of the graph."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from slimkit.channels import Graph
from slimkit.errors import BudgetError, MaskError, SpecError
from slimkit.selection.budget import Widths, to_limit, to_ratio, within_reach
from slimkit.selection.mask import Mask
from slimkit.settings import Budget

Chooser = Callable[[Graph, Tensor, Widths, Tensor], Mask]  # (graph, scores, widths, fixed) -> mask


def choose(
    graph: Graph, scores: Tensor, budget: Budget, widths: Widths | None = None, fixed: Tensor | None = None
) -> Mask:
    """Return the mask that removes the lowest scores until a budget of channels, MACs, parameters or bytes is met.

    Args:
        graph: channels of the network, U units.
        scores: [U], finite, any scale; the lowest go first.
        budget: `slimkit.settings.parse_budget` reads it from a word; latency and energy have to be measured, see
            `slimkit.selection.measured`. Bytes are taken as 4 a parameter.
        widths: counts that groups may keep; any by default.
        fixed: bool [U], units that stay.

    Raises:
        BudgetError: out of reach, or of a kind that has to be measured. SpecError: it is no budget. MaskError: nothing
            to remove, or scores or `fixed` do not fit.
    """
    if not isinstance(budget, Budget):
        raise SpecError(
            f"budget is {budget!r}: it must say what of.\n  Give slimkit.settings.parse_budget({budget!r}, 'macs')"
        )
    widths = widths or Widths()
    if budget.kind == "ratio":
        return to_ratio(graph, scores, budget.value, widths, fixed)
    measures: dict[str, Callable[[Tensor], int]] = {
        "macs": graph.macs,
        "params": graph.params,
        "bytes": lambda keep: 4 * graph.params(keep),
    }
    if budget.kind not in measures:
        raise BudgetError(
            f"the budget is one of {budget.kind}, which has to be measured.\n"
            "  Choose by `slimkit.selection.measured.LatencySolver`, or give one of macs, params or bytes"
        )
    measure = measures[budget.kind]
    limit = budget.value if budget.absolute else budget.value * measure(Mask.full(graph).keep)
    return to_limit(graph, scores, measure, limit, widths, budget.kind, fixed)


def choose_within_reach(
    graph: Graph, scores: Tensor, budget: Budget, widths: Widths, fixed: Tensor, solver: Chooser | None = None
) -> Mask:
    """Return the mask of `choose`, or of what measures the budget, in finer widths where an engine's do not reach it.

    Args:
        solver: chooses for a budget that has to be measured; the others, and the errors, are those of `choose`.
    """

    def attempt(allowed: Widths) -> Mask:
        if solver is not None:
            return solver(graph, scores, allowed, fixed)
        return choose(graph, scores, budget, allowed, fixed)

    return within_reach(graph, widths, attempt)


def fixed_units(graph: Graph, keep: Sequence[str] = (), without_bn: str = "norm", outer: str = "") -> Tensor:
    """Return the units that must stay whole on request, bool [U].

    Args:
        graph: channels of the network.
        keep: names of layers, or patterns such as `layer4.*`: whatever channels they make stay.
        without_bn: `keep`: channels that no BatchNorm scales stay too; `norm`: they may go.
        outer: what all names begin with where the network lies in a module of ours: they fit without it too.

    Raises:
        MaskError: a pattern fits no layer whose channels could go.
    """
    fixed = ~graph.has_norm if without_bn == "keep" else torch.zeros(graph.units, dtype=torch.bool)

    def fits(layer: str, pattern: str) -> bool:
        return fnmatchcase(layer, pattern) or fnmatchcase(layer.removeprefix(outer), pattern)

    for pattern in keep:
        groups = [group for group in graph.groups if any(fits(layer, pattern) for layer in group.layers)]
        if not groups and not any(fits(kept.layer, pattern) for kept in graph.kept):
            names = sorted({name.removeprefix(outer) for group in graph.groups for name in group.layers})
            raise MaskError(
                f"keep is {pattern!r}: no layer with channels is called so.\n  Layers are {', '.join(names[:8])}, ..."
            )
        for group in groups:
            fixed[group.members] = True
    return fixed
