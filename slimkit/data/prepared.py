"""Splits of pictures with boxes, as the layers of one detector get them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from slimkit.data.at_once import of_size
from slimkit.data.dataset import Dataset, Split
from slimkit.errors import DataError
from slimkit.provenance import Finds

# Images, each [3, h, w] in [0, 1], and their targets -> images [N, 3, H, W], and targets in their pixels.
Prepare = Callable[[Sequence[Tensor], Sequence[Mapping[str, Any]]], tuple[Tensor, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True)
class Prepared:
    """A split whose pictures are resized, normalised and padded by a detector; targets are checked.

    Attributes:
        split: gives lists of images in [0, 1], and of dicts with `boxes`, `labels` and what the detector finds.
        prepare: the detector's own.
        shape: (3, H, W) of an image as the detector's layers get it.
        classes: its number of classes; None where that is not known.
        finds: what it finds beside boxes and labels, and is trained and judged by.
        name: for messages.
    """

    split: Split
    prepare: Prepare
    shape: tuple[int, int, int]
    classes: int | None
    finds: Finds
    name: str

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int, *, augment: bool = False, **how: Any) -> Iterator[tuple[Tensor, Any]]:
        """Give batches as `Split.batches` says; of fewer pictures where they are large, and not for training."""
        size = batch_size if augment else of_size(prod(self.shape), batch_size)
        for images, targets in self.split.batches(size, augment=augment, **how):
            for image, target in zip(images, targets, strict=True):
                if (why := _wrong(image, target, self.classes, self.finds)) is not None:
                    raise DataError(f"{self.name}: {why}.\n  {_HOW}")
            yield self.prepare(images, targets)

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "Prepared":
        """Return the split itself: normalisation is the detector's own."""
        return self


_HOW = (
    "Give images float [3, h, w] in [0, 1], and dicts with boxes [N, 4] (left, top, right, bottom in pixels) and\n"
    "  labels [N], whole numbers from 1; for a network that finds them masks uint8 [N, h, w], or keypoints float\n"
    "  [N, K, 3] (x, y, and 2: seen, 1: hidden, 0: not labelled)"
)


def prepared(
    dataset: Dataset, prepare: Prepare, shape: tuple[int, int, int], classes: int | None, finds: Finds
) -> Dataset:
    """Return a data set of pictures with boxes as a detector's layers get them.

    Args:
        dataset: gives lists of images and of targets.
        prepare, classes, finds: as in `Prepared`.
        shape: (3, H, W) of an image as the layers get it.
    """
    train, validation, test = (
        Prepared(split, prepare, shape, classes, finds, f"data {dataset.name!r}")
        for split in (dataset.train, dataset.validation, dataset.test)
    )
    return replace(
        dataset, train=train, validation=validation, test=test, input_shape=shape, classes=dataset.classes or classes
    )


def _wrong(image: Any, target: Any, classes: int | None, finds: Finds) -> str | None:
    """Say what is wrong with a picture and its objects, None where nothing is."""
    if not isinstance(image, Tensor) or image.dim() != 3 or len(image) != 3 or not image.is_floating_point():
        said = f"{image.dtype} {list(image.shape)}".removeprefix("torch.") if isinstance(image, Tensor) else type(image)
        return f"an image is {said}"
    if not isinstance(target, Mapping) or not {"boxes", "labels"} <= set(target):
        return f"a target is {sorted(target) if isinstance(target, Mapping) else type(target).__name__}"
    boxes, labels = target["boxes"], target["labels"]
    if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        return f"boxes are {list(boxes.shape) if isinstance(boxes, Tensor) else type(boxes).__name__}"
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != boxes.shape[:1]:
        return f"labels are {list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__}"
    crowd = target.get("iscrowd")
    if crowd is not None and (not isinstance(crowd, Tensor) or crowd.shape != labels.shape):
        return f"iscrowd is {list(crowd.shape) if isinstance(crowd, Tensor) else type(crowd).__name__}"
    if not (boxes[:, 2:] > boxes[:, :2]).all() or not boxes.isfinite().all():
        return "a box is empty"
    if len(labels) and (labels.min() < 1 or (classes is not None and labels.max() >= classes)):
        span = f"{int(labels.min())} to {int(labels.max())}"
        return f"labels reach from {span}, the network has classes 1 to {(classes or 2) - 1}, and 0 is the background"
    return _unfound(target, finds, len(labels), image.shape[-2:])


def _unfound(target: Mapping[str, Any], finds: Finds, objects: int, size: Sequence[int]) -> str | None:
    """Say what is wrong with the masks and keypoints of a target, where the network finds such."""
    missing = [name for name in finds.names if not isinstance(target.get(name), Tensor)]
    if missing:
        return f"the network is trained and judged by {missing[0]!r} of a target, which are not there"
    wanted = {"masks": (objects, *size), "keypoints": (objects, finds.keypoints, 3)}
    for name in finds.names:
        if target[name].shape != wanted[name]:
            return f"{name} are {list(target[name].shape)}, not {list(wanted[name])}"
    if finds.masks and target["masks"].dtype not in (torch.uint8, torch.bool):
        return f"masks are {target['masks'].dtype}".replace("torch.", "") + ", not uint8"
    if finds.keypoints and not target["keypoints"].is_floating_point():
        return f"keypoints are {target['keypoints'].dtype}".replace("torch.", "") + ", not floats"
    return None
