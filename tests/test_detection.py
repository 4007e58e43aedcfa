"""Detection: boxes read and checked, judged as COCO judges them; detectors made smaller and retrained, end to end."""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boxes
import numpy as np
import onnx
import pytest
import tiny_detector
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.ops import FrozenBatchNorm2d

import slimkit
from slimkit import cli, data, models, provenance, training
from slimkit.data.box_folder import BoxReader
from slimkit.data.boxes import Boxed
from slimkit.data.pictures import Reading
from slimkit.errors import CheckpointError, DataError, EngineError, SlimkitError, SpecError, TrainingError
from slimkit.measure import quality
from slimkit.models import detectors
from slimkit.models.detectors import Heads
from slimkit.provenance import Provenance
from slimkit.runs import detection as run_detection
from slimkit.settings import EvaluateSpec
from slimkit.tasks import DETECTION
from slimkit.tasks import average_precision as ap
from slimkit.training import Recipe
from tests.clock import least_seconds

ARCH = f"{tiny_detector.__file__}:make"
SIDE = tiny_detector.SIDE


def detector(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return tiny_detector.make(classes).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return boxes.coco(tmp_path_factory.mktemp("coco"), {"train": 24, "val": 8, "test": 8}, size=SIDE)


# How detections are judged.


def pair(found: list[Any], true: list[Any], crowd: tuple[bool, ...] = ()) -> ap.Pair:
    """Of (box, label, score) that were found, and (box, label) that are there."""
    return ap.Pair(
        np.array([box for box, _, _ in found], float).reshape(-1, 4),
        np.array([label for _, label, _ in found], int),
        np.array([score for _, _, score in found], float),
        np.array([box for box, _ in true], float).reshape(-1, 4),
        np.array([label for _, label in true], int),
        np.array(crowd or (False,) * len(true)),
    )


BOX, OFF = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 6.2)  # that overlap by 0.62


@pytest.mark.parametrize(
    ("found", "true", "crowd", "expected"),
    [
        ([(BOX, 1, 0.9)], [(BOX, 1)], (), 1.0),
        ([(BOX, 2, 0.9)], [(BOX, 1)], (), 0.0),
        ([], [(BOX, 1)], (), 0.0),
        ([(OFF, 1, 0.9)], [(BOX, 1)], (), 0.3),  # at 0.5, 0.55 and 0.6 of 10 thresholds
        ([(BOX, 1, 0.9), ((50, 50, 60, 60), 1, 0.95)], [(BOX, 1)], (), 0.5),  # a wrong one comes first
        ([(BOX, 1, 0.9), ((50, 50, 60, 60), 1, 0.5)], [(BOX, 1)], (), 1.0),
        ([(BOX, 1, 0.9)], [(BOX, 1), ((50, 50, 60, 60), 2)], (), 0.5),  # of two classes
        ([(BOX, 1, 0.9), *[((50, 50, 60, 60), 1, 0.95)] * 2], [(BOX, 1), ((50, 50, 60, 60), 1)], (False, True), 1.0),
    ],
    ids=["right", "another class", "nothing", "shifted", "wrong first", "wrong last", "two classes", "crowd"],
)
def test_average_precision_is_what_its_definition_says(
    found: list[Any], true: list[Any], crowd: tuple[bool, ...], expected: float
) -> None:
    assert ap.mean_average_precision([pair(found, true, crowd)]).value == pytest.approx(expected, abs=1e-9)


def random_pairs(count: int) -> list[ap.Pair]:
    random, made = np.random.default_rng(0), []
    for _ in range(count):
        corners = random.uniform(0, 60, (3, 2))
        there = np.concatenate([corners, corners + random.uniform(10, 30, (3, 2))], 1)
        labels = random.integers(1, 4, 3)
        which = random.integers(0, 3, 20)
        found = there[which] + random.normal(0, 3, (20, 4))
        said = np.where(random.random(20) < 0.8, labels[which], random.integers(1, 4, 20))
        made.append(ap.Pair(found, said, random.random(20), there, labels, np.zeros(3, bool)))
    return made


def test_the_bootstrap_counts_a_drawn_image_as_coco_counts_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    made, kept = random_pairs(12), []
    monkeypatch.setattr(ap, "drawn", lambda curves, images: kept.extend(curves))
    value = ap.mean_average_precision(made).value
    curves = list(kept)
    assert np.mean([curve.precision(np.ones(12)) for curve in curves]) == pytest.approx(value, abs=1e-12)
    counts = np.array([2, 0, 1, 3, 1, 0, 0, 2, 1, 1, 0, 1])
    copies = [one for one, times in zip(made, counts, strict=True) for _ in range(times)]
    expected = ap.mean_average_precision(copies).value
    assert np.mean([curve.precision(counts.astype(float)) for curve in curves]) == pytest.approx(expected, abs=1e-3)


def test_the_interval_is_around_the_value_and_always_the_same() -> None:
    made = random_pairs(40)
    found = ap.mean_average_precision(made)
    assert found.interval is not None and found.interval[0] < found.value < found.interval[1] and found.images == 40
    assert ap.mean_average_precision(made) == found
    few = ap.mean_average_precision(made[:10]).interval
    assert few is not None and few[1] - few[0] > found.interval[1] - found.interval[0]
    assert ap.mean_average_precision(made[:1]).interval is None


def test_what_two_detectors_differ_by_is_told_on_the_same_draws() -> None:
    """Without a margin a drop of mAP within noise was taken for kept."""
    metric = DETECTION.metrics["mAP50-95"]
    made = random_pairs(40)
    random = np.random.default_rng(1)
    other = [dataclasses.replace(pair, boxes=pair.boxes + random.normal(0, 1, pair.boxes.shape)) for pair in made]
    assert metric.spread([made], [made]) == 0
    paired = metric.spread([made[:25], made[25:]], [other])
    alone = float(np.std(ap.draws(made)))
    assert 0 < paired < alone  # both are better or worse on the same images
    assert metric.spread([made[:1]], [other[:1]]) == 0  # of one image nothing can be drawn


def test_without_pycocotools_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(EngineError, match=r"pip install 'slimkit\[detection\]'"):
        ap.mean_average_precision(random_pairs(1))


# What a detector does with pictures that it has prepared.


def pictures(count: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of several sizes, and targets."""
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 60 + 10 * (i % 3), 80, generator=random) for i in range(count)]
    return images, [
        {"boxes": torch.tensor([[5.0, 8, 40, 50]]), "labels": torch.tensor([1 + i % 3])} for i in range(count)
    ]


def test_prepared_pictures_are_detected_and_trained_on_as_the_detector_does_it() -> None:
    torch.manual_seed(0)
    net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    heads = Heads(net).eval()
    images, targets = pictures(3)
    x, ready = heads.prepared_with(images, targets)
    with torch.no_grad():
        for found, expected in zip(heads(x, ready), net(images), strict=True):
            for name in ("boxes", "labels", "scores"):
                torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)
    heads.train()
    for name, value in heads(x, ready).items():
        torch.testing.assert_close(value, net(images, targets)[name])
    assert type(net.transform).__name__ == "GeneralizedRCNNTransform"  # in its place again


def test_crowds_are_not_trained_on_but_judged_by() -> None:
    heads = Heads(detector())
    target = {"boxes": torch.tensor([[5.0, 8, 40, 50], [1, 1, 60, 60]]), "labels": torch.tensor([1, 2])}
    _, [ready] = heads.prepared_with([torch.rand(3, 64, 64)], [{**target, "iscrowd": torch.tensor([False, True])}])
    assert ready["labels"].tolist() == [1] and ready["boxes"].shape == (1, 4)
    assert ready["truth"]["labels"].tolist() == [1, 2]


def test_pictures_come_few_at_a_time_but_for_training(folder: Path) -> None:
    train: Any = detection_of(detector(), folder).train
    train = dataclasses.replace(train, shape=(3, 1024, 1024))
    assert [len(images) for images, _ in train.batches(250)] == [5, 5, 5, 5, 4]
    assert [len(images) for images, _ in train.batches(20, seed=0, augment=True)] == [20]


@pytest.mark.long
@pytest.mark.parametrize(
    ("asked", "rate"), [({}, 0.0005), ({"learning_rate": 0.02}, 0.02), ({"batch_size": 128, "learning_rate": 0.1}, 0.1)]
)
def test_a_pace_that_is_asked_for_is_kept_the_usual_one_of_other_networks_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], rate: float
) -> None:
    """128 and 0.02, given on purpose, were taken for what was not given."""
    used: list[Recipe] = []

    def train(model: nn.Module, split: Any, recipe: Recipe, **others: Any) -> Any:
        used.append(recipe)
        raise TrainingError("seen")

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(TrainingError, match="seen"):
        slimkit.compress(
            detector(),
            torch.rand(1, 3, SIDE, SIDE),
            0.3,
            dataset=detection_of(detector(), folder),
            epochs=1,
            onnx=False,
            **asked,
        )
    assert (used[0].batch_size, used[0].learning_rate) == (asked.get("batch_size", 8), rate)
    assert used[0].augment  # half of the pictures are mirrored


# Where a detector comes from.


def test_a_detector_is_saved_by_name_and_loads_as_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=7, score_thresh=0.2).eval()
    known = provenance.of(models.as_network(net).model)
    assert (known.arch, known.arguments) == ("torchvision:ssdlite320_mobilenet_v3_large", {"num_classes": 7})
    assert (known.classes, known.input_shape, known.use.task) == (7, (3, 320, 320), "detection")
    assert known.normalisation == {"mean": [0.5] * 3, "std": [0.5] * 3}
    slimkit.save(net, tmp_path / "net.safetensors")
    again = slimkit.load(tmp_path / "net.safetensors")
    assert type(again) is type(net) and again.score_thresh == 0.2
    image = [torch.rand(3, 50, 60)]
    with torch.no_grad():
        torch.testing.assert_close(again(image), net(image), rtol=0, atol=0)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    read = models.load(tmp_path / "net.pt", arch="torchvision:ssdlite320_mobilenet_v3_large")
    assert isinstance(read.model, Heads) and provenance.of(read.model).arguments == {"num_classes": 7}
    assert provenance.of(read.model.net) is provenance.of(read.model)


def test_frozen_statistics_stay_frozen(tmp_path: Path) -> None:
    net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
    count = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())

    def frozen(model: nn.Module) -> int:
        return sum(isinstance(module, FrozenBatchNorm2d) for module in model.modules())

    detectors.frozen(net)  # as torchvision makes them of trained weights
    assert frozen(net) == count
    assert provenance.of(models.as_network(net).model).arch == "torchvision:ssdlite320_mobilenet_v3_large"
    slimkit.save(net, tmp_path / "net.safetensors")
    torch.save(net.state_dict(), tmp_path / "net.pt")
    read = models.load(tmp_path / "net.pt", arch="torchvision:ssdlite320_mobilenet_v3_large").model
    assert frozen(slimkit.load(tmp_path / "net.safetensors")) == frozen(read) == count
    trained = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).train()
    trained(*pictures(2))
    assert frozen(detectors.frozen(trained)) == 0


# Folders of pictures with boxes.


def opened(root: Path, classes: int | None = 4, **how: Any) -> data.Dataset:
    return data.open(f"folder:{root}", task=DETECTION, own=Provenance(classes=classes), **how)


def read(split: data.Split) -> list[tuple[list[list[float]], list[int]]]:
    found = [(t["boxes"].tolist(), t["labels"].tolist()) for _, targets in split.batches(4) for t in targets]
    return sorted(found)


def roboflow(root: Path, made: Path) -> None:
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        (root / name).mkdir(parents=True)
        for path in (made / "images" / split).iterdir():
            (root / name / path.name).symlink_to(path)
        found = json.loads((made / "annotations" / f"instances_{split}.json").read_text())
        found["categories"].insert(0, {"id": 0, "name": "shapes"})
        (root / name / "_annotations.coco.json").write_text(json.dumps(found))


def of_2017(root: Path, made: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val", "test"):
        (root / f"{split}2017").symlink_to(made / "images" / split)
        target = root / "annotations" / f"instances_{split}2017.json"
        target.symlink_to(made / "annotations" / f"instances_{split}.json")
    (root / "annotations" / "captions_train2017.json").write_text("no JSON at all")


def yolo(root: Path, made: Path, place: str) -> None:
    for split in ("train", "val", "test"):
        found = json.loads((made / "annotations" / f"instances_{split}.json").read_text())
        images, labels = (root / place.format(kind=kind, split=split) for kind in ("images", "labels"))
        images.parent.mkdir(parents=True, exist_ok=True)
        images.symlink_to(made / "images" / split)
        labels.mkdir(parents=True)
        for image in found["images"]:
            lines = []
            for one in (a for a in found["annotations"] if a["image_id"] == image["id"]):
                x, y, w, h = (side / SIDE for side in one["bbox"])
                numbers = [x + w / 2, y + h / 2, w, h] if one["id"] % 2 else [x, y, x + w, y, x + w, y + h, x, y + h]
                lines.append(" ".join(map(str, [one["category_id"] - 1, *numbers])))
            (labels / f"{Path(image['file_name']).stem}.txt").write_text("\n".join(lines))


@pytest.mark.long
@pytest.mark.parametrize(
    "layout",
    [
        roboflow,
        of_2017,
        lambda root, made: yolo(root, made, "{kind}/{split}"),
        lambda root, made: yolo(root, made, "{split}/{kind}"),
    ],
    ids=["roboflow", "2017", "yolo", "yolo, split first"],
)
def test_every_layout_holds_the_same_boxes(folder: Path, tmp_path: Path, layout: Callable[[Path, Path], None]) -> None:
    layout(tmp_path / "other", folder)
    expected, found = opened(folder), opened(tmp_path / "other")
    assert (found.classes, found.task) == (4, DETECTION)
    for split in ("train", "validation", "test"):
        pairs = zip(read(getattr(found, split)), read(getattr(expected, split)), strict=True)
        for (one, labels), (other, wanted) in pairs:
            assert labels == wanted
            torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=0, atol=1e-3)


def test_one_file_of_annotations_is_parted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(folder / "images" / "train")
    (tmp_path / "shapes.json").write_text((folder / "annotations" / "instances_train.json").read_text())
    found = opened(tmp_path)
    assert [len(split) for split in (found.train, found.validation, found.test)] == [17, 2, 5]


def test_boxes_are_mirrored_with_their_picture(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[5:15, 10:30] = 255
    for number in range(20):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "labels" / f"{number}.txt").write_text(f"0 {20 / 60} {10 / 40} {20 / 60} {10 / 40}")
    mirrored = set()
    for images, targets in opened(tmp_path, classes=2).train.batches(4, seed=0, augment=True):
        for image, target in zip(images, targets, strict=True):
            rows, columns = image[0].nonzero().unbind(1)
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            torch.testing.assert_close(target["boxes"][0], torch.tensor(seen, dtype=torch.float32), atol=1e-4, rtol=0)
            mirrored.add(int(columns.min()))
    assert mirrored == {10, 30}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", ["of yolo", "shown", "stored"])
def test_pictures_that_are_stored_turned_are_read_as_their_boxes_are_of_them(
    tmp_path: Path, orientation: int, size: str
) -> None:
    """YOLO's shares are of what is shown; COCO's sizes say of which: of both alike, of what is stored."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[5:15, 10:30] = 255
    stored = Image.fromarray(pixels)
    exif = stored.getexif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "0.png", exif=exif)
    with Image.open(tmp_path / "0.png") as again:
        upright = np.asarray(ImageOps.exif_transpose(again))
    seen = pixels if size == "stored" or (size == "shown" and orientation < 5) else upright
    rows, columns = seen[..., 0].nonzero()
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    height, width = seen.shape[:2]
    entry = Boxed(tmp_path / "0.png", (tuple(map(float, box)),), (1,), (False,), size=(width, height))
    if size == "of yolo":
        shares = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
        entry = Boxed(tmp_path / "0.png", (shares,), (1,), (False,), shares=True)
    assert entry.problem() is None
    image, target = BoxReader((entry,), {1: 1})(0, None)
    there = image[0].nonzero()
    found = [there[:, 1].min(), there[:, 0].min(), there[:, 1].max() + 1, there[:, 0].max() + 1]
    torch.testing.assert_close(target["boxes"][0], torch.stack(found).float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("ids", "used", "classes", "labels"),
    [
        ((1, 2, 3), (1, 2, 3), 4, {1: 1, 2: 2, 3: 3}),
        ((1, 3, 90), (1, 3, 90), 91, {1: 1, 3: 3, 90: 90}),  # COCO's own, whose last class is 90
        ((1, 3, 90), (1, 3, 90), 4, {1: 1, 3: 2, 90: 3}),
        ((0, 1, 2), (0, 1, 2), 4, {0: 1, 1: 2, 2: 3}),
        ((0, 1, 2), (1, 2), 3, {1: 1, 2: 2}),  # Roboflow's 0 is of no box
        ((0, 1, 2), (1, 2), None, {1: 1, 2: 2}),
        ((5, 7), (5, 7), None, {5: 1, 7: 2}),
    ],
)
def test_categories_become_classes_from_1(
    tmp_path: Path, ids: tuple[int, ...], used: tuple[int, ...], classes: int | None, labels: dict[int, int]
) -> None:
    write(tmp_path, lambda made: made.update(changed(made, ids, used)))
    found = opened(tmp_path, classes)
    given = {label for split in (found.train, found.validation, found.test) for _, own in read(split) for label in own}
    assert given == {labels[one] for one in used}
    assert all(found.class_names[label] == f"c{one}" for one, label in labels.items() if one in used)
    assert "0 is the background" in found.notes[0]


def changed(made: dict[str, Any], ids: tuple[int, ...], used: tuple[int, ...]) -> dict[str, Any]:
    for number, one in enumerate(made["annotations"]):
        one["category_id"] = used[number % len(used)]
    return {"categories": [{"id": one, "name": f"c{one}"} for one in ids]}


def write(root: Path, change: Callable[[dict[str, Any]], Any] = lambda made: None, count: int = 20) -> Path:
    """Write grey pictures of 40x30 with one box each, as COCO has it; `change` spoils what is written."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    made: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for number in range(count):
        Image.new("RGB", (40, 30), (number,) * 3).save(root / "images" / f"{number}.png")
        made["images"].append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 30})
        made["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": [5, 5, 10, 10]})
    said = change(made)
    (root / "annotations.json").write_text(said if isinstance(said, str) else json.dumps(made))
    return root


def put(kind: str, number: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    """Change an entry; a value of ... leaves it out."""

    def change(made: dict[str, Any]) -> None:
        for name, value in values.items():
            if value is ...:
                del made[kind][number][name]
            else:
                made[kind][number][name] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda made: '{"images": [', "cannot be read as JSON"),
        (lambda made: "[" * 100_000, "cannot be read as JSON"),
        (lambda made: "[1]", "it holds a list, not annotations"),
        (lambda made: made.pop("annotations") and None, "`annotations` is missing"),
        (lambda made: made.update(images=3), "`images` is no list of entries"),
        (lambda made: made.update(annotations=[]), "there is not one box in 20 pictures"),
        (put("images", 2, id=1), "the image id 1 is there twice"),
        (put("images", 2, id="two"), "`id` of image 3 is 'two', not a whole number"),
        (put("categories", 0, id=...), "`id` of category 1 is missing"),
        (lambda made: made["categories"].append(made["categories"][0]), "the category id 1 is there twice"),
        (put("images", 0, file_name="../../0.png"), "(?s)1 of 20 files.*'../../0.png', which is not within"),
        (put("images", 2, file_name=...), "`file_name` of image 3 is None"),
        (put("annotations", 4, image_id=99), "annotation 5 is of image 99, which is not there"),
        (put("annotations", 4, category_id=7), "annotation 5 is of category 7; there are 1"),
        (put("annotations", 4, bbox=...), "`bbox` of annotation 5 is missing"),
        (put("annotations", 4, bbox=[1, 2, 3]), r"`bbox` of annotation 5 is \[1, 2, 3\]: four numbers"),
        (put("annotations", 4, bbox=[5, 5, 0, 10]), r"4.png: box 1 \(5, 5 to 5, 15\) is empty"),
        (put("annotations", 4, bbox=[5, 5, float("nan"), 10]), "4.png: box 1 .* holds what is no number"),
        (put("annotations", 4, bbox=[-(10**400), 5, 1, 10]), "4.png: box 1 .* is empty"),
        (put("annotations", 4, bbox=[5, 5, 1e-7, 10]), "4.png: box 1 .* by less than 0.01 pixels"),
        (put("annotations", 4, bbox=[39.999, 5, 1, 10]), "4.png: box 1 .* by less than 0.01 pixels"),
        (put("images", 4, file_name="a" * 5000 + ".png"), "`file_name` of image 5 is .* no name of a file"),
        (put("annotations", 4, bbox=[5, 5, 90, 10]), "4.png: box 1 .* reaches out of the picture of 40x30"),
        (put("annotations", 4, bbox=[40.5, 5, 1, 10]), "4.png: box 1 .* is outside of the picture of 40x30"),
        (put("images", 4, file_name="none.png"), "none.png: it is not there"),
        (put("images", 4, file_name="../../4.png"), "'../../4.png', which is not within"),
        (put("images", 4, file_name="/etc/passwd"), "'/etc/passwd', which is not within"),
        (put("images", 4, width=41), "4.png: it is 40x30, its annotations are of 41x30"),
        (lambda made: made.update(changed(made, (1, 2), (1, 2))), r"2 categories \(c1, c2\), so 3 classes .* has 2"),
    ],
)  # fmt: skip
def test_annotations_that_cannot_be_used(tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    write(tmp_path, change)
    with pytest.raises(DataError, match=words) as error:
        opened(tmp_path, classes=2)
    assert "\n  " in str(error.value)


def test_many_images_of_one_id_are_refused_at_once(tmp_path: Path) -> None:
    """Looking back through the list for each took minutes."""
    made = {"images": [{"id": number, "file_name": "x.png"} for number in (*range(150_000), 149_999)]}
    write(tmp_path, lambda _: json.dumps(made | {"annotations": [], "categories": []}), count=1)

    def refused() -> None:
        with pytest.raises(DataError, match="the image id 149999 is there twice"):
            opened(tmp_path)

    assert least_seconds(refused, 10) < 10


def test_a_pipe_of_annotations_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    os.mkfifo(tmp_path / "annotations" / "instances_train.json")
    with pytest.raises(DataError, match="cannot be read as JSON: it is no file"):
        opened(tmp_path)


@pytest.mark.parametrize("spoil", ["no labels", "crowds"])
def test_a_split_without_a_single_object_is_refused(tmp_path: Path, spoil: str) -> None:
    """It was judged as 0 % before and after, so that every network kept every drop."""
    if spoil == "no labels":
        boxes.write(tmp_path, {"train": 12, "val": 4}, 64)
        shutil.rmtree(tmp_path / "labels" / "val")
    else:
        write(tmp_path, lambda made: [one.update(iscrowd=1) for one in made["annotations"]])
    with pytest.raises(DataError, match="there is not one box in the (validation|train) split"):
        opened(tmp_path, classes=4 if spoil == "no labels" else 2)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    with pytest.raises(DataError, match="not one object in 1 images"):
        ap.mean_average_precision(ap.pairs([nothing | {"scores": torch.zeros(0)}], [{"truth": nothing}]))


def test_yolo_folders_of_a_year_are_splits(tmp_path: Path) -> None:
    boxes.write(tmp_path, {"Train2017": 12, "val2017": 4}, 64)
    found = opened(tmp_path)
    assert [len(part) for part in (found.train, found.validation)] == [12, 4]


def test_pictures_of_a_split_within_the_training_pictures_are_not_trained_on(tmp_path: Path) -> None:
    boxes.write(tmp_path, {".": 10, "val": 4}, 64)
    found = opened(tmp_path)
    assert [len(part) for part in (found.train, found.validation)] == [10, 4]
    assert not any("trained on as well" in note for note in found.notes)


def test_pictures_of_two_splits_are_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(folder / "images" / "train")
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").symlink_to(folder / "annotations" / "instances_train.json")
    assert any(note.startswith("24 of the 24 pictures of validation are trained on") for note in opened(tmp_path).notes)


@pytest.mark.parametrize("told", ["kpt_shape: [2, 2]", "nothing"])
@pytest.mark.parametrize("seen", [False, True])
def test_boxes_of_yolo_with_keypoints_are_no_outlines(tmp_path: Path, seen: bool, told: str) -> None:
    boxes.write(tmp_path, {"train": 12, "val": 4}, 64)
    wanted = read(opened(tmp_path).train)
    (tmp_path / "data.yaml").write_text(f"{told}\n")
    for path in (tmp_path / "labels").rglob("*.txt"):
        lines = []
        for line in path.read_text().splitlines():
            x, y, w, h = map(float, line.split()[1:])
            points = [(x - w / 4, y), (x, y + h / 3)]
            lines.append(" ".join([line, *(f"{a} {b} 2" if seen else f"{a} {b}" for a, b in points)]))
        path.write_text("\n".join(lines))
    found = opened(tmp_path)
    assert read(found.train) == wanted
    assert any("boxes with keypoints" in note for note in found.notes)


def test_two_pictures_of_one_name_do_not_share_labels_of_yolo(tmp_path: Path) -> None:
    boxes.write(tmp_path, {"train": 4, "val": 2}, 64)
    one = next(path for path in (tmp_path / "images" / "train").iterdir() if path.stem == "0")
    one.with_suffix(".bmp").write_bytes(one.read_bytes())
    with pytest.raises(DataError, match="0[.]bmp.*labels.train.0.txt is the file of labels of both"):
        opened(tmp_path)


@pytest.mark.parametrize("category", [10_000, 10**9, 10**30])
def test_a_vast_class_takes_no_memory(tmp_path: Path, category: int) -> None:
    boxes.write(tmp_path, {"train": 4, "val": 2}, 64)
    (tmp_path / "labels" / "train" / "0.txt").write_text(f"{category} 0.5 0.5 0.1 0.1")
    with pytest.raises(DataError, match=f"line 1 of .* is of class {category}"):
        opened(tmp_path)


def test_a_huge_file_of_annotations_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimkit.data.coco._LARGEST", 100)
    with pytest.raises(DataError, match="at most"):
        opened(write(tmp_path), classes=2)


def test_bad_pictures_are_listed_together_and_left_out_up_to_a_share(tmp_path: Path) -> None:
    def spoil(made: dict[str, Any]) -> None:
        put("annotations", 4, bbox=[5, 5, 0, 10])(made)
        put("images", 7, file_name="none.png")(made)

    write(tmp_path, spoil)
    with pytest.raises(DataError, match=r"(?s)2 of 20 files.*4.png: box 1.*none.png: it is not there.*allow_bad=0.1"):
        opened(tmp_path, classes=2)
    found = opened(tmp_path, classes=2, reading=Reading(allow_bad=0.1))
    assert len(found.train) + len(found.validation) + len(found.test) == 18 and "2 of 20" in found.notes[1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5", "line 1 of .*0.txt is '0 0.5 0.5', not a class"),
        ("0 0.5 0.5 0.1 x", "line 1 of .*0.txt"),
        ("-1 0.5 0.5 0.1 0.1", "is of class -1"),
        ("0 0.5 0.5 0.1 0", "box 1 .* is empty"),
        ("0 5 5 1 1", "reaches out of the picture"),
        ("7 0.5 0.5 0.1 0.1", "8 categories .* the network has 2"),
        ("0 0.5 0.5 0.1 0.1\n" * 60_000, "more than a megabyte"),
        (b"\xff\xfe", "cannot be read as text"),
    ],
)
def test_labels_of_yolo_that_cannot_be_used(tmp_path: Path, line: str | bytes, words: str) -> None:
    write(tmp_path)
    (tmp_path / "annotations.json").unlink()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_bytes(line if isinstance(line, bytes) else line.encode())
    (tmp_path / "labels" / "1.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(DataError, match=words):
        opened(tmp_path, classes=2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "is not a folder"),
        (lambda root: root.mkdir(), "there are no annotations"),
        (
            lambda root: (write(root), (root / "other.json").write_text("{}")),
            "annotations.json and other.json are both",
        ),
        (
            lambda root: write(root).joinpath("annotations.json").rename(root / "val.json"),
            "no annotations for training",
        ),
    ],
)
def test_folders_that_are_none(tmp_path: Path, make: Callable[[Path], Any], words: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(DataError, match=words):
        opened(tmp_path / "data")


def test_a_reading_that_would_be_ignored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="resize is set: a detector resizes"):
        opened(write(tmp_path), reading=Reading(resize=32))


# From end to end.


@pytest.fixture(scope="module")
def compressed(folder: Path) -> Any:
    net = detector()
    provenance.attach(net, Provenance(arch=ARCH))
    result = slimkit.compress(net, [torch.rand(3, SIDE, SIDE)], 0.3, data=f"folder:{folder}", epochs=1, onnx=False)
    return net, result


@pytest.mark.long
def test_a_detector_is_cut_fitted_retrained_and_judged(compressed: Any, folder: Path) -> None:
    net, result = compressed
    report = result.report
    assert type(result.model) is type(net) and report.proof.masked_vs_slim <= 1e-4
    assert "real batch" in report.proof.inputs
    assert [row.constants for row in report.after_cut] == ["zero", "reconstructed"]
    assert report.after_cut[1].output_error < report.after_cut[0].output_error
    assert all(row.accuracy is not None for row in report.after_cut)
    for side in (report.before, report.after):
        found = side.accuracy
        assert (found.task, found.metric, found.unit) == ("detection", "mAP50-95", "share")
        assert (found.validation_images, found.test_images) == (8, 8) and set(found.metrics) == {"mAP50-95", "mAP50"}
        assert len(found.interval) == len(found.validation_interval) == 2
    assert report.recovery.images == 24 and report.recovery.by == "slimkit"
    assert (report.cost.training_macs, report.cost.search_macs) == (24 * 3 * report.after.macs, 0)
    assert report.arch.classes == 4 and "1 disc, 2 square, 3 triangle" in report.arch.assumptions[0]
    assert any("without the original as its teacher" in said for said in report.warnings)
    assert report.usage.class_names == ("__background__", "disc", "square", "triangle")
    split = detection_of(result.model, folder).validation
    again = quality.evaluate(Heads(result.model), split, DETECTION)["mAP50-95"].value
    assert again == pytest.approx(report.after.accuracy.validation, abs=1e-6)


@pytest.mark.long
def test_pictures_of_another_aspect_do_not_reach_a_file_of_one_size(tmp_path: Path) -> None:
    """The run ended in the engine's words, after all its work: a batch was larger than the ONNX file takes."""
    folder = boxes.coco(tmp_path / "coco", {"train": 8, "val": 4, "test": 4}, size=SIDE)
    for path in folder.rglob("*.png"):
        if path.stem in "13":
            ImageOps.pad(Image.open(path), (SIDE, SIDE * 3 // 2), centering=(0, 0)).save(path)
    for path in (folder / "annotations").iterdir():
        said = json.loads(path.read_text())
        for one in said["images"]:
            one["height"] = SIDE * 3 // 2 if one["file_name"] in ("1.png", "3.png") else SIDE
        path.write_text(json.dumps(said))
    asked = {**tiny_detector.boxes_of(4), "max_size": 2 * SIDE}
    net = tiny_detector.FasterRCNN(tiny_detector.Body(), **asked).eval()
    given: dict[str, Any] = {"data": f"folder:{folder}", "epochs": 0, "recover": False, "out": tmp_path / "out"}
    report = slimkit.compress(net, [torch.rand(3, SIDE, SIDE)], 0.3, **given).report
    assert "real batch" in report.proof.inputs and report.proof.slim_vs_onnx <= 1e-4
    assert (tmp_path / "out" / "model.onnx").exists()


def detection_of(net: nn.Module, folder: Path) -> data.Dataset:
    heads = Heads(net)
    return data.prepared(opened(folder), heads.prepared_with, heads.input_shape, heads.classes, heads.finds)


def test_what_comes_out_runs_trains_saves_and_loads(compressed: Any, tmp_path: Path) -> None:
    _, result = compressed
    slim, images = result.model, [torch.rand(3, 50, 60)]
    slimkit.save(slim, tmp_path / "slim.safetensors")
    again = slimkit.load(tmp_path / "slim.safetensors", arch=ARCH)
    with torch.no_grad():
        torch.testing.assert_close(again(images), slim(images), rtol=0, atol=0)
    losses = again.train()(*pictures(2))
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in again.parameters() if p.grad is not None)
    once_more = slimkit.compress(again.eval(), [images[0]], 0.3, epochs=0, onnx=False, calibration=pictures(16)[0])
    assert len(provenance.of(once_more.model).edits) == 2


@pytest.mark.long
def test_retraining_lowers_the_losses_of_the_detector(folder: Path) -> None:
    torch.manual_seed(0)
    net = detector()
    images, targets = next(iter(opened(folder).train.batches(24)))

    def loss(model: nn.Module) -> dict[str, float]:
        torch.manual_seed(0)
        model.train()
        with torch.no_grad():
            value = float(sum(model(images, targets).values()))
        model.eval()
        return {"loss": value}

    how: dict[str, Any] = {"dataset": opened(folder), "onnx": False}
    before, after = (
        slimkit.compress(net, images[:1], 0.3, evaluate=loss, **training, **how).report.own.after["loss"]
        for training in ({"epochs": 0}, {"epochs": 3, "batch_size": 4, "learning_rate": 0.03})
    )
    assert after < 0.85 * before


@pytest.mark.long
def test_loaders_and_data_sets_of_ones_own_are_taken(folder: Path) -> None:
    found = opened(folder)
    items = [pair for images, targets in found.train.batches(8) for pair in zip(images, targets, strict=True)]

    def zipped(batch: list[Any]) -> tuple[Any, ...]:
        return tuple(zip(*batch, strict=True))

    loader = torch.utils.data.DataLoader(items, batch_size=5, collate_fn=zipped)
    for dataset in ((loader, loader), ([zipped(items[:9]), zipped(items[9:])],) * 2, (items, items)):
        if dataset == (items, items):
            dataset = (Items(items), Items(items))
        made = data.as_dataset(dataset, task=DETECTION)
        assert len(made.train) == 24
        batches = list(made.train.batches(7))
        assert [len(images) for images, _ in batches] == [7, 7, 7, 3]
        together = [image for images, _ in batches for image in images]
        assert all(torch.equal(a, b) for a, (b, _) in zip(together, items, strict=True))
    result = slimkit.compress(detector(), [items[0][0]], 0.2, dataset=(loader, loader), epochs=0, onnx=False)
    assert result.report.after.accuracy.validation_images == 24


class Items(torch.utils.data.Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


GOOD = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([1])}


@pytest.mark.long
@pytest.mark.parametrize(
    ("image", "target", "words"),
    [
        (torch.zeros(3, 20, 20, dtype=torch.uint8), GOOD, r"an image is uint8 \[3, 20, 20\]"),
        (torch.zeros(1, 20, 20), GOOD, r"an image is float32 \[1, 20, 20\]"),
        (torch.zeros(3, 20, 20), {"boxes": GOOD["boxes"]}, r"a target is \['boxes'\]"),
        (torch.zeros(3, 20, 20), {**GOOD, "boxes": torch.zeros(4)}, r"boxes are \[4\]"),
        (torch.zeros(3, 20, 20), {**GOOD, "labels": torch.ones(2).long()}, r"labels are \[2\]"),
        (torch.zeros(3, 20, 20), {**GOOD, "boxes": torch.tensor([[9.0, 1, 1, 9]])}, "a box is empty"),
        (torch.zeros(3, 20, 20), {**GOOD, "labels": torch.tensor([0])}, "labels reach from 0 to 0, the network has"),
        (torch.zeros(3, 20, 20), {**GOOD, "labels": torch.tensor([4])}, "the network has classes 1 to 3"),
    ],
)
def test_targets_of_ones_own_are_checked(image: Tensor, target: Any, words: str) -> None:
    batches = [([image] * 4, [target] * 4)] * 4
    with pytest.raises(DataError, match=words):
        slimkit.compress(detector(), [torch.rand(3, 64, 64)], 0.3, dataset=(batches, batches), epochs=0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"int8": True}, "int8 is True"),
        ({"ranking": "taylor"}, "ranking is 'taylor': it needs a loss in evaluation mode"),
        ({"task": "segmentation"}, "task is 'segmentation': the network is a detector"),
        ({"resize": 40}, "resize is set: a detector resizes"),
        ({"data": "digits"}, "data is 'digits'"),
        ({"data": None, "calibration": "IMAGES"}, "epochs is 10: a detector is retrained by its own losses"),
    ],
)
def test_what_does_not_apply_is_refused(folder: Path, how: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"data": f"folder:{folder}", **how}
    if given.get("calibration"):
        given["calibration"] = pictures(16)[0]
    with pytest.raises(SlimkitError, match=words):
        slimkit.compress(detector(), [torch.rand(3, SIDE, SIDE)], 0.3, **given)


def test_other_networks_have_no_boxes(folder: Path) -> None:
    for how in ({"data": f"folder:{folder}", "task": "detection"}, {"dataset": opened(folder)}):
        with pytest.raises(SpecError, match="Sequential is no detector of torchvision"):
            slimkit.compress(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.rand(1, 3, 32, 32), 0.3, **how)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="detectors are not trained from their beginning"):
        slimkit.train(nn.Sequential(nn.Conv2d(3, 8, 3)), opened(folder), 0.3)


def test_a_drop_is_in_points_of_average_precision(folder: Path) -> None:
    task = dataclasses.replace(DETECTION, name="detection")
    dense, slim = Heads(detector()), Heads(detector())
    nn.init.zeros_(slim.net.roi_heads.box_predictor.cls_score.weight)
    split = detection_of(dense.net, folder).validation
    values = [quality.quality(net, split, task) for net in (dense, slim)]
    found = quality.drop_from(dense, split, task)(slim)
    assert (found.value, found.images) == (pytest.approx(100 * (values[0] - values[1])), 8)


@pytest.mark.long
def test_the_commands_take_and_judge_a_detector(folder: Path, tmp_path: Path, capsys: Any) -> None:
    torch.save(detector().state_dict(), tmp_path / "net.pt")
    words = ["--arch", ARCH, "--task", "detection", "--data", f"folder:{folder}"]
    out = tmp_path / "slim"
    made = [*words, "--ratio", "0.3", "--epochs", "1", "--no-onnx", "--out", str(out)]
    assert cli.main(["compress", str(tmp_path / "net.pt"), *made]) == 0
    assert "mAP50-95 (8 test)" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report["proof"]["slim_vs_reloaded"] == 0
    assert report["after"]["accuracy"]["metrics"].keys() == {"mAP50-95", "mAP50"}
    assert "mAP50-95" in (out / "report.html").read_text()
    assert cli.main(["evaluate", str(out / "model.safetensors"), *words, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["accuracy"]
    assert again["test"] == pytest.approx(report["after"]["accuracy"]["test"], abs=1e-6)
    bad = [*words[:-1], f"folder:{tmp_path / 'nowhere'}", "--ratio", "0.3", "--out", str(tmp_path / "no")]
    assert cli.main(["compress", str(tmp_path / "net.pt"), *bad]) == 2
    assert "is not a folder" in capsys.readouterr().err and not (tmp_path / "no").exists()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Heads, EvaluateSpec, Path]:
    """A detector of one stage as a slim file and as an ONNX file beside it."""
    torch.manual_seed(0)
    heads = Heads(tiny_detector.make_ssd().eval())
    arch = f"{tiny_detector.__file__}:make_ssd"
    provenance.attach(heads, detectors.known(Provenance(arch=arch), heads))
    slimkit.save(heads.net, tmp_path / "model.safetensors", arch)
    slimkit.export_onnx(heads, tmp_path / "model.onnx", torch.rand(1, 3, SIDE, SIDE))
    return heads, EvaluateSpec(data="folder:nowhere", arch=arch), tmp_path / "model.onnx"


def test_an_onnx_file_is_judged_by_the_boxes_that_the_detector_beside_it_makes(
    files: Any, folder: Path, capsys: Any
) -> None:
    heads, spec, path = files
    split = detection_of(heads.net, folder).test
    (images, targets), *_ = split.batches(4)
    with torch.no_grad():
        wanted = heads(images, targets)
        found = run_detection.by_engine(path, spec)(images, targets)
        for one, other in zip(wanted, found, strict=True):
            assert len(one["boxes"])
            torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-3, atol=1e-4)
        model = onnx.load(path)
        for weight in model.graph.initializer:
            if "classification" in weight.name:
                weight.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(weight), weight.name))
        onnx.save(model, path)
        silent = run_detection.by_engine(path, spec)(images, targets)
    assert all(bool((entry["scores"] == 0.25).all()) for entry in silent)  # its maps are what is judged
    judge = ["evaluate", str(path), "--arch", spec.arch, "--data", f"folder:{folder}", "--task", "detection", "--json"]
    assert cli.main(judge) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"]["metric"] == "mAP50-95"


def test_onnx_files_of_detectors_that_cannot_be_judged_say_what_can(files: Any) -> None:
    heads, spec, path = files
    slimkit.export_onnx(Heads(tiny_detector.make_ssd(7).eval()), path, torch.rand(1, 3, SIDE, SIDE))
    other = run_detection.by_engine(path, spec)
    with pytest.raises(CheckpointError, match="Give a file that was made of it"):
        other(torch.rand(1, 3, SIDE, SIDE))
    twice = detector()
    provenance.attach(twice, Provenance(arch=ARCH))
    slimkit.save(twice, path.with_name("model.safetensors"), ARCH)
    with pytest.raises(CheckpointError, match="second stage .* looks at regions"):
        run_detection.by_engine(path, dataclasses.replace(spec, arch=ARCH))
    with pytest.raises(SpecError, match="trust_pickle .*model.safetensors, holds no pickle"):
        run_detection.by_engine(path, dataclasses.replace(spec, trust_pickle=True))
    path.with_name("model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="Evaluate the slim file or checkpoint that it was made from"):
        run_detection.by_engine(path, spec)
