"""Detection: boxes with classes, the detector's own losses, mean average precision as COCO counts it.

A detector that finds masks or keypoints is judged by these first, and by its boxes beside.

Shapes: K = objects of a picture, D = detections of one. Boxes are float [K, 4]: left, top, right, bottom in pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from slimkit.example import Example
from slimkit.provenance import Finds
from slimkit.tasks import keypoint_precision, mask_precision
from slimkit.tasks.average_precision import THRESHOLDS, Kind, draws, mean_average_precision, pairs
from slimkit.tasks.metric import Metric
from slimkit.tasks.task import Task, no_numbers


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
    return no_numbers(outputs)


def _are(entries: Any, *names: str) -> bool:
    return isinstance(entries, (list, tuple)) and all(isinstance(e, Mapping) and set(names) <= set(e) for e in entries)


def _metrics(kind: Kind, compared: Callable[[Any, Any], Any], prefix: str = "") -> dict[str, Metric]:
    def at(thresholds: tuple[float, ...]) -> Metric:
        how: dict[str, Any] = {"thresholds": thresholds, "kind": kind}
        return Metric(
            compared, unit="share", of_all=partial(mean_average_precision, **how), draws=partial(draws, **how)
        )

    return {f"{prefix}mAP50-95": at(THRESHOLDS), f"{prefix}mAP50": at(THRESHOLDS[:1])}


DETECTION = Task(
    name="detection",
    loss=own_losses,
    metrics=_metrics("bbox", pairs),
    better="higher",
    collate=listed,
    called=_called,
    outputs=_whole,
    imitation=None,
    misfit=_misfit,
)


def detects(finds: Finds) -> Task:
    """Return the task of a detector, by what it finds: masks are judged first, then keypoints, then boxes."""
    masks = _metrics("segm", mask_precision.pairs, "mask ") if finds.masks else {}
    keypoints = _metrics("keypoints", keypoint_precision.pairs, "keypoint ") if finds.keypoints else {}
    return replace(DETECTION, metrics={**masks, **keypoints, **DETECTION.metrics})
