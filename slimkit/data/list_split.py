"""A split of somebody's own loader of pictures of any sizes: batches are lists, one entry a picture."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slimkit.data.batch_split import drawn, pair
from slimkit.errors import DataError


@dataclass(frozen=True)
class ListSplit:
    """Batches (images, targets) of somebody's own loader, cut anew to the size that is asked for.

    Order and augmentation are the loader's, as in `BatchSplit`.

    Attributes:
        source: gives all batches each time it is gone through: images a list or tuple of tensors, targets likewise.
        name: for messages.
        count: number of pictures.
    """

    source: Iterable[Any]
    name: str
    count: int

    def __len__(self) -> int:
        return self.count

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
    ) -> Iterator[tuple[list[Any], list[Any]]]:
        """Give batches as `Split.batches` says; the loader alone decides on order and augmentation."""
        size, held, position = min(batch_size, self.count), [], 0
        for batch in drawn(self.source, seed, epoch):
            held += items(batch, self.name)
            while len(held) >= size:
                if position >= start:
                    yield _listed(held[:size][rank::ranks])
                held, position = held[size:], position + 1
        if held and seed is None and position >= start:
            yield _listed(held[rank::ranks])

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "ListSplit":
        """Return the split itself: its images are as a detector takes them."""
        return self


def items(batch: Any, name: str) -> list[tuple[Any, Any]]:
    """Return the pictures of a batch, each with its target.

    Raises:
        DataError: it is no batch of as many images as targets.
    """
    images, targets = pair(batch, name)
    if not isinstance(targets, (list, tuple)) or len(images) != len(targets):
        raise DataError(
            f"{name}: a batch is {type(images).__name__} and {type(targets).__name__}, not as many images as targets.\n"
            "  Give a loader of (images, targets), lists of one entry a picture: collate_fn=lambda b: tuple(zip(*b))"
        )
    return list(zip(images, targets, strict=True))


def _listed(held: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [image for image, _ in held], [target for _, target in held]
