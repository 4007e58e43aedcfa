"""What average precision of masks compares: pixels of each detection and object, as runs (RLE).

Shapes: D = detections of an image, K = objects, M = side of the map that a mask head gives of a box.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimkit.tasks import average_precision
from slimkit.tasks.average_precision import Pair, numbers

_AT_ONCE = 16  # masks of a whole picture: a hundred take half a gigabyte


def pairs(outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Return detections and objects of each image of a batch, with the pixels of each.

    Args:
        outputs: of each image `boxes` [D, 4], `labels`, `scores`, and `masks` float [D, 1, M, M] in [0, 1] over them.
        targets: of each image `truth`: `boxes`, `labels` and `masks` [K, H, W], 0 or 1; `iscrowd`.
    """
    found = []
    for pair, said, target in zip(average_precision.pairs(outputs, targets), outputs, targets, strict=True):
        truth = target["truth"]["masks"]
        there, runs = _runs(truth), _pasted(said["masks"], said["boxes"], truth.shape[-2:])
        areas = truth.flatten(1).sum(1).tolist()
        true = [{"segmentation": one, "area": float(area)} for one, area in zip(there, areas, strict=True)]
        found.append(replace(pair, shapes=[{"segmentation": one} for one in runs], true_shapes=true))
    return found


def _pasted(masks: Tensor, boxes: Tensor, size: Sequence[int]) -> list[Any]:
    """Return the pixels of a picture above one half, as torchvision pastes them, a few at a time."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    found: list[Any] = []
    for some, of in zip(torch.split(masks.float(), _AT_ONCE), torch.split(boxes.float(), _AT_ONCE), strict=True):
        if len(some):
            found += _runs(paste_masks_in_image(some, of, tuple(size))[:, 0] > 0.5)
    return found


def _runs(masks: Tensor) -> list[Any]:
    """Return masks [N, H, W] as COCO's runs."""
    from pycocotools.mask import encode

    pixels = np.asfortranarray(numbers(masks.to(torch.uint8)).transpose(1, 2, 0))
    found: list[Any] = encode(pixels) if len(masks) else []
    return found
