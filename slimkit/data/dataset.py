"""What a data set is: three splits, and what a network must know about their images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class Split(Protocol):
    """Labelled images of one split."""

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
        """Give batches: normalised images float32 [B, C, H, W] and labels int64 [B].

        Args:
            batch_size: B over all ranks together.
            seed: shuffle, and leave a short last batch out; None: stored order, every image.
            epoch: with the seed, decides order and augmentation.
            augment: shift and mirror, as suits the data set.
            start: number of batches to leave out, for a resumed run.
            rank: with `ranks`, gives images rank, rank + ranks, ... of every batch.
        """
        ...

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "Split":
        """Return the same images with another normalisation."""
        ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Three splits of labelled images.

    Attributes:
        input_shape: shape of one image, (C, H, W).
        mean: per channel, of images in [0, 1]; subtracted from every image.
        std: per channel, of images in [0, 1]; every image is divided by it.
        train: to fit weights.
        validation: to choose by; drawn from the training images by the seed.
        test: to report on, once; the same for every seed.
    """

    name: str
    classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    validation: Split
    test: Split

    @property
    def normalisation(self) -> dict[str, list[float]]:
        """Mean and std per channel, as a slim file stores them."""
        return {"mean": list(self.mean), "std": list(self.std)}

    def normalised(self, normalisation: dict[str, list[float]]) -> "Dataset":
        """Return the data set with the normalisation that a network was trained with."""
        mean, std = tuple(normalisation["mean"]), tuple(normalisation["std"])
        return replace(
            self,
            mean=mean,
            std=std,
            train=self.train.normalised(mean, std),
            validation=self.validation.normalised(mean, std),
            test=self.test.normalised(mean, std),
        )


def statistics(images: Tensor, at_most: int = 20_000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel of images uint8 [N, C, H, W] taken as [0, 1]; of `at_most` of them."""
    stride = max(1, len(images) // at_most)
    pixels = images[::stride].transpose(0, 1).flatten(1).to(torch.float64) / 255
    std = pixels.std(1, correction=0).clamp_min(1e-3)  # a constant channel must not blow up
    return tuple(pixels.mean(1).tolist()), tuple(std.tolist())
