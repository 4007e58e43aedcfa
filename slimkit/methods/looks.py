"""Looks at a network in training: what the masks would be, how far they moved, how the gammas spread.

U = units of the graph.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.errors import TrainingError
from slimkit.methods.job import Job
from slimkit.methods.observer import EarlyBird
from slimkit.methods.settled import Rule
from slimkit.results import GammaSnapshot, Look, Search, Settling
from slimkit.selection.mask import Mask, distance
from slimkit.selection.ranking import criterion
from slimkit.selection.scope import pools
from slimkit.settings import Settings, setting
from slimkit.settings.checks import choice, flag, number, optional, several, whole
from slimkit.training import Run
from slimkit.training.penalty import gammas

BINS = 40  # of the histograms of gamma over time
LOOKS = 8  # an epoch, or until the deadline
# How far scores must have moved apart, from the 10th to the 90th percentile, over where they began. Without a penalty
# gammas of ResNet-20 lie 0.02 apart after six steps, and those of ResNet-8 0.1 after twenty; where masks settle under
# one it was 0.4.
APART = 0.1
STANDING = 0.05  # share of the units that have to stand out where most have fallen below `APART` of their start
_MOST = 60  # looks in the report's matrix and histograms; of more, some are left out evenly


@dataclass(frozen=True, kw_only=True)
class Watched(Settings):
    """Settings of the looks and of the rule by which a mask has settled."""

    rule: str = setting(
        "consecutive",
        "when a mask has settled: consecutive, window (both of masks), architecture (of widths)",
        choice("consecutive", "window", "architecture"),
    )
    threshold: float = setting(0.1, "mask distance below which a mask has settled, in (0, 1]", number(0, 1, above=True))
    normalised: bool = setting(False, "divide mask distances by those of chance, 2p(1-p)", flag)
    interval: int | None = setting(
        None,
        "steps between two masks; default: an eighth of an epoch, or of the deadline where that comes first",
        optional(whole(1)),
    )
    watch: tuple[float, ...] = setting(
        (), "further ratios whose draw is watched and reported", several(number(0, 1, below=True))
    )


@dataclass
class Looks:
    """What was seen so far.

    Attributes:
        bird: watches the masks.
        every: steps between two looks.
        start: what ranked the units where training began, [U].
        steps: done before each look.
        histograms: counts of |gamma| in `BINS` equal bins from 0 to `top`, one row a look.
        masks: bool [U], what the mask of the bird's ratio kept, one a look.
    """

    bird: EarlyBird
    every: int
    start: Tensor
    steps: list[int] = field(default_factory=list)
    histograms: list[list[int]] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    top: float = 0.0

    def due(self, run: Run) -> bool:
        """Tell whether a look is due after this step."""
        return run.step % self.every == 0

    def look(self, run: Run) -> bool:
        """Look, and tell whether the mask has settled.

        Raises:
            TrainingError: the gammas are not finite.
        """
        if not all(bool(gamma.isfinite().all()) for _, gamma in gammas(run.model)):
            raise TrainingError(
                f"gammas are not finite after step {run.step} of {run.budget} (learning rate "
                f"{run.learning_rate:.3g}): training has diverged.\n  Lower the learning rate"
            )
        settled = self.bird.observe(run.model)
        self.masks.append(self.bird.latest.keep)
        found = [gamma.detach().abs().float().cpu() for _, gamma in gammas(run.model)]
        values = torch.cat(found) if found else torch.zeros(1)
        if not self.steps:
            self.top = 1.5 * float(values.max()) or 1.0
        self.steps.append(run.step)
        counts = torch.histc(values.clamp(max=self.top), BINS, 0, self.top)
        self.histograms.append(counts.int().tolist())
        return settled

    def apart(self, model: nn.Module) -> bool:
        """Tell whether what ranks the units has moved apart, so that their order is more than the chance of a start.

        Units that can go are compared within what competes, but for those that begin at 0, where no penalty pulls. That
        all gammas fall together, as they do under one while the loss defends none of them yet, says nothing about which
        to lose. Where most have fallen to nearly nothing it is enough that a few stand: the order of the others costs
        nothing.

        Args:
            model: the network in training.
        """
        change = self.bird.scores(model).cpu() - self.start
        free = self.bird.free
        free = free[self.start[free] > 0] if bool(self.start[free].any()) else free
        compared = torch.zeros_like(self.start, dtype=torch.bool).index_fill_(0, free, True)
        found = [units[compared[units]] for units in pools(self.bird.graph, self.bird.scope)]
        parts = [change[units] - change[units].median() for units in found if len(units)]
        away, least = torch.cat(parts), APART * (float(self.start[compared].median()) or 1.0)
        low, high = torch.quantile(away, torch.tensor([0.1, 0.9])).tolist()
        fallen = float((self.start + change)[compared].median()) <= least
        return bool(high - low >= least or (fallen and float((away >= least).float().mean()) >= STANDING))

    @property
    def moved(self) -> bool:
        """What ranks the channels has left its start, and moves."""
        return any(seen.evidence for seen in self.bird.observations[1:])

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on."""
        return {
            "bird": self.bird.state(),
            "looks": self.steps,
            "histograms": self.histograms,
            "masks": self.masks,
            "top": self.top,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.bird.restore(state["bird"])
        self.steps, self.histograms = list(state["looks"]), list(state["histograms"])
        self.masks, self.top = list(state["masks"]), state["top"]

    def told(self, search: Search, steps_per_epoch: int, drawn_step: int | None) -> Search:
        """Return the record of a search with what the looks gave: ratios, distances, matrix, histograms by epoch."""
        bird = self.bird
        epochs = [step / steps_per_epoch for step in self.steps]
        to_the_end = bool(self.steps) and drawn_step is None
        stride = -(-len(self.steps) // _MOST) or 1
        shown = range(0, len(self.steps), stride)
        edges = tuple(self.top * i / BINS for i in range(BINS + 1))
        ratios = {
            ratio: self._settling(ratio, epochs, bird.newest(ratio) if to_the_end else None) for ratio in bird.ratios
        }
        if drawn_step is not None and self.steps:  # also where it was drawn before it settled
            ratios[bird.ratio] = replace(ratios[bird.ratio], epoch=drawn_step / steps_per_epoch)
        return replace(
            search,
            watched=bird.ranking,
            rule=bird.rule.name,
            normalised=bird.rule.normalised,
            threshold=bird.rule.calibrated,
            drawn_epoch=None if drawn_step is None else drawn_step / steps_per_epoch,
            ratios={str(ratio): settling for ratio, settling in ratios.items()},
            distances=tuple(
                Look(epoch=epoch, distance=seen.distances[bird.ratio])
                for epoch, seen in zip(epochs, bird.observations, strict=True)
            ),
            matrix=tuple(
                tuple(distance(Mask(self.masks[i]), Mask(self.masks[j]), bird.free) for j in shown) for i in shown
            ),
            epochs=tuple(epochs[i] for i in shown),
            gamma_history=tuple(
                GammaSnapshot(epoch=epochs[i], edges=edges, counts=tuple(self.histograms[i])) for i in shown
            ),
        )

    def _settling(self, ratio: float, epochs: list[float], final: Mask | None) -> Settling:
        draw = self.bird.draws.get(ratio)
        return Settling(
            epoch=None if draw is None else epochs[draw.observation],
            settled=draw is not None,
            distance_to_final=None if draw is None or final is None else distance(draw.mask, final, self.bird.free),
        )


def watched_ranking(job: Job) -> str:
    """Return what ranks the channels of a look, which must be cheap: a criterion that needs data is not."""
    ranking = job.selection.ranking
    if criterion(ranking).needs != "data":
        return ranking
    return "gamma" if bool(job.graph.has_norm.any()) else "group-norm"


def looks_of(job: Job, config: Watched, at: int | None) -> Looks:
    """Return the looks that the settings ask for, before the first one.

    Args:
        job: what is known of the run.
        config: rule, interval, further ratios.
        at: step at which the mask is drawn at the latest.
    """
    chosen, steps = job.selection, job.steps
    every = config.interval or max(1, min(steps, at or steps) // LOOKS)
    bird = EarlyBird(
        job.graph,
        chosen.watched_ratio(job.graph),
        rule=Rule(config.rule, config.threshold, config.normalised, interval=every / steps),
        watch=config.watch,
        cap=chosen.widths.cap,
        fixed=chosen.fixed(job.graph),
        ranking=watched_ranking(job),
        scope=chosen.scope,
    )
    return Looks(bird, every, bird.scores(job.dense).cpu())
