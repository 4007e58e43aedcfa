"""A data set as an ONNX file takes it that normalises by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slimkit import data
from slimkit.export.pixels import MeanAndStd, as_pixels


@dataclass(frozen=True)
class PixelSplit:
    """A split whose images are given as the pixels that they were, 0 to 255.

    Attributes:
        split: gives them normalised.
        normalisation: `mean` and `std` that it normalises by, of images in [0, 1].
    """

    split: data.Split
    normalisation: MeanAndStd

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int, **how: Any) -> Iterator[tuple[Any, Any]]:
        """Give batches as `Split.batches` says."""
        for images, targets in self.split.batches(batch_size, **how):
            yield as_pixels(images, self.normalisation), targets

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "PixelSplit":
        """Return the split itself: normalisation is the file's own."""
        return self


def pixels(dataset: data.Dataset, normalisation: MeanAndStd) -> data.Dataset:
    """Return a data set of normalised images as one of pixels."""
    train, validation, test = (
        PixelSplit(split, normalisation) for split in (dataset.train, dataset.validation, dataset.test)
    )
    return replace(dataset, train=train, validation=validation, test=test)


def pixels_alone(inputs: data.Inputs, normalisation: MeanAndStd) -> data.Inputs:
    """Return normalised inputs without targets as pixels."""
    return replace(inputs, split=PixelSplit(inputs.split, normalisation))
