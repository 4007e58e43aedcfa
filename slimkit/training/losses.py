"""The losses of a run's steps: on a GPU several are read at a time, as each reading waits for it."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from slimkit.errors import DivergedError

AT_A_TIME = 20


@dataclass(frozen=True)
class StepLoss:
    """What a step had.

    Attributes:
        step: its number, from 0.
        steps: of the whole run, as was known then.
        learning_rate: that it was done with.
        loss: before it.
    """

    step: int
    steps: int
    learning_rate: float
    loss: float


@dataclass
class EpochLosses:
    """Losses of the epoch under way.

    Attributes:
        epoch: those that were read, a step each.
        last: the last one that was read; NaN before the first.
        untold: what was read and not taken yet; without anybody who takes it, the last ones.
        waiting: steps whose loss was not read yet.
        mean: makes one loss of those of all processes.
    """

    epoch: list[float] = field(default_factory=list)
    last: float = math.nan
    untold: deque[StepLoss] = field(default_factory=lambda: deque(maxlen=2 * AT_A_TIME))
    waiting: list[tuple[int, int, float, Tensor]] = field(default_factory=list)
    mean: Callable[[Tensor], Tensor] = lambda values: values

    def add(self, step: int, steps: int, learning_rate: float, value: Tensor) -> None:
        """Add the loss of a step, which is read at once where that costs nothing."""
        self.waiting.append((step, steps, learning_rate, value.detach()))
        if value.device.type == "cpu" or len(self.waiting) >= AT_A_TIME:
            self.read()

    def read(self) -> None:
        """Read what waits.

        Raises:
            DivergedError: one is not finite.
        """
        waiting, self.waiting = self.waiting, []
        values = self.mean(torch.stack([value for *_, value in waiting])).tolist() if waiting else []
        read = [StepLoss(*one[:3], value) for one, value in zip(waiting, values, strict=True)]
        for one in read:
            if not math.isfinite(one.loss):
                at = f"step {one.step} of {one.steps} (learning rate {one.learning_rate:.3g})"
                raise DivergedError(
                    f"the loss is {one.loss} at {at}: training has diverged.\n"
                    "  Lower the learning rate, or check images and weights for NaN"
                )
        self.untold += read
        self.epoch += values
        self.last = values[-1] if values else self.last

    def take(self) -> list[StepLoss]:
        """Return what was read since the last call, in the order in which it was done."""
        taken = list(self.untold)
        self.untold.clear()
        return taken

    def forget(self) -> None:
        """Begin an epoch."""
        self.epoch = []
