"""Masks and keypoints: read for the networks that find them, mirrored, trained on, and judged as COCO judges them."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boxes
import numpy as np
import pytest
import tiny_detector
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from torch import Tensor, nn

import slimkit
from slimkit import cli, data, provenance, training
from slimkit.data.mirror import mirrored, partners
from slimkit.data.outlines import Outline
from slimkit.data.pictures import Reading
from slimkit.errors import DataError
from slimkit.measure import quality
from slimkit.models.detectors import Heads
from slimkit.provenance import Finds, Provenance
from slimkit.tasks import DETECTION, detects, keypoint_precision, mask_precision
from slimkit.tasks import average_precision as ap

SIDE = tiny_detector.SIDE
MASKS, POINTS = Finds(masks=True), Finds(keypoints=3)
NETS: dict[str, Callable[[], nn.Module]] = {"masks": tiny_detector.make_mask, "keypoints": tiny_detector.make_keypoint}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return boxes.coco(tmp_path_factory.mktemp("coco"), {"train": 24, "val": 8, "test": 8}, size=SIDE)


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return NETS[kind]().eval()


def opened(root: Path, finds: Finds, classes: int = 4, **how: Any) -> data.Dataset:
    return data.open(f"folder:{root}", task=DETECTION, own=Provenance(classes=classes, finds=finds), **how)


# Pixels of objects, as files say them.


def coded(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask [H, W] as COCO's own code writes it."""
    runs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(runs["size"]), "counts": runs["counts"].decode()}


def uncoded(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask [H, W] as runs in numbers, as COCO has its crowds."""
    pixels = [0, *mask.T.flatten().tolist()]
    ends = [place for place, (one, other) in enumerate(itertools.pairwise(pixels)) if one != other]
    counts = [after - before for before, after in itertools.pairwise([0, *ends, mask.size])]
    return {"size": list(mask.shape), "counts": counts}


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 60), st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_runs_are_read_as_coco_writes_them(seed: int, height: int, width: int, share: float) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((height, width)) < share
    if share == 0.5:
        mask[: height // 2] = True  # long runs, whose lengths differ by much
    outline = Outline.of(coded(mask))
    assert outline is not None and outline.problem(width, height) is None
    assert np.array_equal(outline.mask(width, height).numpy(), mask)


def test_runs_of_numbers_go_down_the_columns() -> None:
    outline = Outline.of({"size": [3, 2], "counts": [1, 3, 2]})
    assert outline is not None and outline.problem(2, 3) is None
    assert outline.mask(2, 3).tolist() == [[0, 1], [1, 0], [1, 0]]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_no_runs_break_anything(counts: str) -> None:
    """COCO's own code reads and writes beyond its memory on some of these."""
    outline = Outline.of({"size": [20, 20], "counts": counts})
    assert outline is not None
    if outline.problem(20, 20) is None:
        assert outline.mask(20, 20).shape == (20, 20)


def test_polygons_are_the_pixels_within_them(folder: Path) -> None:
    made = json.loads((folder / "annotations" / "instances_train.json").read_text())
    (images, targets), *_ = opened(folder, MASKS).train.batches(24)
    masks = torch.cat([target["masks"] for target in targets])
    assert masks.dtype == torch.uint8 and len(masks) == len(made["annotations"]) and len(images) == 24
    for entry, mask in zip(made["annotations"], masks.numpy(), strict=True):
        corners = np.array(entry["segmentation"][0]).reshape(-1, 2)
        other = inside(corners)
        assert (mask & other).sum() / (mask | other).sum() > 0.8  # of small shapes, on whose edge many pixels are
        rows, columns = mask.nonzero()
        left, top, width, height = entry["bbox"]
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.allclose(found, [left, top, left + width, top + height], atol=1.5)


def inside(corners: np.ndarray) -> np.ndarray:
    """Return which pixels have their centre within a shape without dents, [H, W]."""
    x, y = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
    sides = zip(corners, np.roll(corners, -1, 0), strict=True)
    return np.all([(b[0] - a[0]) * (y - a[1]) >= (b[1] - a[1]) * (x - a[0]) for a, b in sides], 0)


def test_several_polygons_are_one_object() -> None:
    outline = Outline.of([[0, 0, 4, 0, 4, 4, 0, 4], [6, 6, 8, 6, 8, 8, 6, 8]])
    assert outline is not None and outline.problem(10, 10) is None
    assert int(outline.mask(10, 10).sum()) == 16 + 4


# A mirror.


def test_masks_and_keypoints_are_mirrored_with_their_picture(folder: Path) -> None:
    seen = set()
    for finds in (MASKS, POINTS):
        split = opened(folder, finds).train
        plain = {key(image): (image, target) for image, target in pictures_of(split)}
        for image, target in pictures_of(split, seed=0, augment=True):
            before, expected = plain[key(image)]
            flipped = not torch.equal(before, image)
            seen.add(flipped)
            assert torch.equal(image, before.flip(-1) if flipped else before)
            if finds.masks:
                assert torch.equal(target["masks"], expected["masks"].flip(-1) if flipped else expected["masks"])
                continue
            for (left, right, top), box in zip(target["keypoints"], target["boxes"], strict=True):
                ends = torch.stack([left[0], right[0], top[1]])
                torch.testing.assert_close(ends, box[[0, 2, 1]], rtol=0, atol=1e-3)  # the outermost, as their names say
    assert seen == {True, False}


def key(image: Tensor) -> int:
    """Return what tells a picture from others, and is that of its mirror image."""
    return int((image * 255).round().long().sum())


def pictures_of(split: data.Split, **how: Any) -> list[tuple[Tensor, dict[str, Tensor]]]:
    return [pair for images, targets in split.batches(8, **how) for pair in zip(images, targets, strict=True)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("nose", "left_eye", "right_eye"), (0, 2, 1)),
        (("Left Knee", "Right Knee"), (1, 0)),
        (("l-ear", "tail", "r-ear"), (2, 1, 0)),
        (("head", "tail"), None),  # nothing says that they have no sides
        (("left_eye", "nose"), None),
        (("left", "left", "right"), None),
        (("a", "b", "left", "bright"), None),
        ((), None),
    ],
)
def test_names_tell_which_keypoints_change_places(names: tuple[str, ...], expected: tuple[int, ...] | None) -> None:
    assert partners(names) == expected


def test_points_that_are_not_labelled_stay_where_they_are() -> None:
    target = {"boxes": torch.tensor([[1.0, 2, 5, 6]]), "keypoints": torch.tensor([[[1.0, 2, 2], [0, 0, 0]]])}
    image, found = mirrored(torch.zeros(3, 8, 10), target, (1, 0))
    assert found["keypoints"].tolist() == [[[0, 0, 0], [9, 2, 2]]] and found["boxes"].tolist() == [[5, 2, 9, 6]]
    assert image.shape == (3, 8, 10)


def test_where_names_do_not_tell_nothing_is_mirrored(folder: Path, tmp_path: Path) -> None:
    root = changed(folder, tmp_path, lambda made: [one.update(keypoints=["a", "b", "c"]) for one in made["categories"]])
    found = opened(root, POINTS)
    assert any("do not tell left from right" in note for note in found.notes)
    assert any("change places where a picture is mirrored: left and right" in n for n in opened(folder, POINTS).notes)
    plain = {key(image): image for image, _ in pictures_of(found.train)}
    assert all(torch.equal(plain[key(image)], image) for image, _ in pictures_of(found.train, seed=0, augment=True))


# What cannot be used.


def changed(made: Path, root: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Write a folder of the same pictures, whose annotations are others."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").symlink_to(made / "images")
    for path in (made / "annotations").iterdir():
        found = json.loads(path.read_text())
        change(found)
        (root / "annotations" / path.name).write_text(json.dumps(found))
    return root


def each(**values: Any) -> Callable[[dict[str, Any]], Any]:
    """Change the first object of the files; a value of ... leaves it out of all of them."""

    def change(made: dict[str, Any]) -> None:
        for name, value in values.items():
            for entry in made["annotations"] if value is ... else made["annotations"][:1]:
                entry.pop(name)
                entry |= {} if value is ... else {name: value}

    return change


def unmarked(made: dict[str, Any]) -> None:
    for entry in made["annotations"]:
        entry["keypoints"] = [0] * 9


@pytest.mark.parametrize(
    ("finds", "change", "words"),
    [
        (MASKS, each(segmentation=...), "no annotation has `segmentation` to learn from, .* by masks"),
        (POINTS, each(keypoints=...), "no annotation has `keypoints` to learn from, .* by keypoints"),
        (MASKS, each(segmentation=[]), "0.png: object 1 has no `segmentation`"),
        (MASKS, each(segmentation=[[1, 2, 3, 4]]), "0.png: `segmentation` of object 1 has a polygon of 4 numbers"),
        (MASKS, each(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "has a polygon of 7 numbers: x and y of three corners"),
        (MASKS, each(segmentation=[[1, 2, 3, 4, 5, 99]]), "reaches out of the picture of 64x64"),
        (MASKS, each(segmentation=[[1, 2, 3, 4, 5, float("nan")]]), "holds what is no number"),
        (MASKS, each(segmentation=[[1, 2, 3, 4, 5, 10**400]]), "reaches out of the picture"),
        (MASKS, each(segmentation=[[1, 2, 3, 4, 5, "6"]]), "is no list of lists of numbers"),
        (MASKS, each(segmentation=[1, 2, 3, 4, 5, 6]), "is no list of lists of numbers"),
        (MASKS, each(segmentation="mask.png"), "`segmentation` of object 1 is 'mask.png'"),
        (MASKS, each(segmentation={"counts": [1]}), "is of size None"),
        (MASKS, each(segmentation={"counts": [5, 5], "size": [64, 64]}), "is of 10 pixels, the picture of 4096"),
        (MASKS, each(segmentation={"counts": [-1, 4097], "size": [64, 64]}), "has runs of list"),
        (MASKS, each(segmentation={"counts": [10**30], "size": [64, 64]}), "has runs of list"),
        (MASKS, each(segmentation={"counts": [30], "size": [5, 6]}), "is of 6x5 pixels, the picture of 64x64"),
        (MASKS, each(segmentation={"counts": "o", "size": [64, 64]}), "cannot be read: it ends within a run"),
        (MASKS, each(segmentation={"counts": " ", "size": [64, 64]}), "' ' is none of its characters"),
        (MASKS, each(segmentation={"counts": "o" * 99, "size": [64, 64]}), "is none of its characters"),
        (MASKS, each(segmentation={"counts": "@", "size": [64, 64]}), "a run is of less than no pixels"),
        (POINTS, unmarked, "no annotation has `keypoints` to learn from"),
        (POINTS, each(keypoints=None), "0.png: object 1 has no `keypoints`"),
        (POINTS, each(keypoints=[1, 2, 2]), "`keypoints` of object 1 are 3 numbers: 3 times x, y, v are needed"),
        (POINTS, each(keypoints="left"), "`keypoints` of object 1 are 'left', not numbers"),
        (POINTS, each(keypoints=[1, 2, 2, 3, 4, 5, 6, 7, 2]), r"keypoint 2 of object 1 \(3, 4, 5\) is neither 2, seen"),
        (POINTS, each(keypoints=[1, 2, 2, 3, 400, 2, 6, 7, 2]), r"keypoint 2 of object 1 \(3, 400, 2\) is outside"),
        (POINTS, each(keypoints=[1, 2, 2, float("nan"), 4, 2, 6, 7, 2]), "is outside of the picture of 64x64"),
        (Finds(keypoints=17), lambda made: None, "category 1 has 3 keypoints, left, right, top; the network finds 17"),
    ],
)  # fmt: skip
def test_outlines_and_keypoints_that_cannot_be_used(
    folder: Path, tmp_path: Path, finds: Finds, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    root = changed(folder, tmp_path, change)
    with pytest.raises(DataError, match=words) as error:
        opened(root, finds)
    assert "\n  " in str(error.value)
    assert len(opened(root, Finds()).train) == 24  # of boxes there is nothing wrong


def test_bad_outlines_are_left_out_up_to_a_share(folder: Path, tmp_path: Path) -> None:
    root = changed(folder, tmp_path, each(segmentation=[[1, 2, 3, 4]]))
    found = opened(root, MASKS, reading=Reading(allow_bad=0.1))
    assert len(found.train) == 23 and any("3 of 40 files cannot be used" in note for note in found.notes)


def test_crowds_have_outlines_and_no_keypoints(folder: Path, tmp_path: Path) -> None:
    def crowd(made: dict[str, Any]) -> None:
        mask = np.zeros((SIDE, SIDE), bool)
        mask[5:20, 3:30] = True
        entry = made["annotations"][0]
        entry.update(iscrowd=1, segmentation=uncoded(mask))
        del entry["keypoints"]

    root = changed(folder, tmp_path, crowd)
    (_, (target, *_)), *_ = opened(root, MASKS).validation.batches(4)
    assert target["iscrowd"][0] and int(target["masks"][0].sum()) == 15 * 27
    (_, (target, *_)), *_ = opened(root, POINTS).validation.batches(4)
    assert target["keypoints"][0].tolist() == [[0, 0, 0]] * 3


def test_files_of_keypoints_are_read_by_their_name(folder: Path, tmp_path: Path) -> None:
    """COCO has boxes and outlines of all classes in one file, keypoints of persons in another."""
    root = changed(folder, tmp_path, each(keypoints=...))
    for path in (folder / "annotations").iterdir():
        name = path.name.replace("instances", "person_keypoints")
        (root / "annotations" / name).write_text(path.read_text())
    assert len(opened(root, POINTS).train) == len(opened(root, MASKS).train) == 24


def as_yolo(made: Path, root: Path, line: Callable[[dict[str, Any], int], str]) -> Path:
    """Write the labels of a folder of COCO's as YOLO's, one line an object, and its pictures beside them."""
    for path in made.glob("annotations/instances_*.json"):
        said = json.loads(path.read_text())
        part = path.stem.removeprefix("instances_")
        for top in ("images", "labels"):
            (root / top / part).mkdir(parents=True)
        for entry in said["images"]:
            picture = next(made.rglob(f"{part}*/{entry['file_name']}"))
            (root / "images" / part / picture.name).write_bytes(picture.read_bytes())
            lines = [line(one, SIDE) for one in said["annotations"] if one["image_id"] == entry["id"]]
            (root / "labels" / part / picture.name).with_suffix(".txt").write_text("\n".join(lines))
    return root


def outlined(one: dict[str, Any], side: int) -> str:
    return " ".join([str(one["category_id"] - 1), *(f"{number / side:.9f}" for number in one["segmentation"][0])])


def boxed(one: dict[str, Any], side: int) -> str:
    x, y, w, h = (number / side for number in one["bbox"])
    return f"{one['category_id'] - 1} {x + w / 2} {y + h / 2} {w} {h}"


def test_outlines_of_yolo_are_the_masks_that_coco_has(folder: Path, tmp_path: Path) -> None:
    of_yolo, of_coco = opened(as_yolo(folder, tmp_path, outlined), MASKS), opened(folder, MASKS)
    assert of_yolo.classes == of_coco.classes
    found = {key(image): target for image, target in pictures_of(of_yolo.train)}
    assert len(found) == 24
    for image, wanted in pictures_of(of_coco.train):
        target = found[key(image)]
        assert torch.equal(target["labels"], wanted["labels"])
        assert (target["masks"] != wanted["masks"]).float().mean() < 0.001
        torch.testing.assert_close(target["boxes"], wanted["boxes"], atol=0.05, rtol=0)
    assert "masks" not in pictures_of(opened(tmp_path, Finds()).train)[0][1]


@pytest.mark.parametrize(
    ("finds", "line", "words"),
    [
        (MASKS, boxed, "object 1 has a box alone, no outline"),
        (MASKS, lambda one, side: outlined(one, side // 3), "box 1 .* reaches out of the picture"),
        (POINTS, outlined, "no annotations of COCO, and the network is trained and judged by keypoints"),
    ],
)
def test_labels_of_yolo_that_hold_no_masks_are_told(
    folder: Path, tmp_path: Path, finds: Finds, line: Callable[[dict[str, Any], int], str], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        opened(as_yolo(folder, tmp_path, line), finds)


# How they are judged.


def test_masks_come_small_and_are_judged_as_torchvision_pastes_them(folder: Path) -> None:
    net = network("masks")
    net.roi_heads.score_thresh = 0.0
    heads = Heads(net).eval()
    (images, targets), *_ = opened(folder, MASKS).validation.batches(8)  # more than are looked at at once
    x, ready = heads.prepared_with(images, targets)
    with torch.no_grad():
        found, expected = heads(x, ready), net(images)
    assert ready[0]["masks"].dtype == torch.uint8 and ready[0]["truth"]["masks"].shape[1:] == (SIDE, SIDE)
    for said, other, pair in zip(found, expected, mask_precision.pairs(found, ready), strict=True):
        assert len(said["masks"]) == len(other["masks"]) > 10 and said["masks"].shape[-1] < SIDE
        runs = [coded((mask[0] > 0.5).numpy()) for mask in other["masks"]]
        assert [one["segmentation"]["counts"].decode() for one in pair.shapes] == [one["counts"] for one in runs]


def mask_of(left: int, right: int) -> Tensor:
    mask = torch.zeros(20, 20, dtype=torch.uint8)
    mask[:10, left:right] = 1
    return mask


@pytest.mark.parametrize(
    ("found", "expected"),
    [((0, 10), 1.0), ((0, 6), 0.3), ((10, 20), 0.0)],  # an overlap of 0.6: at 0.5, 0.55 and 0.6 of ten thresholds
)
def test_average_precision_of_masks_is_by_their_overlap_not_that_of_boxes(
    found: tuple[int, int], expected: float
) -> None:
    box = torch.tensor([[0.0, 0, 20, 20]])  # the same of both
    said = {"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    truth = {"boxes": box, "labels": torch.tensor([1]), "masks": mask_of(0, 10)[None]}
    output = said | {"masks": mask_of(*found)[None, None].float()}
    compared = mask_precision.pairs([output], [{"truth": truth}])
    assert ap.mean_average_precision(compared, kind="segm").value == pytest.approx(expected, abs=1e-9)
    assert ap.mean_average_precision(ap.pairs([output], [{"truth": truth}])).value == pytest.approx(1)


OF_COCO = np.array(
    [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
)


@pytest.mark.parametrize(("count", "sigmas"), [(17, OF_COCO / 10), (2, np.full(2, 0.5)), (5, np.full(5, 0.2))])
@pytest.mark.parametrize("similarity", [0.52, 0.74, 0.97])
def test_average_precision_of_keypoints_is_by_cocos_similarity(
    count: int, sigmas: np.ndarray, similarity: float
) -> None:
    """A point that is off by d, of an object of area A, is like it by exp(-d^2 / (8 s^2 A))."""
    area = 400.0
    random = np.random.default_rng(0)
    true = np.concatenate([random.uniform(5, 20, (1, count, 2)), np.full((1, count, 1), 2.0)], 2)
    true[0, -1, 2] = 0
    off = np.sqrt(-np.log(similarity) * 8 * sigmas**2 * area)
    said = true + np.stack([off, 0 * off, 0 * off], 1)
    said[0, -1] = 1000
    box = torch.tensor([[0.0, 0, 40, 40]])
    output = {"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    truth = {"boxes": box, "labels": torch.tensor([1]), "area": torch.tensor([area])}
    (pair,) = keypoint_precision.pairs(
        [output | {"keypoints": torch.tensor(said)}], [{"truth": truth | {"keypoints": torch.tensor(true)}}]
    )
    expected = np.mean([similarity >= threshold for threshold in ap.THRESHOLDS])
    assert ap.mean_average_precision([pair], kind="keypoints").value == pytest.approx(expected, abs=1e-9)


def test_objects_without_keypoints_are_neither_to_be_found_nor_wrong() -> None:
    box = torch.tensor([[0.0, 0, 40, 40]])
    output = {
        "boxes": box,
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.9]),
        "keypoints": torch.ones(1, 2, 3),
    }
    truth = {"boxes": box, "labels": torch.tensor([1]), "keypoints": torch.zeros(1, 2, 3)}
    found = keypoint_precision.pairs([output], [{"truth": truth}])
    with pytest.raises(DataError, match="crowds, or such without keypoints at most"):
        ap.mean_average_precision(found, kind="keypoints")


@pytest.mark.parametrize(
    ("finds", "first"), [(Finds(), "mAP50-95"), (MASKS, "mask mAP50-95"), (POINTS, "keypoint mAP50-95")]
)
def test_the_first_metric_is_of_what_the_network_is_for(finds: Finds, first: str) -> None:
    task = detects(finds)
    assert task.metric == first and list(task.metrics)[-2:] == ["mAP50-95", "mAP50"]
    assert len(task.metrics) == (4 if finds.names else 2)


# From end to end.


@pytest.mark.long
@pytest.mark.parametrize("kind", list(NETS))
def test_masks_and_keypoints_are_trained_on_and_judged(kind: str, folder: Path, tmp_path: Path, capsys: Any) -> None:
    torch.save(network(kind).state_dict(), tmp_path / "net.pt")
    arch = f"{tiny_detector.__file__}:{NETS[kind].__name__}"
    words = ["--arch", arch, "--task", "detection", "--data", f"folder:{folder}"]
    out = tmp_path / "slim"
    made = [*words, "--ratio", "0.3", "--epochs", "1", "--no-onnx", "--out", str(out)]
    assert cli.main(["compress", str(tmp_path / "net.pt"), *made]) == 0
    metric = f"{kind[:-1]} mAP50-95"
    shown = capsys.readouterr().out
    assert all(f"{name} (8 test)" in shown for name in (metric, metric[:-3], " mAP50-95", " mAP50"))
    report = json.loads((out / "report.json").read_text())
    for side in ("before", "after"):
        found = report[side]["accuracy"]
        assert found["metric"] == metric and len(found["interval"]) == len(found["validation_interval"]) == 2
        assert list(found["metrics"]) == [metric, metric[:-3], "mAP50-95", "mAP50"]
        assert [one["metric"] for one in found["others"]] == [metric[:-3], "mAP50-95", "mAP50"]
        assert all(one["unit"] == "share" and len(one["interval"]) == 2 for one in found["others"])
    assert metric in (out / "report.html").read_text()
    assert cli.main(["evaluate", str(out / "model.safetensors"), *words, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["accuracy"]
    assert again["test"] == pytest.approx(report["after"]["accuracy"]["test"], abs=1e-6)
    assert cli.main(["evaluate", str(out / "model.safetensors"), *words]) == 0
    assert capsys.readouterr().out.count("95 % interval") == 4


@pytest.mark.long
@pytest.mark.parametrize("kind", list(NETS))
def test_retraining_lowers_the_losses_of_masks_and_keypoints(kind: str, folder: Path) -> None:
    heads = Heads(network(kind))
    split = prepared(folder, heads).train
    images, targets = next(iter(split.batches(24, augment=True)))
    name = {"masks": "loss_mask", "keypoints": "loss_keypoint"}[kind]

    def loss(model: nn.Module) -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return float(model.train()(images, targets)[name])

    recipe = training.Recipe(epochs=6, batch_size=4, learning_rate=0.03, augment=True)
    trained = training.train(heads, split, recipe, task=detects(heads.finds))
    assert loss(trained.model) < 0.95 * loss(heads)


def prepared(folder: Path, heads: Heads) -> data.Dataset:
    found = opened(folder, heads.finds)
    return data.prepared(found, heads.prepared_with, heads.input_shape, heads.classes, heads.finds)


@pytest.mark.parametrize(
    ("kind", "spoilt", "words"),
    [
        ("masks", {"masks": None}, "trained and judged by 'masks' of a target, which are not there"),
        ("masks", {"masks": torch.zeros(1, 9, 9).byte()}, r"masks are \[1, 9, 9\], not \[1, 20, 20\]"),
        ("masks", {"masks": torch.zeros(1, 20, 20)}, "masks are float32, not uint8"),
        ("keypoints", {"keypoints": torch.zeros(1, 17, 3)}, r"keypoints are \[1, 17, 3\], not \[1, 3, 3\]"),
        ("keypoints", {"keypoints": torch.zeros(1, 3, 3).long()}, "keypoints are int64, not floats"),
    ],
)
def test_targets_of_ones_own_are_checked(kind: str, spoilt: dict[str, Any], words: str) -> None:
    target = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([1]), **spoilt}
    batches = [([torch.zeros(3, 20, 20)] * 4, [target] * 4)] * 4
    with pytest.raises(DataError, match=words):
        slimkit.compress(network(kind), [torch.rand(3, 64, 64)], 0.3, dataset=(batches, batches), epochs=0)


def test_a_drop_is_in_points_of_the_masks(folder: Path) -> None:
    dense, slim = (Heads(network("masks")) for _ in range(2))
    for heads, bias in ((dense, 9.0), (slim, -9.0)):  # the same boxes, and all of their pixels or none
        heads.net.roi_heads.score_thresh = 0.0
        nn.init.constant_(heads.net.roi_heads.mask_predictor.mask_fcn_logits.bias, bias)
    split, task = prepared(folder, dense).validation, detects(MASKS)
    dropped = quality.drop_from(dense, split, task)(slim)
    measured = quality.evaluate(dense, split, task)
    assert dropped.value == pytest.approx(100 * measured["mask mAP50-95"].value) and dropped.value > 0
    assert quality.evaluate(slim, split, task)["mAP50-95"] == measured["mAP50-95"]


def test_what_a_network_finds_is_known_of_it() -> None:
    for kind, finds in (("masks", MASKS), ("keypoints", POINTS)):
        net = network(kind)
        provenance.attach(net, Provenance(arch=f"{tiny_detector.__file__}:{NETS[kind].__name__}"))
        assert Heads(net).finds == finds
        assert slimkit.models.as_network(net).model.finds == finds
