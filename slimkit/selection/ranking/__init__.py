"""Which channels matter least: one criterion a file. U = units of the graph."""

from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.errors import MaskError, SpecError
from slimkit.modules import unwrapped
from slimkit.selection.ranking import chance, gamma, group_norm, popup, reader_norm, taylor
from slimkit.selection.ranking.context import Context
from slimkit.selection.ranking.criterion import Criterion
from slimkit.selection.scope import by_scope, fill_unranked

CRITERIA: dict[str, Criterion] = {
    "gamma": Criterion(gamma.scores, needs="batch norm"),
    "group-norm": Criterion(group_norm.scores),
    "reader-norm": Criterion(reader_norm.scores),
    "taylor": Criterion(taylor.scores, needs="data"),
    "popup": Criterion(popup.scores, needs="data"),
    "random": Criterion(chance.scores),
}


def criterion(name: str) -> Criterion:
    """Return a criterion by name.

    Raises:
        SpecError: there is none.
    """
    if name not in CRITERIA:
        raise SpecError(f"ranking is {name!r}: it must be one of {', '.join(CRITERIA)}.")
    return CRITERIA[name]


def scores(name: str, model: nn.Module, graph: Graph, context: Context | None = None) -> Tensor:
    """Score every unit by a named criterion; the lowest go first.

    Args:
        name: a key of `CRITERIA`.
        model: the network that `graph` was traced from; read, not changed.
        graph: its channels, U units.
        context: what a criterion may need besides: a seed, batches of data.

    Returns:
        Float tensor [U], >= 0, without unit; NaN where the criterion cannot say anything about a unit.

    Raises:
        SpecError: the criterion is unknown, or needs data that was not given.
        MaskError: the graph is of another network, or a weight is not finite.
    """
    graph.check_of(model)
    inner = unwrapped(model)
    for path, parameter in inner.named_parameters():
        if path in graph.by_tensor and (parameter.is_meta or not bool(parameter.isfinite().all())):
            raise MaskError(
                f"{path} is not finite: channels cannot be ranked by it.\n"
                "  Its training has diverged, or it was never loaded: give a network with weights"
            )
    return criterion(name).scores(inner, graph, context or Context())


def rank(name: str, model: nn.Module, graph: Graph, scope: str = "group", context: Context | None = None) -> Tensor:
    """Score every unit, also those that the criterion cannot rank, so that a mask can be chosen; finite [U].

    Units that the criterion says nothing about get the quantile that `group-norm` puts them at.

    Args:
        name, model, graph, context: as for `scores`.
        scope: where channels compete: `global`, `isomorphic` or `group`, see `slimkit.selection.scope`.

    Raises:
        MaskError: the criterion needs BatchNorm, and none scales any unit.
        SpecError: criterion or scope is unknown, or data is missing.
    """
    if criterion(name).needs == "batch norm" and graph.units and not bool(graph.has_norm.any()):
        raise MaskError(
            f"ranking is {name!r}, but no BatchNorm scales any of the channels that could be removed.\n"
            "  To rank them by their weights: `ranking='group-norm'`"
        )
    found = scores(name, model, graph, context)
    if bool(found.isnan().any()):
        found = fill_unranked(found, scores("group-norm", model, graph, context))
    return by_scope(graph, found, scope)


__all__ = ["CRITERIA", "Context", "Criterion", "criterion", "rank", "scores"]
