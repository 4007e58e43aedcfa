"""How long work tells what it is doing, and a training how far it is."""

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, float | None], None]  # what is being done, and the share of it that is, where that is known


def quiet(message: str, share: float | None) -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A moment of a training: after a step, or once more after a whole epoch.

    Attributes:
        doing: what is trained, in words; a run may have several trainings.
        step, steps: done, and of the whole training.
        epoch: whole epochs that are done, of `epochs`; after an epoch its number, also where it was cut short.
        loss: of that step; after an epoch the mean of its steps.
        learning_rate: of the last step.
        quality: on the validation split after the last whole epoch, by `metric`; None before the first.
        metric, unit: name of the task's first metric, and its unit: `share` is in [0, 1].
        seconds: of this training so far, those before it was resumed too.
        whole: an epoch has just ended.
    """

    doing: str
    step: int
    steps: int
    epoch: int
    epochs: float
    loss: float
    learning_rate: float
    quality: float | None
    metric: str
    unit: str
    seconds: float
    whole: bool

    @property
    def share(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return self.step / self.steps


Watcher = Callable[[Moment], None]
