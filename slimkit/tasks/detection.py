"""Detection: boxes with classes, the detector's own losses, mean average precision as COCO counts it.

Shapes: K = objects of a picture, D = detections of one. Boxes are float [K, 4]: left, top, right, bottom in pixels.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from slimkit.example import Example
from slimkit.tasks.average_precision import THRESHOLDS, draws, mean_average_precision, pairs
from slimkit.tasks.metric import Metric
from slimkit.tasks.task import Task


def own_losses(outputs: Mapping[str, Tensor], targets: Any) -> Tensor:
    """Return the sum of the losses that a detector gives by name in training mode, []."""
    return torch.stack([value.float() for value in outputs.values()]).sum()


def listed(items: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """Make a batch of pictures of any sizes: a list of images, and a list of their targets."""
    return [image for image, _ in items], [target for _, target in items]


def _called(inputs: Any, targets: Any) -> Example:
    return {"images": inputs, "targets": targets}


def _whole(returned: Any) -> tuple[Any, ...]:
    return (returned,)


def _misfit(outputs: Any, targets: Any, classes: int | None) -> str | None:
    if not _are(outputs, "boxes", "labels", "scores"):
        return f"the network does not return boxes, labels and scores of each picture, but {type(outputs).__name__}"
    if not _are(targets, "boxes", "labels"):
        return f"a target must be a dict with boxes [K, 4] and labels [K], but these are {type(targets).__name__}"
    return None


def _are(entries: Any, *names: str) -> bool:
    return isinstance(entries, (list, tuple)) and all(isinstance(e, Mapping) and set(names) <= set(e) for e in entries)


DETECTION = Task(
    name="detection",
    loss=own_losses,
    metrics={
        "mAP50-95": Metric(pairs, unit="share", of_all=mean_average_precision, draws=draws),
        "mAP50": Metric(
            pairs,
            unit="share",
            of_all=partial(mean_average_precision, thresholds=THRESHOLDS[:1]),
            draws=partial(draws, thresholds=THRESHOLDS[:1]),
        ),
    },
    better="higher",
    collate=listed,
    called=_called,
    outputs=_whole,
    imitation=None,
    misfit=_misfit,
)
