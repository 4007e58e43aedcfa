"""Progressive shrinking: channels that training has brought to nothing go at once, while it trains on.

After PruneTrain, Lym et al. 2019, arXiv:1901.09290: a group lasso from the first step pulls all weights coupled to a
channel to zero together; what has died is removed physically, so that every step costs as much as the network that is
left. Departs from it: a budget says when to stop, and what is missing at the deadline is cut by rank.

U = units of the dense network's graph; in training the network has fewer.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import training
from slimkit.channels import Graph
from slimkit.errors import SpecError
from slimkit.methods.cut import Cut, all_shown, evidence_of, named, restored, settle
from slimkit.methods.job import Job
from slimkit.methods.method import Found, Method, leg
from slimkit.methods.penalised import Pulled, penalty_of
from slimkit.methods.rounds import composed
from slimkit.methods.shrink import (
    SpendSettings,
    StartSettings,
    affordable,
    begin_anew,
    go_back,
    go_on,
    idle_constants,
    lengthen,
    on_cpu,
    resume_small,
    too_late,
)
from slimkit.methods.snapshot import Snapshot, take, widened
from slimkit.methods.train import train
from slimkit.modules import copied
from slimkit.results import Search
from slimkit.selection.budget import blocks
from slimkit.selection.mask import Mask
from slimkit.settings import setting
from slimkit.settings.checks import number, optional, whole
from slimkit.surgery.evidence import Evidence
from slimkit.surgery.prove import Slimmed, prove
from slimkit.surgery.remove import kept_indices, remove
from slimkit.surgery.traced import trace
from slimkit.training import Hook, Run, make_optimizer

LOOKS = 8  # until the deadline at least, one an epoch at most


@dataclass(frozen=True, kw_only=True)
class ProgressiveConfig(Pulled, StartSettings, SpendSettings):
    """How hard channels are pulled, when they are dead, and until when to wait."""

    dead: float = setting(
        0.05,
        "norm below which a channel is dead, 1 where training begins, in (0, 1)",
        number(0, 1, above=True, below=True),
    )
    removal: int | None = setting(
        None,
        "steps between two removals; default: an epoch, or an eighth of the deadline where that is less",
        optional(whole(1)),
    )
    until: float = setting(
        0.5,
        "share of the steps after which what is missing is cut by rank, in (0, 1)",
        number(0, 1, above=True, below=True),
    )


@dataclass
class Removal:
    """A network that gets smaller as it is trained: a hook of that training.

    Attributes:
        job, config: what was asked.
        every, at: steps between two removals; step of the last one.
        graph: channels of the network in training.
        masks: over the dense network, one for each network that was trained, the first one full.
        cut: the last removal, over the dense network; None before.
        cut_step: steps done before it.
        snapshot: what to rewind to.
        taken: the place in `masks` of the network that the snapshot is of.
        epochs: of the run, where `spend` has changed them.
    """

    job: Job
    config: ProgressiveConfig
    every: int
    at: int
    graph: Graph
    masks: list[Mask]
    cut: Cut | None = None
    cut_step: int | None = None
    snapshot: Snapshot | None = None
    taken: int = 0
    epochs: int | None = None
    evidence: list[Evidence] = field(default_factory=list)

    @property
    def never_rewound(self) -> bool:
        """Whether the last removal came before the step to rewind to."""
        return self.config.init == "rewind" and (self.cut_step or 0) < self.config.rewind_step

    def hook(self) -> Hook:
        """Return what `training.train` takes."""
        return Hook(after_step=self._after_step, save=self._state, restore=self._restore)

    def _after_step(self, run: Run) -> None:
        if self.cut is not None:
            return
        if self.config.init == "rewind" and run.step == self.config.rewind_step:
            self.snapshot, self.taken = take(run.model, run.optimizer, run.step), len(self.masks) - 1
        if run.step == self.at or run.step % self.every == 0:
            self._remove(run, on_cpu(run.model), last=run.step >= self.at)

    def _remove(self, run: Run, model: nn.Module, last: bool) -> None:
        job, chosen = self.job, self.job.selection
        alive, fixed = self.masks[-1].keep, chosen.fixed(job.graph)
        norms = self._spread(training.unit_norms(model, self.graph) / self.graph.coupled.tensors[:-1].sqrt(), 0.0)
        dead = (norms < self.config.dead) & ~fixed
        scores = self._spread(chosen.rank(model, self.graph), 0.0)
        scores = torch.where(dead, norms - 1 - scores.abs().max(), scores)  # the dead go first
        if last or chosen.measured is None:
            wanted = chosen.choose(job.graph, scores, fixed).keep & alive
            if last or not bool((alive & ~wanted & ~dead).any()):
                self._finish(run, model, Mask(wanted))
                return
        found = blocks(job.graph, scores, chosen.widths, fixed)
        gone = [units for units in map(found.of, range(len(found.groups))) if bool(dead[units].all())]
        keep = alive.clone()
        for units in gone:
            keep[units] = False
        if bool((keep != alive).any()):
            made = self._prove(model, Mask(keep))
            go_on(run, self.graph, made.mask, remove(run.model, self.graph, made.mask))
            self._took(made)

    def _spread(self, values: Tensor, gone: float) -> Tensor:
        """Return values of the network in training as values of the dense one, [U]; high where it has none."""
        found = torch.full((self.job.graph.units,), gone)
        for left, members in self._pairs():
            found[left] = float(values.max()) + 1 if members is None else values[members].float()
        return found

    def _pairs(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return, per group of the dense network, the units that are left and what they are called now."""
        alive = self.masks[-1].keep
        now = {group.name: group.members for group in self.graph.groups}
        groups = self.job.graph.groups
        return [(group.members[alive[group.members]], now.get(group.name)) for group in groups]

    def _prove(self, model: nn.Module, mask: Mask) -> Slimmed:
        """Remove units of the dense network's graph from the network in training, and prove it."""
        keep = torch.ones(self.graph.units, dtype=torch.bool)
        for left, members in self._pairs():
            if members is not None:
                keep[members] = mask.keep[left]
        return prove(model, self.graph, lambda fixed: Mask(keep | fixed), self.job.selection.inputs)

    def _took(self, made: Slimmed) -> None:
        self.evidence.append(made.evidence)
        self.masks.append(composed(self.job.graph, self.masks[-1], self.graph, made.mask))
        self.graph = trace(on_cpu(made.model), self.job.example)

    def _finish(self, run: Run, model: nn.Module, mask: Mask) -> None:
        """Cut for the last time, and go on with the small network."""
        job, config = self.job, self.config
        spent = self._spent(run)
        made = self._prove(model, mask)
        inherit = config.init == "inherit" or (config.init == "rewind" and self.snapshot is None)
        cut = settle(job, model, made, job.selection.fold and inherit)
        before = self.graph
        self._took(made)
        whole = replace(
            made, model=remove(job.dense, job.graph, self.masks[-1]), graph=job.graph, mask=self.masks[-1],
            fixed=job.selection.fixed(job.graph), evidence=all_shown(self.evidence),
        )  # fmt: skip
        self.cut, self.cut_step = replace(cut, slimmed=whole), run.step
        if config.init == "fresh":
            begin_anew(run, job.graph, whole.mask, job.fresh())
        elif config.init == "rewind" and self.snapshot is not None:
            dense = copied(job.dense).to(run.device)
            then = widened(self.snapshot, dense, kept_indices(job.graph, self.masks[self.taken]))
            go_back(run, dense, make_optimizer(dense, run.recipe), job.graph, whole.mask, then)
        else:
            go_on(run, before, made.mask, cut.model)
        if self.never_rewound:
            run.notes.append(too_late(run.step, config))
        if config.spend is not None:
            self.epochs = affordable(run, config.spend, spent, job.macs(whole.mask) / job.macs())
            lengthen(run, self.epochs)

    def _spent(self, run: Run) -> float:
        """Return what the run has cost so far, in steps of the dense network."""
        batch = min(run.recipe.batch_size, len(self.job.dataset.train))
        cost = sum(phase.images * self.job.macs(mask) for phase, mask in zip(run.phases, self.masks, strict=True))
        return cost / (batch * self.job.macs())

    def _state(self) -> dict[str, Any]:
        return {
            "masks": [mask.keep for mask in self.masks],
            "evidence": [one.to_dict() for one in self.evidence],
            "cut": None if self.cut is None else self.cut.state(),
            "cut_step": self.cut_step,
            "snapshot": self.snapshot.state() if self.snapshot and self.cut is None else None,
            "taken": self.taken,
            "epochs": self.epochs,
        }

    def _restore(self, run: Run, state: dict[str, Any]) -> None:
        self.masks = [Mask(keep) for keep in state["masks"]]
        self.evidence = [evidence_of(one) for one in state["evidence"]]
        self.cut_step, self.epochs = state["cut_step"], state["epochs"]
        self.snapshot = Snapshot(**state["snapshot"]) if state["snapshot"] else None
        self.taken = state.get("taken", 0)  # states of an earlier version have snapshots of the dense network alone
        if state["cut"] is not None:
            self.cut = restored(state["cut"], run.model, self.job.graph)
        if len(self.masks) > 1:
            resume_small(run, self.job.graph, self.masks[-1])
            self.graph = trace(on_cpu(run.model), self.job.example)
        if self.epochs is not None:
            lengthen(run, self.epochs)


def run(job: Job, config: ProgressiveConfig) -> Found:
    """Train with a group lasso, remove what dies, cut what is missing at the deadline, and train on: one schedule."""
    at = _last_removal(job, config)
    every = config.removal or max(1, min(job.steps, at // LOOKS))
    removal = Removal(job, config, every, at, job.graph, [Mask.full(job.graph)])
    if config.init == "rewind" and config.rewind_step == 0:
        removal.snapshot = take(job.dense, None, 0)
    penalty = penalty_of(job, config, "group", last=at)
    hooks = [penalty.hook(lambda: removal.graph, until=lambda: removal.cut is not None), removal.hook()]
    trained = train(job, job.dense, hooks=hooks)
    cut = removal.cut
    assert cut is not None and removal.cut_step is not None
    phases = list(zip(removal.masks, trained.phases, strict=True))
    legs = [leg(job.macs(mask), [phase], search=True) for mask, phase in phases[:-1]]
    legs.append(leg(job.macs(cut.mask), [trained.phases[-1]], search=False))
    search = Search(
        method=METHOD.name,
        init="inherit" if removal.never_rewound else config.init,
        history=trained.history,
        penalty=penalty.record(cut, removal.cut_step),
        drawn_epoch=removal.cut_step / job.steps,
    )
    notes = penalty.doubts(job, trained.history[: removal.cut_step // job.steps])
    return Found(named(trained.model, cut.model), (trained,), tuple(legs), search, cut, notes=notes)


def _last_removal(job: Job, config: ProgressiveConfig) -> int:
    return max(1, round(config.until * job.steps * job.recipe.epochs))


def _needed(job: Job, config: ProgressiveConfig) -> None:
    """Refuse a step to rewind to that comes too late, and a budget out of reach."""
    at = _last_removal(job, config)
    if config.init == "rewind" and config.rewind_step >= at:
        raise SpecError(
            f"rewind_step is {config.rewind_step}: the last removal is at step {at}.\n  Rewind to before it"
        )
    job.selection.check_reach(job.graph)


METHOD = Method(
    name="progressive",
    summary="group lasso; channels that die are removed while training goes on (after PruneTrain, Lym et al. 2019)",
    config=ProgressiveConfig,
    run=run,
    idle=idle_constants,
    ranking="group-norm",
    needs=_needed,
)
