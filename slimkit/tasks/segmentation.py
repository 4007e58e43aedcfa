"""Semantic segmentation: one class a pixel, cross-entropy, mean intersection over union."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from slimkit.example import first
from slimkit.quantity import number_of
from slimkit.tasks.classification import divergence
from slimkit.tasks.metric import Metric
from slimkit.tasks.task import Loss, Task, no_numbers

IGNORED = 255  # a pixel of no class, as Pascal VOC and Cityscapes mark it


def class_maps(outputs: Tensor, size: torch.Size | None = None) -> Tensor:
    """Return logits [B, classes, H, W] of the size of the masks.

    Smaller maps are enlarged, as the networks that give them ask for. One map is a class against all the rest:
    its logit beside a 0, whose softmax is its sigmoid.
    """
    maps = outputs.float()
    if maps.shape[1] == 1:
        maps = torch.cat([torch.zeros_like(maps), maps], 1)
    if size is None or maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def pixel_cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy over pixels that have a class, float32 []; 0 where none has.

    Args:
        outputs: logits [B, classes, h, w], or [B, 1, h, w] for one class against the rest.
        targets: class numbers int64 [B, H, W], `IGNORED` where there is none.
        label_smoothing: share of each target spread over all classes, in [0, 1).
    """
    maps = class_maps(outputs, targets.shape[1:])
    whole = F.cross_entropy(maps, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)
    return whole / _counted(targets).clamp_min(1)


def _counted(targets: Tensor) -> Tensor:
    """Count the pixels that have a class, []."""
    return (targets != IGNORED).sum()


def pixel_divergence(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Return the divergence from a teacher's classes, mean over all pixels; Liu et al. 2019, arXiv:1903.04197."""
    return divergence(class_maps(outputs), class_maps(wanted), temperature)


def overlap(outputs: Tensor, targets: Tensor) -> Tensor:
    """Count of each image the pixels in both and in either of prediction and mask: float [B, 2, classes]."""
    maps = class_maps(outputs, targets.shape[1:])
    counted, none = targets != IGNORED, maps.shape[1]
    said, true = (torch.where(counted, classes, none) for classes in (maps.argmax(1), targets))
    return shared(said, true, none)


def said_classes(outputs: Tensor) -> tuple[Tensor, int]:
    """Return the class that logits give every pixel, int64 [B, H, W], and the number of classes, which is that of NaN.

    Args:
        outputs: as of `pixel_cross_entropy`.
    """
    maps = class_maps(outputs)
    classes = maps.shape[1]
    return torch.where(maps.isnan().any(1), classes, maps.argmax(1)), classes


def shared(one: Tensor, other: Tensor, classes: int) -> Tensor:
    """Count of each image the pixels in both and in either of two maps: float [B, 2, classes].

    Args:
        one, other: class numbers int64 [B, H, W]; the number `classes` is none.
        classes: how many there are.
    """
    images, bins = len(one), classes + 1
    image = torch.arange(images, device=one.device).view(-1, 1, 1)

    def count(labels: Tensor) -> Tensor:
        found = torch.bincount((image * bins + labels).flatten(), minlength=images * bins)
        return found.view(images, bins)[:, :classes]

    both = count(torch.where(one == other, one, classes))
    return torch.stack([both, count(one) + count(other) - both], 1).double()


def mean_iou(overlaps: Tensor) -> float:
    """Return the mean over classes of intersection / union, from sums [2, classes]; classes nowhere seen aside."""
    both, either = overlaps
    seen = either > 0
    return float((both[seen] / either[seen]).mean()) if seen.any() else 0.0


def right_pixels(outputs: Tensor, targets: Tensor) -> Tensor:
    """Count of each image the pixels that are right, and those that have a class: float [B, 2]."""
    said = class_maps(outputs, targets.shape[1:]).argmax(1)
    return torch.stack([(said == targets).flatten(1).sum(1), (targets != IGNORED).flatten(1).sum(1)], 1).double()


def _share(counts: Tensor) -> float:
    return float(counts[0] / counts[1].clamp_min(1))


def _smoothed(share: float) -> Loss:
    return partial(pixel_cross_entropy, label_smoothing=share)


def sizes_apart(inputs: Any, masks: Any) -> str | None:
    """Say that images are of another size than their masks; None where they are not, or are no [B, C, H, W]."""
    images = first(inputs)
    if images is None or images.dim() != 4 or not isinstance(masks, Tensor) or masks.dim() != 3:
        return None
    (tall, wide), (down, across) = images.shape[2:], masks.shape[1:]
    return None if (tall, wide) == (down, across) else f"images are {wide}x{tall}, their masks {across}x{down}"


def _misfit(outputs: Any, targets: Any, classes: int | None) -> str | None:
    if not isinstance(outputs, Tensor) or outputs.dim() != 4:
        given = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        return f"the network does not return one map a class, [N, classes, H, W], but {given}"
    if not isinstance(targets, Tensor) or targets.dim() != 3 or targets.is_floating_point():
        given = list(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        return f"a target must be one class number per pixel, whole numbers [N, H, W], but these are {given}"
    maps = max(2, outputs.shape[1])
    if classes is not None and maps < classes:  # fewer: the last ones may be in none of the masks
        return f"the data has {number_of(classes, 'class')}, the network {maps}"
    return _outside(outputs, targets) or no_numbers(outputs)


def _outside(outputs: Tensor, targets: Tensor) -> str | None:
    maps, labels = max(2, outputs.shape[1]), targets[targets != IGNORED]
    if labels.numel() and int(labels.min()) < 0:
        return f"class number {int(labels.min())} is below 0, and no class: give {IGNORED} to what is of none"
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < maps:
        return f"class numbers reach from {int(labels.min())} to {int(labels.max())}, the network has 0 to {maps - 1}"
    return None


SEGMENTATION = Task(
    name="segmentation",
    loss=pixel_cross_entropy,
    metrics={
        "mean IoU": Metric(overlap, mean_iou, "share"),
        "pixel accuracy": Metric(right_pixels, _share, "share"),
    },
    better="higher",
    imitation=pixel_divergence,
    misfit=_misfit,
    outside=_outside,
    counted=_counted,
    smoothed=_smoothed,
    auxiliary=0.5,  # as torchvision trains FCN and DeepLab
)
