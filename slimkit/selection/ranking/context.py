"""What a ranking may need besides the network."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Context:
    """A seed, and labelled batches: images [N, C, H, W] and class numbers [N]."""

    seed: int = 0
    batches: Sequence[tuple[Tensor, Tensor]] = ()
