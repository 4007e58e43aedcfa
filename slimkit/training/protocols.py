"""What training asks of data; `slimkit.data` gives it, and so may anybody's own classes."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor


class Split(Protocol):
    """Labelled images whose order is a pure function of (seed, epoch)."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        augment: bool = False,
        start: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Give images float32 [B, C, H, W] and labels int64 [B], from batch `start` of the epoch on.

        With a seed they are shuffled and a short last batch is left out, unless it is the only one. Of every
        batch of `batch_size` images, rank r gets the images r, r + ranks, ...
        """
        ...
