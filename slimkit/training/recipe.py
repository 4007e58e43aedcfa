"""The settings of one training run."""

import re
from dataclasses import dataclass

from slimkit.errors import SpecError
from slimkit.training.schedules import SCHEDULES, Schedule, warmed_up


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. Checked when made.

    Attributes:
        epochs: passes over the training split, also parts of one; 0 trains nothing.
        batch_size: images a step, over all processes together.
        learning_rate: highest rate of the schedule.
        schedule: a name in `schedules.SCHEDULES`.
        warm_up: share of all steps over which the rate rises from 0, in [0, 1).
        optimizer: `sgd`, with Nesterov momentum, or `adamw`.
        momentum: of SGD, in [0, 1).
        weight_decay: on weights of convolutions and linear layers; never on biases, gamma and beta. What AdamW takes
            off is this times the learning rate, beside the gradient; 0.01 to 0.05 is common there.
        clip: scale gradients down to twice the norm of the first where theirs is larger.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        distillation: share of the loss that asks for the teacher's outputs, in [0, 1]; no teacher, no share.
        temperature: divides the logits of teacher and student in that share, > 0.
        augment: shift and mirror the images, as suits the data set.
        seed: of data order, augmentation and dropout.
        precision: `fp32`, `bf16` (autocast), or `auto`: bf16 where the hardware has instructions for it.
        device: `cpu`, `cuda`, `cuda:N`, `mps`, `xpu`, or `auto`: the accelerator that PyTorch finds, else the CPU.
    """

    epochs: float
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: str = "cosine"
    warm_up: float = 0.05
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: bool = False
    label_smoothing: float = 0.0
    distillation: float = 0.0
    temperature: float = 4.0
    augment: bool = True
    seed: int = 0
    precision: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("epochs", 0, None),
            ("batch_size", 1, None),
            ("learning_rate", 0, None),
            ("weight_decay", 0, None),
            ("distillation", 0, 1),
        ):
            value = getattr(self, name)
            if not value >= low or (high is not None and value > high):
                span = f"at least {low}" if high is None else f"from {low} to {high}"
                raise SpecError(f"{name} is {value}: it must be {span}.\n  Change it")
        for name in ("warm_up", "momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}: it must be in [0, 1).\n  Change it")
        if not self.temperature > 0:
            raise SpecError(f"temperature is {self.temperature}: it must be above 0.\n  Change it")
        for name, known in (
            ("schedule", tuple(SCHEDULES)),
            ("optimizer", ("sgd", "adamw")),
            ("precision", ("auto", "fp32", "bf16")),
            ("device", ("auto", "cpu", "cuda", "mps", "xpu")),
        ):
            if re.sub(r"^(cuda|xpu):\d+$", r"\1", getattr(self, name)) not in known:
                raise SpecError(f"{name} is {getattr(self, name)!r}: unknown.\n  Give one of {', '.join(known)}")

    @property
    def rate_share(self) -> Schedule:
        """The schedule with its warm-up: share of the learning rate at (step, budget)."""
        return warmed_up(SCHEDULES[self.schedule], self.warm_up)
