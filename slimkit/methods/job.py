"""What a method works on: a network with its channels, data, a recipe, and what the run asks of the channels that go.

U = units of the dense network's graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slimkit import data, training
from slimkit.channels import Example, Graph
from slimkit.hardware import working_device
from slimkit.measure.conditions import Conditions
from slimkit.progress import Progress, Watcher
from slimkit.selection.budget import Widths
from slimkit.selection.choose import choose_within_reach, fixed_units
from slimkit.selection.mask import Mask
from slimkit.selection.measured import Solve
from slimkit.selection.ranking import Context, rank
from slimkit.selection.scope import by_scope
from slimkit.settings import Budget
from slimkit.surgery.prove import Slimmed, prove, prove_untrained
from slimkit.surgery.trials import Trial
from slimkit.training.distributed import local_device

Choose = Callable[[Graph, Tensor, Tensor], Mask]  # (graph, scores [U], fixed bool [U]) -> mask


@dataclass(frozen=True)
class Selection:
    """Which channels should go, as the run asks for it.

    Attributes:
        budget: what may be left.
        widths: which counts of channels a group may keep.
        ranking: criterion, a key of `slimkit.selection.ranking.CRITERIA`.
        scope: where channels compete, see `slimkit.selection.scope`.
        context: what the criterion may need: a seed, batches.
        inputs: what proofs run networks on.
        keep: layers whose channels all stay, by name or pattern.
        without_bn: `keep`: channels that no BatchNorm scales stay too.
        fold: the constants of removed channels go to what reads them; else they are dropped.
        measured: chooses masks for a budget that has to be measured; None for others.
    """

    budget: Budget
    widths: Widths
    ranking: str
    scope: str
    context: Context
    inputs: Sequence[Example | Trial]
    keep: tuple[str, ...] = ()
    without_bn: str = "norm"
    fold: bool = True
    measured: Solve | None = None

    @property
    def ratio(self) -> float | None:
        """Share of the removable units to remove; None where the budget is another."""
        return self.budget.value if self.budget.kind == "ratio" else None

    def fixed(self, graph: Graph) -> Tensor:
        """Return the units that stay on request, bool [U]."""
        return fixed_units(graph, self.keep, self.without_bn)

    def rank(self, model: nn.Module, graph: Graph) -> Tensor:
        """Score every unit, [U]; the lowest go first."""
        return rank(self.ranking, model, graph, self.scope, self.context)

    def choose(self, graph: Graph, scores: Tensor, fixed: Tensor) -> Mask:
        """Return the mask that meets the budget."""
        return choose_within_reach(graph, scores, self.budget, self.widths, fixed, self.measured)

    def part(self, ratio: float) -> "Selection":
        """Return the same with another ratio as the budget."""
        return replace(self, budget=Budget("ratio", ratio), measured=None)

    def slim(self, model: nn.Module, graph: Graph, choose: Choose | None = None, untrained: bool = False) -> Slimmed:
        """Rank, choose, remove and prove; `choose` gives the mask unless the budget is to."""
        scores, chosen = self.rank(model, graph), choose or self.choose
        proven = prove_untrained if untrained else prove
        return proven(model, graph, lambda fixed: chosen(graph, scores, fixed), self.inputs, self.fixed(graph))

    def watched_ratio(self, graph: Graph) -> float:
        """Return the ratio asked for, or about what another budget comes to."""
        if self.ratio is not None:
            return self.ratio
        return self._by_chance(graph).removed / max(1, graph.units - int(self.fixed(graph).sum()))

    def check_reach(self, graph: Graph) -> None:
        """Refuse a budget that is out of reach whatever the scores; one that has to be measured is left to the run.

        Raises:
            MaskError, BudgetError: nothing can be removed, or not as much.
        """
        if self.measured is None:
            self._by_chance(graph)

    def counts_beforehand(self, graph: Graph) -> tuple[int, ...] | None:
        """Return the channels that each group keeps, where all scores give the same: groups lose one share each."""
        fixed = self.fixed(graph)
        stay = [int(fixed[group.members].sum()) for group in graph.groups]
        in_part = any(0 < some < len(group.members) for some, group in zip(stay, graph.groups, strict=True))
        if self.ratio is None or self.scope != "group" or in_part:
            return None
        return tuple(self._by_chance(graph).counts(graph))

    def _by_chance(self, graph: Graph) -> Mask:
        chance = torch.rand(graph.units, generator=torch.Generator().manual_seed(0))
        return self.choose(graph, by_scope(graph, chance, "group"), self.fixed(graph))


@dataclass(frozen=True)
class Job:
    """What a method works on.

    Attributes:
        dense: the network with fresh weights; untouched.
        graph: its channels.
        dataset: what to train on.
        recipe: how every network is trained; its epochs are those of the whole run.
        selection: which channels should go.
        fresh: builds the dense network with other weights.
        store: where the state of the run is kept; None keeps none.
        progress: told what is being done, and the share done.
        watchers: told how each training goes.
        conditions: what latencies are of.
        speaks: this process speaks for the run; of several, one does.
    """

    dense: nn.Module
    graph: Graph
    dataset: data.Dataset
    recipe: training.Recipe
    selection: Selection
    fresh: Callable[[], nn.Module]
    store: training.Store | None
    progress: Progress
    watchers: Sequence[Watcher] = ()
    conditions: Conditions = Conditions()
    speaks: bool = True

    @property
    def device(self) -> torch.device:
        """Where networks are judged, and statistics measured: where they are trained, but for MPS."""
        return local_device(working_device(self.recipe.device))

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        images = len(self.dataset.train)
        return max(1, images // min(self.recipe.batch_size, max(1, images)))

    @cached_property
    def example(self) -> Example:
        """One input like those of the data, of a batch of one: zeros, and whole numbers as the first one has them."""
        inputs, _ = next(iter(self.dataset.validation.batches(1)))
        found: Example = tree_map_only(Tensor, lambda one: _zero(one.detach().cpu()), inputs)
        return found

    def macs(self, keep: Mask | None = None) -> int:
        """Return the MACs of the dense network, or of what a mask leaves of it."""
        return self.graph.macs((keep or Mask.full(self.graph)).keep)


def _zero(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.is_floating_point() else tensor
