"""What a ranking is: a function of network and graph, and what it needs besides."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.selection.ranking.context import Context


@dataclass(frozen=True)
class Criterion:
    """One way to tell which channels matter least.

    Attributes:
        scores: (model, graph, context) -> float [U], >= 0, without unit; the lowest go first; NaN where it cannot say.
        needs: `data`: labelled batches in the context; `batch norm`: units that a BatchNorm scales; None: nothing.
    """

    scores: Callable[[nn.Module, Graph, Context], Tensor]
    needs: Literal["data", "batch norm"] | None = None
