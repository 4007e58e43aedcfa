"""One mask for all processes of a run, though each would measure other times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from slimkit.channels import Graph
from slimkit.hardware import pick_device
from slimkit.results import MeasuredBudget
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask
from slimkit.selection.measured.solve import Solve
from slimkit.training import distributed


@dataclass(frozen=True)
class Agreed:
    """A solver that runs in the first process; the others take its mask, or its error."""

    solver: Solve
    device: torch.device

    def __call__(self, graph: Graph, scores: Tensor, widths: Widths, fixed: Tensor) -> Mask:
        """Return the first process's mask.

        Raises:
            SlimkitError: in every process, where the first one's solver refuses.
        """
        return Mask(distributed.from_first(lambda: self.solver(graph, scores, widths, fixed).keep, self.device))

    def record(self) -> MeasuredBudget:
        """Return how the mask meets the budget; of use in the first process."""
        return self.solver.record()


def agreed(solver: Solve | None, device: str) -> Solve | None:
    """Return a solver whose masks are equal in all processes that train together."""
    if solver is None or not (dist.is_available() and dist.is_initialized()):
        return solver
    return Agreed(solver, distributed.local_device(pick_device(device)))
