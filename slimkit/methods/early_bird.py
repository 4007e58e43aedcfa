"""Early-bird tickets: draw the mask as soon as it has settled, and train only the small network on.

You et al. 2020, arXiv:1909.11957. Departs from the released code: the small network inherits its weights (there it
begins from fresh ones), masks have an exact count and never empty a group, gammas that do not move are no
evidence, see `slimkit.methods.observer`, and every group loses the same share: the paper's one threshold for the whole
network is `scope='global'`.
"""

from dataclasses import dataclass, replace
from typing import Any

from slimkit.errors import SpecError, TrainingError
from slimkit.methods.cut import Cut, cut, named, restored
from slimkit.methods.job import Job
from slimkit.methods.looks import Looks, Watched, looks_of
from slimkit.methods.method import Found, Method, leg
from slimkit.methods.observer import check_ranked
from slimkit.methods.penalised import FEWEST, NO_GAP, TOTAL, Penalised, Penalty, penalty_of
from slimkit.methods.shrink import (
    Lowered,
    SpendSettings,
    StartSettings,
    affordable,
    begin_anew,
    cut_in,
    go_back,
    go_on,
    idle_constants,
    lengthen,
    lowered,
    refuse_late,
    resume_small,
    searched_in,
    too_late,
)
from slimkit.methods.snapshot import Snapshot, take
from slimkit.methods.train import train
from slimkit.results import Search
from slimkit.settings import setting
from slimkit.settings.checks import number, optional, whole
from slimkit.training import Hook, Recipe, Run

# The penalty reaches its S within a tenth of the steps, or so many, of a schedule of so many epochs at the most. Spread
# over a whole long schedule it is too weak to hold small gammas down, and masks never settle: on 60 epochs of 78 steps
# they moved by 0.1 to 0.2 an epoch until the learning rate fell at epoch 30; on 160, a tenth of them, masks of 0.5 and
# 0.7 had not settled at epoch 80.
_TENTH, _SOONEST, _LONGEST = 0.1, 450, 60
# Times p / (1 - p) for a ratio of p, within these bounds: the more channels are to go, the harder it has to pull.
# On those 60 epochs masks of 0.5 settled at epoch 12 with one pull, of 0.7 at epoch 12 with 2.3 times as much; of 0.3
# with half as much at epochs 11 to 22.
_LEAST, _MOST = 1.0, 4.0
LATEST = 0.5  # share of the steps after which a mask that never settles is drawn, where no deadline was asked for


@dataclass(frozen=True, kw_only=True)
class EarlyBirdConfig(Watched, Penalised, StartSettings, SpendSettings, Lowered):
    """When to draw, and what to go on with."""

    penalty_total: float | None = setting(
        None,
        "S = lambda * sum(learning rate) / (1 - momentum) to reach in the first tenth of the steps, or the first "
        f"{_SOONEST}; more than {_LONGEST} epochs count as {_LONGEST}; default: 2 for gamma, 1 for group, times "
        f"p / (1 - p) for a ratio p above 0.5, in fewer than {FEWEST} steps less in proportion",
        optional(number(0)),
    )
    deadline: float | None = setting(
        None,
        "share of the steps after which a mask is drawn, settled or not, in (0, 1); default: it is drawn once it has "
        f"settled, after {LATEST:g} where it never does, and never while the scores of channels have not moved apart",
        optional(number(0, 1, above=True, below=True)),
    )
    at: int | None = setting(None, "epoch after which to draw, settled or not and no sooner", optional(whole(1)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at is not None and self.deadline is not None:
            raise SpecError(f"at is {self.at} and deadline is {self.deadline:g}: both say when.\n  Leave one of them")

    def latest(self, job: Job) -> int:
        """Return the step at which the mask is drawn in any case."""
        if self.at is None:
            return max(1, round((self.deadline or LATEST) * job.steps * job.recipe.epochs))
        if self.at > job.recipe.epochs:
            raise SpecError(f"at is {self.at}: the run has {job.recipe.epochs:g} epochs in all.\n  Draw sooner")
        return self.at * job.steps


@dataclass
class Shrinking:
    """One ticket in the making: a hook of the training that it shrinks.

    Attributes:
        job, config: what was asked.
        looks: at the masks.
        at: step at which the mask is drawn in any case.
        snapshot: what to rewind to.
        drawn: what the cut gave; its model is not that of the run, which trains on.
        drawn_step: steps done before the draw.
        epochs: of the run, where `spend` has changed them.
        never_rewound: the draw came before the step to rewind to.
    """

    job: Job
    config: EarlyBirdConfig
    looks: Looks
    at: int
    snapshot: Snapshot | None = None
    drawn: Cut | None = None
    drawn_step: int | None = None
    epochs: int | None = None
    never_rewound: bool = False

    def hook(self) -> Hook:
        """Return what `training.train` takes."""
        return Hook(after_step=self._after_step, save=self._state, restore=self._restore)

    def _after_step(self, run: Run) -> None:
        if self.drawn is not None:
            return
        config = self.config
        if config.init == "rewind" and run.step == config.rewind_step:
            self.snapshot = take(run.model, run.optimizer, run.step)
        settled = self.looks.due(run) and self.looks.look(run) and config.at is None
        last = run.step == self.at
        if (settled or last) and self._may_draw(run, last):
            self._draw(run)

    def _may_draw(self, run: Run, last: bool) -> bool:
        """Tell whether a draw would be more than chance, or was asked for all the same.

        Raises:
            TrainingError: it would be chance, nobody asked for it, and there is no later step to wait for.
        """
        asked = last and (self.config.at is not None or self.config.deadline is not None)
        if asked or self.looks.apart(run.model):
            return True
        if not last:
            return False
        what = "no gamma has moved" if self.looks.bird.ranking == "gamma" else "no channel's score has moved"
        raise TrainingError(
            f"{what} away from the others after {run.step} of {run.budget} steps, so any draw would be chance.\n"
            "  Give more epochs, let the BatchNorm layers train, or train a narrower network from its beginning: "
            "`method='scratch'`. To draw all the same, give `deadline` or `at`"
        )

    def _draw(self, run: Run) -> None:
        job, config, graph = self.job, self.config, self.job.graph
        self.never_rewound = config.init == "rewind" and self.snapshot is None
        inherit = config.init == "inherit" or self.never_rewound
        self.drawn = cut_in(run, lambda dense: cut(job, dense, graph, inherit=inherit))
        self.drawn_step, mask = run.step, self.drawn.mask
        spent = float(run.done)
        if config.init == "fresh":
            begin_anew(run, graph, mask, job.fresh())
        elif config.init == "rewind" and self.snapshot is not None:
            go_back(run, run.model, run.optimizer, graph, mask, self.snapshot)
        else:
            go_on(run, graph, mask, self.drawn.model)
        if self.never_rewound:
            run.notes.append(too_late(run.step, config))
        if config.spend is not None:
            self.epochs = affordable(run, config.spend, spent, job.macs(mask) / job.macs())
            lengthen(run, self.epochs)

    def _state(self) -> dict[str, Any]:
        return {
            "looks": self.looks.state(),
            "snapshot": self.snapshot.state() if self.snapshot and self.drawn is None else None,
            "drawn": None if self.drawn is None else self.drawn.state(),
            "drawn_step": self.drawn_step,
            "epochs": self.epochs,
            "never_rewound": self.never_rewound,
        }

    def _restore(self, run: Run, state: dict[str, Any]) -> None:
        self.looks.restore(state["looks"])
        self.snapshot = Snapshot(**state["snapshot"]) if state["snapshot"] else None
        self.drawn_step, self.epochs = state["drawn_step"], state["epochs"]
        self.never_rewound = state["never_rewound"]
        if state["drawn"] is not None:
            self.drawn = restored(state["drawn"], run.model, self.job.graph)
            resume_small(run, self.job.graph, self.drawn.mask)
        if self.epochs is not None:
            lengthen(run, self.epochs)


def run(job: Job, config: EarlyBirdConfig) -> Found:
    """Train with the penalty, draw once the mask has settled, and train the small network on, in one schedule."""
    at = config.latest(job)
    shrinking = Shrinking(job, config, looks_of(job, config, at), at)
    if config.init == "rewind" and config.rewind_step == 0:
        shrinking.snapshot = take(job.dense, None, 0)
    penalty = _penalty(job, config, shrinking.looks.bird.ratio)
    hooks = [penalty.hook(lambda: job.graph, until=lambda: shrinking.drawn is not None), shrinking.hook()]
    trained = train(job, lowered(job.dense, config.search_precision), hooks=hooks)
    drawn, step = shrinking.drawn, shrinking.drawn_step
    assert drawn is not None and step is not None
    notes = [*penalty.doubts(job, trained.history[: step // job.steps])]
    if config.at is None and shrinking.looks.bird.ratio not in shrinking.looks.bird.draws:
        notes.append(_why_unsettled(shrinking))
    elif penalty.strength and not penalty.gap(drawn):
        notes.append(NO_GAP)
    if not trained.phases[-1].images:
        notes.append("the mask was drawn at the last step: the small network was not trained; give more `epochs`")
    legs = [
        leg(job.macs(drawn.mask) if number else job.macs(), [phase], search=number == 0)
        for number, phase in enumerate(trained.phases)
    ]
    search = Search(
        method=METHOD.name,
        init="inherit" if shrinking.never_rewound else config.init,
        precision=searched_in(config.search_precision, trained),
        history=trained.history,
        penalty=penalty.record(drawn, step),
    )
    search = shrinking.looks.told(search, job.steps, step)
    return Found(named(trained.model, drawn.model), (trained,), tuple(legs), search, drawn, notes=tuple(notes))


def pull_of(ratio: float, kind: str = "gamma") -> float:
    """Return S, the pull that settles a mask of a ratio in (0, 1) early; `kind` as in `EarlyBirdConfig.penalty`."""
    return TOTAL[kind] * min(max(ratio / (1 - ratio), _LEAST), _MOST)


def early(recipe: Recipe, steps: int) -> tuple[Recipe, int]:
    """Return the recipe whose rates pull, and the step at which S is reached, early enough for a mask to settle.

    Args:
        recipe: of the training.
        steps: of an epoch.
    """
    budget = round(min(recipe.epochs, _LONGEST) * steps)
    return replace(recipe, epochs=min(recipe.epochs, _LONGEST)), min(budget, max(_SOONEST, round(_TENTH * budget)))


def _penalty(job: Job, config: EarlyBirdConfig, ratio: float) -> Penalty:
    recipe, last = early(job.recipe, job.steps)
    return penalty_of(job, config, config.penalty, pull_of(ratio, config.penalty), recipe, last)


def _needed(job: Job, config: EarlyBirdConfig) -> None:
    """Refuse a network that cannot be ranked, or penalised, as it is asked for.

    Raises:
        MaskError: gammas are needed, and there are none.
        SpecError: the ranking needs data, or the step to rewind to comes too late.
        BudgetError: the budget is out of reach.
    """
    check_ranked(job.graph, job.selection.ranking)
    refuse_late(job, config.rewind_step)
    penalty_of(job, config, config.penalty)
    job.selection.check_reach(job.graph)


def _why_unsettled(shrinking: Shrinking) -> str:
    """Say why a mask was drawn before it had settled."""
    drawn = f"step {shrinking.drawn_step}"
    if len(shrinking.looks.steps) > 1 and not shrinking.looks.moved:
        return (
            f"no gamma has moved, so the mask was drawn from where the network began ({drawn}): let its BatchNorm "
            "train, or rank by weights, `ranking='group-norm'`"
        )
    share = shrinking.config.deadline or LATEST
    return (
        f"the mask had not settled after {100 * share:g} % of the steps and was drawn as it was ({drawn}): "
        "give more epochs, or another rule or threshold"
    )


METHOD = Method(
    name="early-bird",
    summary="train with a penalty on gamma, cut as soon as the mask has settled, train on (You et al. 2020)",
    config=EarlyBirdConfig,
    run=run,
    idle=idle_constants,
    needs=_needed,
)
