"""Mean average precision, by COCO's own code (pycocotools), with an interval from a bootstrap over images.

Of boxes and masks, that overlap, and of keypoints, that are near. T = thresholds of overlap, D = detections of a class
in all images. At most 100 detections of a class and image count, of keypoints 20, as in COCO; a crowd is neither to be
found nor wrong to be found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from slimkit.errors import DataError, EngineError
from slimkit.modules import quiet
from slimkit.tasks.measurement import Measurement

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
_MOST = {"bbox": 100, "segm": 100, "keypoints": 20}  # detections of a class in an image
_RECALLS = np.linspace(0, 1, 101)
_DRAWS, _EFFORT = 200, 600_000_000  # of a bootstrap; detections times thresholds that may be gone through for it

Array = NDArray[Any]
Kind = Literal["bbox", "segm", "keypoints"]  # as COCO calls what is compared


@dataclass(frozen=True)
class Pair:
    """What was found in an image and what is there; numbers on the CPU.

    Attributes:
        boxes, labels, scores: detections: [D, 4] left, top, right, bottom in pixels; [D]; [D].
        true_boxes, true_labels, crowd: objects: [K, 4]; [K]; [K], whether it is a crowd.
        shapes, true_shapes: what is compared where that is no boxes, D and K entries as COCO's code reads them.
    """

    boxes: Array
    labels: Array
    scores: Array
    true_boxes: Array
    true_labels: Array
    crowd: Array
    shapes: Sequence[Mapping[str, Any]] = ()
    true_shapes: Sequence[Mapping[str, Any]] = ()


def pairs(outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Return detections and objects of each image of a batch.

    Args:
        outputs: of each image `boxes`, `labels` and `scores`.
        targets: of each image `truth`: `boxes`, `labels` and, where some objects are crowds, `iscrowd`.
    """
    found = []
    for said, target in zip(outputs, targets, strict=True):
        truth = target["truth"]
        labels = numbers(truth["labels"])
        crowd = numbers(truth["iscrowd"]).astype(bool) if "iscrowd" in truth else np.zeros(len(labels), bool)
        boxes, kinds, scores = (numbers(said[name]) for name in ("boxes", "labels", "scores"))
        found.append(Pair(boxes, kinds, scores, numbers(truth["boxes"]).reshape(-1, 4), labels, crowd))
    return found


def mean_average_precision(
    found: Sequence[Pair], thresholds: Sequence[float] = THRESHOLDS, kind: Kind = "bbox"
) -> Measurement:
    """Return the mean over classes and thresholds of the average precision, in [0, 1].

    Classes without an object are left aside.

    Args:
        found: all images.
        thresholds: of overlap, from which an object counts as found: of boxes and masks intersection over union, of
            keypoints COCO's similarity.
        kind: what is compared.

    Raises:
        EngineError: pycocotools is not installed.
        DataError: there is no object.
    """
    value, made = _judged(found, thresholds, kind)
    values = drawn(made, len(found))
    if values is None:
        return Measurement(value, len(found), None)
    low, high = np.quantile(values, [0.025, 0.975])
    return Measurement(value, len(found), (float(low), float(high)))


def draws(found: Sequence[Pair], thresholds: Sequence[float] = THRESHOLDS, kind: Kind = "bbox") -> Array | None:
    """Return `mean_average_precision` of images drawn anew, float64 [draws]; always the same draws of as many images.

    None where so few images, or so many boxes, allow none. The errors are those of `mean_average_precision`.
    """
    return drawn(_judged(found, thresholds, kind)[1], len(found))


def _judged(found: Sequence[Pair], thresholds: Sequence[float], kind: Kind) -> tuple[float, list["Curve"]]:
    """Return the figure, and the curves it is of; none where nothing was detected."""
    COCO, COCOeval = installed()
    images, objects, detections = _as_coco(found)
    if not any(entry.get("num_keypoints", 1) and not entry["iscrowd"] for entry in objects):
        without = ", or such without keypoints" if kind == "keypoints" else ""
        raise DataError(
            f"there is not one object in {len(found)} images, but crowds{without} at most: no network can be judged on "
            "them.\n  Give images with objects"
        )
    if not detections:
        return 0.0, []
    classes = sorted({entry["category_id"] for entry in objects})
    with quiet():  # it prints what it does
        truth = COCO()
        truth.dataset = {"images": images, "annotations": objects, "categories": [{"id": c} for c in classes]}
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(detections), kind)
        judge.params.iouThrs = np.array(thresholds)
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.params.maxDets = [_MOST[kind]]
        if kind == "keypoints":
            judge.params.kpt_oks_sigmas = _sigmas(len(detections[0]["keypoints"]) // 3, judge.params.kpt_oks_sigmas)
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]
    return float(precision[precision > -1].mean()), curves(judge.evalImgs, len(found), len(thresholds))


def installed() -> tuple[Any, Any]:
    """Return COCO's classes for objects and for judging.

    Raises:
        EngineError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise EngineError(
            "the task 'detection' is judged by pycocotools, which is not installed.\n"
            "  Install it: pip install 'slimkit[detection]'"
        ) from None
    return COCO, COCOeval


def _sigmas(count: int, of_coco: Array) -> Array:
    """Return how far a keypoint may be off, as a share of the object's side: of COCO's 17 its own, else 1/K of all."""
    return of_coco if count == len(of_coco) else np.full(count, 1 / count)


def numbers(tensor: Tensor) -> Array:
    """Return a tensor of any device as an array."""
    found: Array = tensor.detach().cpu().numpy()
    return found


def _as_coco(found: Sequence[Pair]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return images, objects and detections as the dicts that COCO's code reads."""
    objects: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image, pair in enumerate(found):
        boxes, true = ([{"bbox": box.tolist()} for box in _sized(one)] for one in (pair.boxes, pair.true_boxes))
        more = pair.true_shapes or [{}] * len(true)
        for box, shape, label, crowd in zip(true, more, pair.true_labels, pair.crowd, strict=True):
            entry = {"id": len(objects) + 1, "image_id": image, "category_id": int(label), "iscrowd": int(crowd)}
            objects.append({**entry, **box, "area": box["bbox"][2] * box["bbox"][3], **shape})
        for shape, label, score in zip(pair.shapes or boxes, pair.labels, pair.scores, strict=True):
            detections.append({"image_id": image, "category_id": int(label), "score": float(score), **shape})
    images = [{"id": image, "height": 0, "width": 0} for image in range(len(found))]  # read for masks, and not used
    return images, objects, detections


def _sized(boxes: Array) -> Array:
    """Return left, top, width and height."""
    corners = boxes.astype(np.float64).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)


@dataclass(frozen=True)
class Curve:
    """All detections of a class, by falling score.

    Attributes:
        image: number of the image that each is in, [D].
        right, wrong: whether each counts as right or as wrong at a threshold, float [T, D].
        objects: of each image, float [images].
    """

    image: Array
    right: Array
    wrong: Array
    objects: Array

    def precision(self, counts: Array) -> float | None:
        """Return the average precision, mean over thresholds; None where no object is drawn.

        Args:
            counts: how often each image was drawn, float [images].
        """
        there = float(self.objects @ counts)
        if not there:
            return None
        times = counts[self.image]
        right, wrong = (self.right * times).cumsum(1), (self.wrong * times).cumsum(1)
        precision = right / np.maximum(right + wrong, np.finfo(float).eps)
        precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        found = 0.0
        for recall, row in zip(right / there, precision, strict=True):
            places = np.searchsorted(recall, _RECALLS, side="left")
            found += float(np.append(row, 0.0)[places].mean())
        return found / len(precision)


def curves(judged: Sequence[Any], images: int, thresholds: int) -> list[Curve]:
    """Return the curves of all classes with objects.

    Args:
        judged: COCO's `evalImgs`: of each class in turn an entry an image, None where there is nothing of it.
    """
    made = []
    for begin in range(0, len(judged), images):
        entries = [(i, entry) for i, entry in enumerate(judged[begin : begin + images]) if entry is not None]
        objects = np.zeros(images)
        for i, entry in entries:
            objects[i] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
        if not objects.any():
            continue
        scores = np.concatenate([np.asarray(entry["dtScores"], float) for _, entry in entries])
        matched = np.concatenate([_rows(entry["dtMatches"], thresholds) for _, entry in entries], 1) > 0
        counted = np.concatenate([_rows(entry["dtIgnore"], thresholds) for _, entry in entries], 1) == 0
        image = np.concatenate([np.full(len(entry["dtScores"]), i) for i, entry in entries])
        order = np.argsort(-scores, kind="mergesort")
        right, wrong = (matched & counted)[:, order], (~matched & counted)[:, order]
        made.append(Curve(image[order].astype(int), right.astype(float), wrong.astype(float), objects))
    return made


def _rows(values: Any, thresholds: int) -> Array:
    return np.asarray(values, float).reshape(thresholds, -1)


def drawn(made: Sequence[Curve], images: int) -> Array | None:
    """Return the figure of images drawn anew, as many; always of the same draws."""
    count = min(_DRAWS, _EFFORT // max(1, sum(curve.right.size for curve in made)))
    if images < 2 or count < 40 or not made:
        return None
    random, values = np.random.default_rng(0), []
    for _ in range(count):
        counts = np.bincount(random.integers(images, size=images), minlength=images).astype(float)
        found = [value for curve in made if (value := curve.precision(counts)) is not None]
        values.append(float(np.mean(found)) if found else 0.0)
    return np.array(values)
