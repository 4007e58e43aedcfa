"""A data set made smaller: fewer training images, fewer pixels, for studies that end in hours."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from slimkit.data.dataset import Dataset, Split
from slimkit.data.order import permutation
from slimkit.data.tensor_split import TensorSplit
from slimkit.errors import DataError


def smaller(dataset: Dataset, images: int | None = None, pixels: int | None = None) -> Dataset:
    """Return a data set of fewer training images, all images averaged down; mean and std stay those of the whole.

    Args:
        dataset: square images in memory.
        images: of the training split, the first ones; where those lack a class, drawn at random, always the same ones.
            None: all. Validation and test stay whole.
        pixels: height and width, by which those of the images can be divided; None: as they are.

    Raises:
        DataError: it is not in memory, there are fewer images, or they cannot be divided so.
    """
    if images is None and pixels is None:
        return dataset
    train = dataset.train
    if not isinstance(train, TensorSplit) or not train.mean:
        raise DataError(
            f"data {dataset.name!r}: only images that are held in memory can be made fewer or smaller.\n"
            "  Leave out images and pixels"
        )
    if images is not None and images > len(train):
        raise DataError(f"images is {images}: {dataset.name!r} has {len(train)} to train on.\n  Give fewer")
    height, width = dataset.input_shape[1:]
    if pixels is not None and (height != width or height % pixels):
        raise DataError(
            f"pixels is {pixels}: images of {height} x {width} cannot be averaged down to that.\n"
            f"  Give a number that divides {height}"
        )
    factor = height // (pixels or height)

    def few(split: Split, chosen: Tensor | slice = slice(None)) -> TensorSplit:
        assert isinstance(split, TensorSplit)
        small = split.images[chosen]
        if factor > 1:
            small = avg_pool2d(small.float(), factor).round().to(torch.uint8)
        shift = replace(split.augmentation, pad=-(-split.augmentation.pad // factor))
        return replace(split, images=small, labels=split.labels[chosen], augmentation=shift)

    return replace(
        dataset,
        input_shape=(dataset.input_shape[0], height // factor, width // factor),
        train=few(train, _chosen(train.labels, images)),
        validation=few(dataset.validation),
        test=few(dataset.test),
    )


def _chosen(labels: Tensor, images: int | None) -> Tensor | slice:
    """Say which images are kept: the first ones, unless data is in the order of its classes and they lack some."""
    if set(labels[:images].flatten().tolist()) == set(labels.flatten().tolist()):
        return slice(images)
    return permutation(len(labels), 0, 0)[:images].sort().values
