"""How many inputs a network computes at a time where nothing is trained on them: fewer where they are large."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

from slimkit.data.loader_split import LoaderSplit
from slimkit.example import tensors

_MOST = 250
_NUMBERS = 2**24  # of all of them together, 64 MiB: what a network makes of them on the way is many times that


class Readable(Protocol):
    """What is read of a split."""

    def batches(self, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Give inputs and targets, every input once."""
        ...


def at_once(split: Readable, most: int = _MOST) -> int:
    """Return how many inputs of a split are computed at a time; the first one is read, and stands for the others."""
    alone = replace(split, workers=0) if isinstance(split, LoaderSplit) else split  # processes take long to begin
    inputs, _ = next(iter(alone.batches(1)), (None, None))
    return of_size(sum(tensor.numel() for tensor in tensors(inputs)), most)


def of_size(numbers: int, most: int = _MOST) -> int:
    """Return how many inputs of so many numbers each are computed at a time, one at least."""
    return max(1, min(most, _NUMBERS // max(1, numbers)))
