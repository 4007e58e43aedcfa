"""Surgery in the middle of a training run: the small network takes the dense one's place and trains on."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from slimkit.channels import Graph
from slimkit.errors import ProofError, SpecError
from slimkit.methods import snapshot as snapshots
from slimkit.methods.cut import Cut
from slimkit.methods.job import Job
from slimkit.methods.snapshot import Snapshot
from slimkit.methods.train import OVERSPENT, whole_epochs
from slimkit.modules import copied
from slimkit.quantity import number_of
from slimkit.selection.mask import Mask
from slimkit.settings import Budget, Settings, setting
from slimkit.settings.checks import choice, number, optional, whole
from slimkit.surgery.remove import kept_indices, remove
from slimkit.training import Run, Trained, follow, low_precision, make_optimizer

_REWIND = "Add init='rewind', or leave it out"


@dataclass(frozen=True, kw_only=True)
class StartSettings(Settings):
    """Settings of what the small network begins from."""

    init: str = setting(
        "inherit",
        "weights after the cut: inherit, rewind (to rewind_step), fresh",
        choice("inherit", "rewind", "fresh"),
    )
    rewind_step: int = setting(0, "step whose weights init = rewind goes back to", whole(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init != "rewind":
            self.refuse_idle(("rewind_step",), f"init is {self.init!r}, which goes back to no step", _REWIND)


def idle_constants(config: StartSettings, budget: Budget) -> dict[str, str]:
    """Return the setting of a run that is of no use where the small network begins from other weights, and why."""
    if config.init == "inherit":
        return {}
    return {"constants": f"init is {config.init!r}, and to such weights nothing is folded"}


def refuse_late(job: Job, rewind_step: int) -> None:
    """Refuse to rewind to a step that the schedule has not: a `SpecError`."""
    steps = round(job.recipe.epochs * job.steps)
    if rewind_step >= steps:
        raise SpecError(
            f"rewind_step is {rewind_step}: the schedule has only {number_of(steps, 'step')}.\n  Give an earlier one"
        )


def too_late(step: int, config: StartSettings) -> str:
    """Say that a cut came before the step to rewind to."""
    drawn = f"the mask was drawn at step {step}, before rewind_step = {config.rewind_step}"
    return f"{drawn}: weights were inherited instead"


@dataclass(frozen=True, kw_only=True)
class SpendSettings(Settings):
    """Setting of a search that ends within one schedule."""

    spend: float | None = setting(
        None,
        "train the small network on until the run has cost this share of one dense training; "
        "default: for the rest of the epochs",
        optional(number(0, 1, above=True)),
    )


@dataclass(frozen=True, kw_only=True)
class Lowered(Settings):
    """Setting of the arithmetic of a search."""

    search_precision: str = setting(
        "auto",
        "of the search: auto (as precision says), fp32, bf16, int8-emulated",
        choice("auto", "fp32", "bf16", "int8-emulated"),
    )


def on_cpu(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in eval mode, of a network in training."""
    return copied(model).to("cpu").to(memory_format=torch.contiguous_format).eval()


def cut_in(run: Run, cutter: Callable[[nn.Module], Cut]) -> Cut:
    """Cut a copy of the network in training.

    Raises:
        ProofError: training has diverged, or surgery failed; with the step.
    """
    low_precision.restore_(run.model)
    try:
        return cutter(on_cpu(run.model))
    except ProofError as error:
        where = f"after step {run.step} of {run.budget}, at a learning rate of {run.learning_rate:.3g}"
        raise ProofError(f"{where}: {error}") from error


def go_on(run: Run, graph: Graph, mask: Mask, small: nn.Module) -> None:
    """Let a small network, cut from the one in training, take its place; momentum follows."""
    dense, small = run.model, small.to(run.device)
    run.replace(small.train(), follow(run.optimizer, dense, small, kept_indices(graph, mask)))


def go_back(
    run: Run, dense: nn.Module, optimizer: torch.optim.Optimizer, graph: Graph, mask: Mask, to: Snapshot
) -> None:
    """Let a small network go on with weights, momentum, schedule and data of an earlier step.

    Args:
        run: to take back.
        dense, optimizer: the dense network and its optimizer; both become what they were.
        graph, mask: what is cut from it.
        to: weights and momentum of the dense network at that step.
    """
    snapshots.put_(to, dense, optimizer)
    small = remove(dense, graph, mask).to(run.device)
    followed = follow(optimizer, dense, small, kept_indices(graph, mask))
    run.replace(small.train(), followed, to.step)


def begin_anew(run: Run, graph: Graph, mask: Mask, fresh: nn.Module) -> None:
    """Let a small network with fresh weights take the dense one's place; the schedule goes on."""
    small, recipe = remove(fresh, graph, mask).to(run.device), run.recipe
    run.replace(small.train(), make_optimizer(small, recipe))


def resume_small(run: Run, graph: Graph, mask: Mask) -> None:
    """Give a resumed run the small network that it had, before its weights are loaded."""
    low_precision.restore_(run.model)
    go_on(run, graph, mask, remove(run.model, graph, mask))


def lengthen(run: Run, epochs: int) -> None:
    """Let a run take so many epochs in all."""
    run.recipe = replace(run.recipe, epochs=epochs)


def affordable(run: Run, spend: float, spent: float, small: float) -> int:
    """Return the epochs of a run that use up what may be spent; not fewer than without the limit, which is noted.

    Args:
        run: at the cut; it goes on from its step.
        spend: share of one dense training that the whole run may cost.
        spent: what it has cost, in steps of the dense network.
        small: MACs of the small network as a share of the dense one's.
    """
    steps = run.step + (spend * run.budget - spent) / small
    cost = (spent + (run.budget - run.step) * small) / run.budget
    if cost > OVERSPENT * spend:
        run.notes.append(
            f"spend is {spend:g}, but the run costs {cost:.2f} of one dense training without being lengthened: the "
            f"search {spent / run.budget:.2f}, the rest its small network. Spend more, draw sooner, or remove more"
        )
    return max(int(run.recipe.epochs), whole_epochs(steps / run.steps_per_epoch))


def lowered(model: nn.Module, precision: str) -> nn.Module:
    """Return a network whose training passes run in a precision of their own; the network itself for `auto`."""
    if precision == "auto":
        return model
    model = copied(model)
    low_precision.lower_(model, precision)
    return model


def searched_in(precision: str, trained: Trained) -> str:
    """Return what a search ran in: a precision of its own, else that of its training."""
    return trained.precision if precision == "auto" else precision
