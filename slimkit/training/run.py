"""A training run under way, and the plain functions that may watch and change it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.results import Epoch
from slimkit.training.losses import EpochLosses
from slimkit.training.recipe import Recipe


@dataclass(frozen=True)
class Phase:
    """How many images one network has been trained on, and how long; surgery begins a new phase, and so does a rewind.

    Seconds are those of the loop, with data, validation and hooks; `cpu_seconds` are this process's.
    """

    first_step: int
    images: int
    seconds: float = field(default=0.0, compare=False)
    cpu_seconds: float = field(default=0.0, compare=False)


@dataclass
class Run:
    """A run under way.

    Attributes:
        model: the network in training, on `device`.
        optimizer: its own.
        step: number of the next step, of `budget`; schedule and data order are functions of it alone.
        done: steps done, with those that a rewind has undone.
        loss: of the last step that was read; NaN before the first.
        history: one entry an epoch.
        phases: one entry a network, and one more whenever a network was rewound.
        notes: what the user should know.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    steps_per_epoch: int
    device: torch.device
    memory_format: torch.memory_format = torch.contiguous_format
    step: int = 0
    done: int = 0
    history: list[Epoch] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=lambda: [Phase(0, 0)])
    notes: list[str] = field(default_factory=list)
    losses: EpochLosses = field(default_factory=EpochLosses)

    @property
    def budget(self) -> int:
        """Steps of the whole run: at least one where anything is to be trained."""
        return max(1, round(self.recipe.epochs * self.steps_per_epoch)) if self.recipe.epochs else 0

    @property
    def loss(self) -> float:
        """Loss of the last step that was read; NaN before the first."""
        return self.losses.last

    @property
    def learning_rate(self) -> float:
        """Rate of the step that is due, or was done last."""
        return float(self.optimizer.param_groups[0]["lr"])

    def replace(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int | None = None) -> None:
        """Go on with another network, at this step or an earlier one: call it from a hook.

        Args:
            model: the network.
            optimizer: its own.
            step: to go back to, as `rewind` does.
        """
        self.model = model.to(self.device).to(memory_format=self.memory_format)
        self.optimizer = optimizer
        align(optimizer)
        if step is None:
            self.phases.append(Phase(self.step, 0))
        else:
            self.rewind(step)

    def rewind(self, step: int) -> None:
        """Go back to a step: schedule and data order resume there. Weights are the caller's business.

        Raises:
            DivergedError: a loss that was not read until now is not finite.
        """
        self.losses.read()
        self.step = step
        self.losses.forget()
        self.phases.append(Phase(step, 0))


@dataclass(frozen=True, kw_only=True)
class Hook:
    """Functions called while a run goes on; each is optional.

    Attributes:
        gradients: after the backward pass, before the optimizer's step.
        after_step: `run.step` is the next step by then.
        after_epoch: after the epoch has been entered in `run.history`.
        save: returns tensors, numbers, strings, lists and dicts of them: all that a resumed run needs.
        restore: gets that back before weights are loaded; gives `run.model` the shape it had.
    """

    gradients: Callable[[Run], None] | None = None
    after_step: Callable[[Run], None] | None = None
    after_epoch: Callable[[Run], None] | None = None
    save: Callable[[], dict[str, Any]] | None = None
    restore: Callable[[Run, dict[str, Any]], None] | None = None


def align(optimizer: torch.optim.Optimizer) -> None:
    """Give all that an optimizer remembers of a parameter its memory layout, as fused kernels need it."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.dim():
                state[name] = torch.empty_like(parameter).copy_(value).detach()
