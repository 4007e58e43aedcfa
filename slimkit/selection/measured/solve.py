"""What chooses a mask for a budget that has to be measured."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.results import MeasuredBudget
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask

Remove = Callable[[nn.Module, Graph, Mask], nn.Module]  # (network, graph, mask) -> a new one without the rest


class Solve(Protocol):
    """Chooses masks for a budget that has to be measured: latency, energy, bytes; U = units of the graph."""

    def __call__(self, graph: Graph, scores: Tensor, widths: Widths, fixed: Tensor) -> Mask:
        """Return a mask; scores [U], the lowest go first; fixed bool [U], units that stay."""
        ...

    def record(self) -> MeasuredBudget:
        """Return how the last mask meets the budget."""
        ...
