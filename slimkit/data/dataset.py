"""What a data set is: three splits, what they are for, and what a network must know about their inputs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from slimkit.data.order import even
from slimkit.tasks import CLASSIFICATION, Task


class Batches(Protocol):
    """Inputs with their targets, in an order that is a pure function of (seed, epoch): what training asks of data."""

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
        """Give batches: inputs as the network takes them, and targets as the task takes them.

        Inputs are a tensor [B, ...] (images: float32 [B, C, H, W], normalised), a tuple of such, or a dict of such.
        Targets are None where there are none.

        Args:
            batch_size: B over all ranks together.
            seed: shuffle, and leave a short last batch out, unless it is the only one; None: stored order, every input.
            epoch: with the seed, decides order and augmentation.
            augment: shift and mirror, as suits the data set.
            start: number of batches to leave out, for a resumed run.
            rank: with `ranks`, gives inputs rank, rank + ranks, ... of every batch.
        """
        ...


class Split(Batches, Protocol):
    """Inputs of one split, with their targets."""

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "Split":
        """Return the same images with another normalisation."""
        ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Three splits of inputs with targets.

    Attributes:
        name: as messages and the report name it.
        task: what the targets are for.
        classes: number of classes; None where it is not known, or targets are no classes.
        inferred: whether only the labels tell of `classes`, as one more than the largest: a network may have more.
        class_names: in the order of their numbers; empty where they are not known.
        input_shape: shape of one input without the batch, (C, H, W) for images; of the first tensor where a
            network takes several.
        mean: per channel, of images in [0, 1]; subtracted from every image. Empty where the inputs are given by
            somebody else's code, as the network takes them.
        std: per channel, of images in [0, 1]; every image is divided by it. Empty as `mean` is.
        resize, crop: how picture files are read, as in `provenance.Use`; None where there are none.
        train: to fit weights.
        validation: to choose by.
        test: to report on, once.
        tested_apart: `test` is a split of its own, not validation again for want of one.
        notes: what was assumed or left out when the data was opened, for the user to read.
    """

    name: str
    task: Task = CLASSIFICATION
    classes: int | None = None
    inferred: bool = False
    class_names: tuple[str, ...] = ()
    input_shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: int | str | None = None
    crop: float | None = None
    train: Split = field(repr=False)
    validation: Split = field(repr=False)
    test: Split = field(repr=False)
    tested_apart: bool = True
    notes: tuple[str, ...] = ()

    @property
    def stated_classes(self) -> int | None:
        """Number of classes that a network must have, no more and no fewer; None where nothing but labels tells."""
        return None if self.inferred else self.classes

    @property
    def normalisation(self) -> dict[str, list[float]] | None:
        """Mean and std per channel, as a slim file stores them; None where they are not known."""
        return {"mean": list(self.mean), "std": list(self.std)} if self.mean else None

    @property
    def sized(self) -> bool:
        """Whether the images have a size of their own; the pictures of a folder are read at one that is chosen."""
        return self.resize is None and self.crop is None

    def normalised(self, normalisation: dict[str, list[float]]) -> "Dataset":
        """Return the data set with the normalisation that a network was trained with.

        Inputs that somebody else's code gives are what the network takes already: they stay.
        """
        if not self.mean:
            return self
        mean, std = tuple(normalisation["mean"]), tuple(normalisation["std"])
        return replace(
            self,
            mean=mean,
            std=std,
            train=self.train.normalised(mean, std),
            validation=self.validation.normalised(mean, std),
            test=self.test.normalised(mean, std),
        )


def some(split: Batches, batch_size: int, at_most: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Give at most so many batches of equal size, drawn by a seed; where they are all, of a size that leaves few out.

    Equal batches weigh the same in a mean over them, which a short last one would not.
    """
    whole = len(split) <= batch_size * at_most
    return islice(split.batches(even(len(split), batch_size) if whole else batch_size, seed=seed), at_most)


_MOST = 20_000  # images that statistics are of


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel of images uint8 [N, C, H, W] taken as [0, 1]; of so many, of some of them."""
    stride = max(1, len(images) // _MOST)
    pixels = images[::stride].transpose(0, 1).flatten(1).to(torch.float64) / 255
    std = pixels.std(1, correction=0).clamp_min(1e-3)  # a constant channel must not blow up
    return tuple(pixels.mean(1).tolist()), tuple(std.tolist())
