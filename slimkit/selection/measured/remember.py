"""Masks that were measured, kept on disk: a resumed run would measure other times, and so cut other channels."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from slimkit.channels import Graph
from slimkit.results import MeasuredBudget
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask
from slimkit.selection.measured.solve import Solve
from slimkit.training import Store, state


@dataclass
class Remembered:
    """A solver whose answers outlive the process, one state a call."""

    solver: Solve
    store: Store
    answers: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, graph: Graph, scores: Tensor, widths: Widths, fixed: Tensor) -> Mask:
        """Return the mask of the call of this number before the run was interrupted, else solve."""
        store = replace(self.store, folder=self.store.folder / f"solved{len(self.answers) + 1}")
        found, _ = state.read(store)
        if found is None:
            found = {"keep": self.solver(graph, scores, widths, fixed).keep, "record": self.solver.record().to_dict()}
            state.write(store, found)
        self.answers.append(found)
        return Mask(found["keep"])

    def record(self) -> MeasuredBudget:
        """Return how the last mask meets the budget; in a process that did not solve, what the solver says unasked."""
        return MeasuredBudget.from_dict(self.answers[-1]["record"]) if self.answers else self.solver.record()


def remembered(solver: Solve | None, store: Store | None) -> Solve | None:
    """Return a solver that remembers, where there is a folder to remember in."""
    return solver if solver is None or store is None else Remembered(solver, store)
