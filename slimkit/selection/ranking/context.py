"""What a ranking may need besides the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slimkit.tasks import CLASSIFICATION, Task


@dataclass(frozen=True)
class Context:
    """A seed, and batches of (inputs, targets) with the task whose loss they are for."""

    seed: int = 0
    batches: Sequence[tuple[Any, Any]] = ()
    task: Task = CLASSIFICATION
