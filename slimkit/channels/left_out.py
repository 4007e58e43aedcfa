"""The network that a smaller one must equal where statistics are taken across channels.

A LayerNorm takes its mean over all channels; a smaller network takes it over those it has. So removing a channel means:
the original with that channel silent *and left out of every statistic*. Which entries of a tensor that is, is told by
the names that tracing carries, anew in every run: control flow and inputs of other sizes need no care. All else is
computed at full width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.channels.counts import stays
from slimkit.channels.graph import Graph
from slimkit.channels.observed import Observed
from slimkit.channels.operators import over_kept, width_of_kept
from slimkit.channels.walk import walking
from slimkit.modules import unwrapped

Gone = dict[tuple[str, int], Tensor]  # parameter or buffer, dimension -> which indices are removed, bool [size]


class LeftOut(nn.Module):
    """A network that leaves removed channels out of statistics; its parameters keep their names."""

    def __init__(self, network: nn.Module, gone: Gone) -> None:
        super().__init__()
        self.network = network
        self.gone = gone

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        seen = Observed(self.network, batch=1)
        gone = _of_names(seen, self.gone)

        def run(func: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            out = over_kept(seen, gone, func, given, named)
            return func(*given, **named) if out is None else out

        try:
            with walking(seen, run, lambda queries: width_of_kept(seen, gone, queries)):
                return unwrapped(self.network)(*args, **kwargs)
        finally:
            seen.clear()

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the parameters of the network under its own names."""
        return self.network.named_parameters(*args, **kwargs)


def left_out(network: nn.Module, graph: Graph, keep: Tensor) -> nn.Module:
    """Return a network that leaves removed channels out of statistics; itself where there is nothing to leave out.

    Args:
        network: with the parameters of the one that was traced, removed channels silent.
        graph: its channels, U units.
        keep: bool [U], the units that stay.
    """
    if not bool((graph.statistics & ~keep).any()):
        return network
    return LeftOut(network, {(axis.tensor, axis.dim): ~stays(keep, axis.unit_of) for axis in graph.axes})


def _of_names(seen: Observed, gone: Gone) -> Tensor:
    """Name the dimensions that hold removable channels, the first names of the pass; return which are removed, [n]."""
    for tensor, dim in gone:
        seen.named(seen.tensors[tensor], dim)
    return torch.cat([*gone.values(), torch.zeros(0, dtype=torch.bool)])
