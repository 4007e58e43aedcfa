"""What a ranking may need besides the network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimkit.example import call, on
from slimkit.tasks import CLASSIFICATION, Task


@dataclass(frozen=True)
class Context:
    """A seed, and batches of (inputs, targets) with the task whose loss they are for."""

    seed: int = 0
    batches: Sequence[tuple[Any, Any]] = ()
    task: Task = CLASSIFICATION

    def loss(self, model: Callable[..., Any], inputs: Any, targets: Any, device: torch.device) -> Tensor:
        """Return the mean loss of a network on a batch, [], computed on `device`."""
        inputs, targets = on(device, inputs), on(device, targets)
        outputs, *_ = self.task.outputs(call(model, self.task.called(inputs, targets)))
        return self.task.loss(outputs, targets)
