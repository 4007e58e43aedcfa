"""What training asks of data; `slimkit.data` gives it, and so may anybody's own classes."""

from collections.abc import Iterator
from typing import Any, Protocol


class Batches(Protocol):
    """Inputs with their targets, in an order that is a pure function of (seed, epoch)."""

    def __len__(self) -> int:
        """Return the number of inputs."""
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
    ) -> Iterator[tuple[Any, Any]]:
        """Give inputs (a tensor [B, ...], a tuple or a dict of such) and their targets, from batch `start` on.

        With a seed they are shuffled and a short last batch is left out, unless it is the only one. Of every
        batch of `batch_size` images, rank r gets the images r, r + ranks, ...
        """
        ...
