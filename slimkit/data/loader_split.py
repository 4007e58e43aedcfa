"""A split that is read image by image, by worker processes."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from slimkit.data.dataset import Dataset, Split
from slimkit.data.order import batch_indices, drawing, generator, number
from slimkit.errors import DataError
from slimkit.hardware import cores
from slimkit.tasks.task import stacked

# An index, and the seed of its augmentation or None -> one input (an image: float32 [C, H, W] in [0, 1]), its target.
Fetch = Callable[[int, int | None], tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class LoaderSplit:
    """`count` inputs that `fetch` reads one at a time.

    `fetch` and `collate` must survive pickling where worker processes are spawned.

    Attributes:
        mean, std: per channel of images in [0, 1]; empty: inputs are given as `fetch` gives them.
        collate: list of (input, target) -> one batch of both.
        workers: processes that read; None: one less than there are cores, at most 8.
    """

    fetch: Fetch
    count: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    collate: Callable[[list[Any]], Any] = stacked
    workers: int | None = None

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
    ) -> Iterator[tuple[Any, Any]]:
        """Give batches as `Split.batches` says."""
        chunks = batch_indices(self.count, batch_size, seed, epoch, start)

        def key(index: int) -> tuple[int, int | None, int]:
            augmenting = number("augment", seed, epoch, index) if augment else None
            return index, augmenting, number("item", seed, epoch, index)

        keyed = ([key(index) for index in chunk[rank::ranks].tolist()] for chunk in chunks)
        workers = min(8, cores() - 1) if self.workers is None else self.workers
        loader = DataLoader(
            _Fetched(self.fetch),
            batch_sampler=keyed,
            num_workers=workers,
            collate_fn=self.collate,
            worker_init_fn=_ignore_interrupt,
            generator=generator("workers", seed, epoch),  # so that iterating leaves the global generator alone
        )
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        try:
            for inputs, targets in loader:
                yield ((inputs - mean) / std if self.mean else inputs), targets
        except DataError as error:  # a worker's traceback stands before the message
            raise DataError(str(error).rpartition("slimkit.errors.DataError: ")[2].strip()) from error

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "LoaderSplit":
        """Return the same images with another normalisation; inputs that are given as they are stay."""
        return replace(self, mean=tuple(mean), std=tuple(std)) if self.mean else self


def read_by(dataset: Dataset, processes: int | None) -> Dataset:
    """Return a data set whose inputs are read by so many processes, where they are read one at a time.

    Args:
        dataset: whatever it is; what is in memory, and loaders of somebody's own, stay as they are.
        processes: 0: the one that asks; None: as `LoaderSplit` has it.
    """

    def read(split: Split) -> Split:
        if isinstance(split, LoaderSplit) and split.workers is None:
            return replace(split, workers=processes)
        return split

    return replace(dataset, train=read(dataset.train), validation=read(dataset.validation), test=read(dataset.test))


def _ignore_interrupt(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains


class _Fetched(MapDataset[tuple[Any, Any]]):
    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch

    def __getitem__(self, key: Any) -> tuple[Any, Any]:
        index, augmenting, seed = key
        with drawing(seed):  # as a data set of somebody's own may, whatever process reads it
            return self.fetch(index, augmenting)
