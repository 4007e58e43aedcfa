"""What average precision of keypoints compares: where the points of each detection and object are.

COCO's similarity of a detection and an object is the mean over the points that are labelled of exp(-d^2 / (8 s^2 A)): d
their distance in pixels, A the pixels of the object, s how far such a point may be off (see `average_precision`).

Shapes: D = detections of an image, N = objects, K = keypoints of each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from slimkit.tasks import average_precision
from slimkit.tasks.average_precision import Pair, numbers


def pairs(outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Return detections and objects of each image of a batch, with the keypoints of each.

    Args:
        outputs: of each image `boxes`, `labels`, `scores`, and `keypoints` [D, K, 3] of x, y in pixels and 1.
        targets: of each image `truth`: `boxes`, `labels`, `keypoints` [N, K, 3] of x, y, and 0 where it is not
            labelled; `iscrowd`; `area` [N], pixels of each object, else that of its box is taken.
    """
    found = []
    for pair, said, target in zip(average_precision.pairs(outputs, targets), outputs, targets, strict=True):
        truth = target["truth"]
        true = [
            {"keypoints": points.flatten().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
            for points in numbers(truth["keypoints"])
        ]
        if "area" in truth:
            true = [entry | {"area": float(area)} for entry, area in zip(true, truth["area"], strict=True)]
        points = [{"keypoints": one.flatten().tolist()} for one in numbers(said["keypoints"])]
        found.append(replace(pair, shapes=points, true_shapes=true))
    return found
