"""Stop and shrink: a hook that watches a training run, draws once, and lets the small network go on."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.errors import ProofError, TrainingError
from slimkit.methods import snapshot as lottery_ticket
from slimkit.methods.early_bird import EarlyBird
from slimkit.methods.snapshot import Snapshot
from slimkit.selection.mask import Mask, distance
from slimkit.surgery.remove import kept_indices, remove
from slimkit.training import Hook, Run, build, follow, low_precision, penalise_gamma_, penalise_groups_
from slimkit.training.penalty import gammas

BINS = 40  # of the histograms of gamma over time
_MOST = 60  # looks in the report's matrix and histograms; of more, some are left out evenly


@dataclass(frozen=True)
class Plan:
    """What to watch and when to draw.

    Attributes:
        every: steps between two looks.
        at: step at which to draw in any case, None: never.
        trigger: draw as soon as the mask has settled.
        init: weights of the small network: `inherit`, `rewind` or `fresh`.
        rewind_step: for `rewind`; not after the draw.
        penalty, strength: what is penalised until the draw, `gamma` or `group`, and how much.
        spend: cost of the whole run as a share of one dense training: the small network trains on until it is
            spent; None: it trains for the rest of the epochs.
    """

    every: int
    at: int | None
    trigger: bool = True
    init: str = "inherit"
    rewind_step: int = 0
    penalty: str = "gamma"
    strength: float = 0.0
    spend: float | None = None


@dataclass(frozen=True)
class Cut:
    """A network made smaller.

    Attributes:
        model: the small network, weights inherited.
        mask: what stayed.
        kept: tensors and plain values for whoever asked for the cut.
    """

    model: nn.Module
    mask: Mask
    kept: dict[str, Any]


@dataclass
class Shrinking:
    """One ticket in the making.

    Attributes:
        graph: channels of the network that is trained first.
        bird: watches the masks.
        plan: when to draw and what to go on with.
        cut: makes the network smaller that it is given: a copy on the CPU, in eval mode.
        fresh: builds the dense network anew, for `init = fresh`.
        drawn: what the cut gave; its model is not that of the run, which trains on.
        drawn_step: steps done before the draw.
        looks: steps done before each look.
        histograms: counts of |gamma| in `BINS` equal bins from 0 to `top`, one row a look.
        masks: bool [U], what the mask of the bird's ratio kept, one a look.
        epochs: of the run, where `spend` has changed them.
        never_rewound: the draw came before the step to rewind to.
    """

    graph: Graph
    bird: EarlyBird
    plan: Plan
    cut: Callable[[nn.Module], Cut]
    fresh: Callable[[], nn.Module]
    snapshot: Snapshot | None = None
    drawn: Cut | None = None
    drawn_step: int | None = None
    looks: list[int] = field(default_factory=list)
    histograms: list[list[int]] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    top: float = 0.0
    epochs: int | None = None
    never_rewound: bool = False

    def hook(self) -> Hook:
        """Return what `training.train` takes."""
        penalise = self.penalty_hook(self.graph).gradients
        return Hook(gradients=penalise, after_step=self._after_step, save=self.state, restore=self._restore)

    def penalty_hook(self, graph: Graph) -> Hook:
        """Return the penalty alone, for a later pass on a network with another graph."""

        def penalise(run: Run) -> None:
            if self.drawn is not None or not self.plan.strength:
                return
            if self.plan.penalty == "group":
                penalise_groups_(run.model, graph, self.plan.strength)
            else:
                penalise_gamma_(run.model, self.plan.strength)

        return Hook(gradients=penalise)

    def start_from(self, model: nn.Module) -> None:
        """Take the weights to rewind to from a network before its first step."""
        self.snapshot = lottery_ticket.take(model, None, 0)

    def _after_step(self, run: Run) -> None:
        if self.drawn is not None:
            return
        if self.plan.init == "rewind" and run.step == self.plan.rewind_step:
            self.snapshot = lottery_ticket.take(run.model, run.optimizer, run.step)
        settled = False
        if run.step % self.plan.every == 0:
            if not all(bool(gamma.isfinite().all()) for _, gamma in gammas(run.model)):
                raise TrainingError(
                    f"gammas are not finite after step {run.step} of {run.budget} (learning rate "
                    f"{run.learning_rate:.3g}): training has diverged.\n  Lower the learning rate"
                )
            settled = self.bird.observe(run.model) and self.plan.trigger
            self.masks.append(self.bird.latest.keep)
            self._note_gammas(run)
        if settled or run.step == self.plan.at:
            self._draw(run)

    def _note_gammas(self, run: Run) -> None:
        found = [gamma.detach().abs().float().cpu() for _, gamma in gammas(run.model)]
        values = torch.cat(found) if found else torch.zeros(1)
        if not self.looks:
            self.top = 1.5 * float(values.max()) or 1.0
        self.looks.append(run.step)
        counts = torch.histc(values.clamp(max=self.top), BINS, 0, self.top)
        self.histograms.append(counts.int().tolist())

    def _draw(self, run: Run) -> None:
        dense = run.model
        low_precision.restore_(dense)
        copied = copy.deepcopy(dense).to("cpu").to(memory_format=torch.contiguous_format).eval()
        try:
            self.drawn, self.drawn_step = self.cut(copied), run.step
        except ProofError as error:  # training has diverged, or surgery failed
            where = f"after step {run.step} of {run.budget}, at a learning rate of {run.learning_rate:.3g}"
            raise ProofError(f"{where}: {error}") from error
        small, mask = self.drawn.model, self.drawn.mask
        if self.plan.init == "rewind":
            if self.snapshot is None:
                self.never_rewound = True
                run.notes.append(
                    f"the mask was drawn at step {run.step}, before rewind_step = {self.plan.rewind_step}: "
                    "weights were inherited instead"
                )
            else:
                lottery_ticket.put_(self.snapshot, dense, run.optimizer)
                small = remove(dense, self.graph, mask)
                run.rewind(self.snapshot.step)
        if self.plan.init == "fresh":
            recipe = run.recipe
            small = remove(self.fresh(), self.graph, mask).to(run.device)
            optimizer = build(small, recipe.learning_rate, recipe.momentum, recipe.weight_decay)
        else:
            small = small.to(run.device)
            optimizer = follow(run.optimizer, dense, small, kept_indices(self.graph, mask))
        if self.plan.spend is not None:
            self.epochs = self._affordable(run)
            run.recipe = replace(run.recipe, epochs=self.epochs)
        run.replace(small.train(), optimizer)

    def _affordable(self, run: Run) -> int:
        """Return the epochs of the run that use up what may be spent; not fewer than without the limit."""
        assert self.drawn is not None and self.plan.spend is not None
        full = self.graph.macs(Mask.full(self.graph).keep)
        small = self.graph.macs(self.drawn.mask.keep)
        left = self.plan.spend * run.budget - run.done
        steps = run.step + left * full / small
        return max(run.recipe.epochs, int(steps / run.steps_per_epoch))

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        drawn = self.drawn
        return {
            "bird": self.bird.state(),
            "snapshot": self.snapshot.state() if self.snapshot and drawn is None else None,
            "drawn": None if drawn is None else [drawn.mask.keep, drawn.kept],
            "drawn_step": self.drawn_step,
            "looks": self.looks,
            "histograms": self.histograms,
            "masks": self.masks,
            "top": self.top,
            "epochs": self.epochs,
            "never_rewound": self.never_rewound,
        }

    def _restore(self, run: Run, state: dict[str, Any]) -> None:
        self.bird.restore(state["bird"])
        self.snapshot = Snapshot(**state["snapshot"]) if state["snapshot"] else None
        self.looks, self.histograms = list(state["looks"]), list(state["histograms"])
        self.masks = list(state["masks"])
        self.drawn_step, self.top, self.epochs = state["drawn_step"], state["top"], state["epochs"]
        self.never_rewound = state["never_rewound"]
        if state["drawn"] is not None:
            keep, kept = state["drawn"]
            dense, mask = run.model, Mask(keep)
            low_precision.restore_(dense)
            small = remove(dense, self.graph, mask)
            self.drawn = Cut(small, mask, kept)
            run.replace(small, follow(run.optimizer, dense, small, kept_indices(self.graph, mask)))
        if self.epochs is not None:
            run.recipe = replace(run.recipe, epochs=self.epochs)

    def record(self, steps_per_epoch: int) -> dict[str, Any]:
        """Return what the looks gave, for the report: ratios, distances, matrix, histograms by epoch."""
        bird = self.bird
        epochs = [look / steps_per_epoch for look in self.looks]
        to_the_end = bool(self.looks) and self.drawn is None
        stride = -(-len(self.looks) // _MOST) or 1
        shown = range(0, len(self.looks), stride)
        edges = [self.top * i / BINS for i in range(BINS + 1)]
        return {
            "ratios": {
                str(ratio): self._ratio_record(ratio, epochs, bird.newest(ratio) if to_the_end else None)
                for ratio in bird.ratios
            },
            "distances": [
                {"epoch": epoch, "distance": seen.distances[bird.ratio]}
                for epoch, seen in zip(epochs, bird.observations, strict=True)
            ],
            "matrix": [[distance(Mask(self.masks[i]), Mask(self.masks[j])) for j in shown] for i in shown],
            "epochs": [epochs[i] for i in shown],
            "gamma_history": [{"epoch": epochs[i], "edges": edges, "counts": self.histograms[i]} for i in shown],
        }

    def _ratio_record(self, ratio: float, epochs: list[float], final: Mask | None) -> dict[str, Any]:
        draw = self.bird.draws.get(ratio)
        epoch = None if draw is None else epochs[draw.observation]
        if ratio == self.bird.ratio and self.drawn_step is not None and self.looks:
            epoch = self.drawn_step * epochs[0] / self.looks[0]  # also where the policy drew before it settled
        return {
            "epoch": epoch,
            "settled": draw is not None,
            "distance_to_final": None if draw is None or final is None else distance(draw.mask, final),
        }
