"""Which channels matter least: one criterion a file, a function (model, graph, context) -> scores [U]."""

from collections.abc import Callable

from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.errors import SpecError
from slimkit.selection.ranking import chance, gamma, group_norm, reader_norm, taylor
from slimkit.selection.ranking.context import Context

RANKINGS: dict[str, Callable[[nn.Module, Graph, Context], Tensor]] = {
    "gamma": gamma.scores,
    "group-norm": group_norm.scores,
    "reader-norm": reader_norm.scores,
    "taylor": taylor.scores,
    "random": chance.scores,
}


def scores(name: str, model: nn.Module, graph: Graph, context: Context | None = None) -> Tensor:
    """Score every unit by a named criterion; the lowest go first.

    Args:
        name: a key of `RANKINGS`.
        model: the network that `graph` was traced from; read, not changed.
        graph: its channels, U units.
        context: what a criterion may need besides: a seed, batches of data.

    Returns:
        Float tensor [U], >= 0, without unit; NaN where the criterion cannot say anything about a unit.

    Raises:
        SpecError: the criterion is unknown, or needs data that was not given.
    """
    if name not in RANKINGS:
        raise SpecError(f"ranking is {name!r}: it must be one of {', '.join(RANKINGS)}.")
    return RANKINGS[name](model, graph, context or Context())


__all__ = ["RANKINGS", "Context", "scores"]
