"""Folders of pictures: read as the network was trained, files checked first, nothing assumed in silence."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import slimkit
from slimkit import data, models
from slimkit.data.listing import problem
from slimkit.data.pictures import Reading, View
from slimkit.errors import DataError, SlimkitError, SpecError
from slimkit.provenance import Provenance
from slimkit.tasks import SEGMENTATION

RANDOM = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (16, 12), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(RANDOM.integers(0, 256, shape, np.uint8)).save(path)
    return path


def classes(root: Path, parts: tuple[str, ...] = (".",), count: int = 10) -> Path:
    for part in parts:
        for name in ("cat", "dog"):
            for number in range(count):
                picture(root / part / name / f"{number}.png")
    return root


def pairs(root: Path, values: tuple[int, ...] = (0, 1, 2), place: str = "{kind}", count: int = 8) -> Path:
    for number in range(count):
        picture(root / place.format(kind="images") / f"{number}.jpg")
        path = root / place.format(kind="masks") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RANDOM.choice(np.array(values, np.uint8), (12, 16))).save(path)
    return root


def open_at(root: Path, size: int = 8, **how: Any) -> data.Dataset:
    return data.open(f"folder:{root}", reading=Reading(input_shape=(3, size, size)), **how)


@pytest.mark.parametrize("size", [(300, 400), (500, 260), (224, 224)])
def test_a_picture_is_seen_as_torchvision_shows_it(tmp_path: Path, size: tuple[int, int]) -> None:
    path = picture(tmp_path / "x.png", size)
    show = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    opened = data.open_inputs(f"folder:{tmp_path}")
    [batch] = opened.batches(4, seed=None)
    assert isinstance(batch, torch.Tensor)
    wanted = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(show(Image.open(path)))
    torch.testing.assert_close(batch[0], wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("how", "steps"),
    [
        ({"resize": 40}, [transforms.Resize(40), transforms.CenterCrop(32)]),
        ({"resize": 32}, [transforms.Resize(32), transforms.CenterCrop(32)]),
        ({"resize": "squash"}, [transforms.Resize((32, 32))]),
        ({"crop": 1.0}, [transforms.Resize(32), transforms.CenterCrop(32)]),
        ({"crop": 0.8}, [transforms.Resize(40), transforms.CenterCrop(32)]),
    ],
)
def test_resize_and_crop_are_those_of_the_ecosystem(tmp_path: Path, how: dict[str, Any], steps: list[Any]) -> None:
    path = picture(tmp_path / "x.png", (50, 70))
    reading = Reading(input_shape=(3, 32, 32), mean=(0.0,) * 3, std=(1.0,) * 3, **how)
    [batch] = data.open_inputs(f"folder:{tmp_path}", reading=reading).batches(1, seed=None)
    wanted = transforms.Compose([*steps, transforms.ToTensor()])(Image.open(path))
    assert isinstance(batch, torch.Tensor)
    torch.testing.assert_close(batch[0], wanted, atol=1e-6, rtol=0)


GREY = {"mean": [0.5], "std": [0.25]}


@pytest.mark.parametrize(
    ("reading", "own_shape", "normalisation", "shape", "mean", "assumed"),
    [
        (None, None, None, (3, 224, 224), 0.485, ["input_shape", "crop 0.875 (resize 256)", "ImageNet"]),
        (
            None,
            (3, 128, 128),
            None,
            (3, 128, 128),
            0.485,
            ["input_shape from the network", "crop 0.875 (resize 146)", "ImageNet"],
        ),
        (Reading(input_shape=(3, 64, 96)), (3, 128, 128), None, (3, 64, 96), 0.485, ["crop", "ImageNet"]),
        (None, (1, 28, 28), GREY, (1, 28, 28), 0.5, ["input_shape from", "crop", "mean and std from the network"]),
        (None, (1, 28, 28), None, (1, 28, 28), 0.449, ["crop", "ImageNet"]),
        (Reading(resize=28), (1, 28, 28), GREY, (1, 28, 28), 0.5, ["input_shape from", "mean and std from"]),
        (Reading(input_shape=(1, 9, 9), mean=(0.1,), std=(1.0,), crop=1.0), (1, 28, 28), GREY, (1, 9, 9), 0.1, []),
    ],
)
def test_a_folder_is_read_as_asked_for_else_as_trained_else_as_usual(
    tmp_path: Path,
    reading: Reading | None,
    own_shape: tuple[int, ...] | None,
    normalisation: dict[str, list[float]] | None,
    shape: tuple[int, ...],
    mean: float,
    assumed: list[str],
) -> None:
    opened = data.open(
        f"folder:{classes(tmp_path)}",
        reading=reading,
        own=Provenance(input_shape=own_shape, normalisation=normalisation),
    )
    assert (opened.input_shape, opened.mean[0], opened.class_names) == (shape, mean, ("cat", "dog"))
    assert bool(opened.notes) == bool(assumed)
    assert all(word in opened.notes[0] for word in assumed)
    [images, _] = next(iter(opened.test.batches(2)))
    assert images.shape == (2, *shape)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"resize": 0}, "resize is 0"),
        ({"resize": "squeeze"}, "'squash'"),
        ({"crop": 1.5}, r"crop is 1.5: it must be in \(0, 1\]"),
        ({"crop": 0.9, "resize": 40}, "one follows from the other"),
        ({"mean": (0.5,)}, "only one is given"),
        ({"mean": (0.5,), "std": (0.0,)}, "above 0"),
        ({"allow_bad": 1.0}, "allow_bad is 1.0"),
    ],
)
def test_a_reading_checks_itself(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        Reading(**wrong)


@pytest.mark.parametrize("shape", [(4, 8, 8), (1, 200), (100,), (3, 0, 8)])
def test_pictures_are_of_one_or_three_channels(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="pictures are"):
        data.open(f"folder:{classes(tmp_path)}", reading=Reading(input_shape=shape))


def test_mean_and_std_are_one_number_a_channel(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="of 1 and 1 channels, the pictures of 3"):
        data.open(f"folder:{classes(tmp_path)}", reading=Reading(mean=(0.5,), std=(0.5,)))


@pytest.mark.parametrize(
    ("parts", "sizes", "note"),
    [
        (("train", "val", "test"), [20, 20, 20], None),
        (("training", "valid", "testing"), [20, 20, 20], None),
        (("train", "val"), [20, 20, 20], "test figures are those of val/"),
        (("train", "test"), [18, 2, 20], None),
        ((".",), [14, 2, 4], None),
    ],
)
def test_sub_folders_are_taken_as_they_are(
    tmp_path: Path, parts: tuple[str, ...], sizes: list[int], note: str | None
) -> None:
    opened = open_at(classes(tmp_path, parts))
    assert [len(split) for split in (opened.train, opened.validation, opened.test)] == sizes
    files = [set(split.fetch.files) for split in (opened.train, opened.validation, opened.test)]  # type: ignore[attr-defined]
    assert not files[0] & (files[1] | files[2])
    assert (files[1] == files[2]) == (note is not None)
    assert (note is None) == (len(opened.notes) == 1)
    assert note is None or note in opened.notes[1]


@pytest.mark.parametrize("parts", [("Train", "Val", "Test"), ("TRAINING", "valid", "Testing")])
@pytest.mark.parametrize("made", [classes, pairs])
def test_splits_are_splits_in_capitals_too(tmp_path: Path, parts: tuple[str, ...], made: Callable[..., Path]) -> None:
    if made is classes:
        opened = open_at(classes(tmp_path, parts))
        assert any(f"{parts[0]}/ as train" in note for note in opened.notes)
    else:
        for part in parts:
            pairs(tmp_path, place=f"{part}/{{kind}}")
        opened = data.open(f"folder:{tmp_path}", task=SEGMENTATION, reading=Reading(input_shape=(3, 8, 8)))
    count = 20 if made is classes else 8
    assert [len(split) for split in (opened.train, opened.validation, opened.test)] == [count] * 3


def test_folders_that_all_hold_the_same_folders_are_asked_about(tmp_path: Path) -> None:
    opened = open_at(classes(tmp_path, ("first", "second")))
    assert opened.class_names == ("first", "second")
    assert any("all of which hold the folders cat, dog: if those are the classes" in note for note in opened.notes)


@pytest.mark.parametrize("parts", [("train", "val", "test"), ("training", "validation", "testing"), (".",)])
def test_a_class_may_be_called_as_a_split_is(tmp_path: Path, parts: tuple[str, ...]) -> None:
    names = ("bus", "car", "train", "truck")
    for part in parts:
        for name in names:
            for number in range(12):
                picture(tmp_path / part / name / f"{number}.png")
    found = open_at(tmp_path)
    assert found.class_names == names and found.test is not None
    assert len(found.train) + len(found.validation) + len(found.test) == 48 * len(parts)


def test_hidden_files_and_folders_are_never_read(tmp_path: Path) -> None:
    classes(tmp_path)
    for hidden in (".cache/x.png", "cat/.x.png", "cat/._1.png", "dog/.thumbnails/1.png", "cat/Thumbs.db"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"no picture")
    opened = open_at(tmp_path)
    assert sum(len(split) for split in (opened.train, opened.validation, opened.test)) == 20
    assert len(data.open_inputs(f"folder:{tmp_path}")) == 20


def test_all_bad_files_are_listed_together_or_left_out(tmp_path: Path) -> None:
    classes(tmp_path, count=30)
    bad = [tmp_path / "cat" / "3.png", tmp_path / "dog" / "7.png"]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(bad[1].read_bytes()[:-200])
    with pytest.raises(
        DataError, match=r"(?s)2 of 60 files cannot be used.*cat/3.png: .*dog/7.png: .*allow_bad"
    ) as error:
        open_at(tmp_path)
    share = float(str(error.value).rpartition("`allow_bad=")[2].rstrip("`"))
    opened = data.open(f"folder:{tmp_path}", reading=Reading(input_shape=(3, 8, 8), allow_bad=share))
    assert sum(len(split) for split in (opened.train, opened.validation, opened.test)) == 58
    assert "2 of 60 files" in opened.notes[1] and str(bad[0]) in opened.notes[1]
    for split in (opened.train, opened.validation, opened.test):
        assert len(list(split.batches(1))) == len(split)
    with pytest.raises(DataError, match="2 of 60"):
        data.open(f"folder:{tmp_path}", reading=Reading(allow_bad=0.02))


def test_where_all_files_are_bad_none_is_offered_to_be_left_out(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "images" / f"{number}.png")
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match=r"(?s)3 of 3 files cannot be used.*\n  Mend them$"):
        open_at(tmp_path, task=SEGMENTATION)


def test_a_long_list_of_bad_files_is_cut(tmp_path: Path) -> None:
    classes(tmp_path)
    for number in range(10):
        (tmp_path / "cat" / f"{number}.png").write_bytes(b"x")
        (tmp_path / "dog" / f"{number}.png").write_bytes(b"x")
    with pytest.raises(DataError, match="(?s)20 of 20 files.*and 10 more"):
        open_at(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_a_file_that_was_cut_off_is_seen(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / f"x.{suffix}", (300, 200))
    assert problem(path) is None
    raw = path.read_bytes()
    for share in (0.0, 0.001, 0.1, 0.5, 0.9):
        path.write_bytes(raw[: int(share * len(raw))])
        assert problem(path), share


def test_pictures_of_16_bits_are_not_white(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 65536, (12, 16), np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(np.rint(values / 257).astype(np.uint8)).save(tmp_path / "plain.png")
    for channels in (1, 3):
        view = View(shape=(channels, 8, 8), mean=(0.0,) * channels, std=(1.0,) * channels)
        deep, plain = (np.asarray(view.open(tmp_path / f"{name}.png")) for name in ("deep", "plain"))
        assert deep.std() > 50 and np.array_equal(deep, plain)
    Image.fromarray(RANDOM.random((12, 16)).astype(np.float32)).save(tmp_path / "floats.tif")
    assert "nothing says where its values begin and end" in (problem(tmp_path / "floats.tif") or "")


def test_a_class_without_pictures_is_named(tmp_path: Path) -> None:
    classes(tmp_path, ("train", "val"))
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(DataError, match=r"no pictures in \S+train/cow\.\n  Put some there"):
        open_at(tmp_path)


def test_a_flat_folder_has_no_classes_but_calibrates(tmp_path: Path) -> None:
    for number in range(5):
        picture(tmp_path / ("deep" if number == 4 else ".") / f"{number}.jpg", (40, 30))
    with pytest.raises(DataError, match="so no classes; its pictures can serve without classes, as calibration"):
        open_at(tmp_path)
    inputs = data.open_inputs(f"folder:{tmp_path}", own=Provenance(input_shape=(1, 16, 16)))
    assert len(inputs) == 5 and inputs.notes
    once, again = (list(inputs.batches(2)) for _ in range(2))
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    assert [batch.shape for batch in once if isinstance(batch, torch.Tensor)] == [(2, 1, 16, 16)] * 2
    for wrong in (tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match="is not a folder|no pictures in it"):
            data.open_inputs(f"folder:{wrong}")


@pytest.mark.parametrize("place", ["{part}/{kind}", "{kind}/{part}"])
def test_masks_are_found_within_or_above_the_splits(tmp_path: Path, place: str) -> None:
    for part in ("train", "val"):
        pairs(tmp_path, place=place.replace("{part}", part))
    opened = open_at(tmp_path, 10, task=SEGMENTATION)
    assert [len(s) for s in (opened.train, opened.validation, opened.test)] == [8, 8, 8]
    assert (opened.classes, opened.task) == (3, SEGMENTATION)
    for how in ({}, {"seed": 0, "augment": True}):
        images, masks = next(iter(opened.train.batches(4, **how)))
        assert (images.shape, masks.shape, masks.dtype) == ((4, 3, 10, 10), (4, 10, 10), torch.int64)
        assert type(masks) is torch.Tensor and set(masks.unique().tolist()) <= {0, 1, 2}


def test_pictures_of_a_split_within_the_training_pictures_are_not_trained_on(tmp_path: Path) -> None:
    pairs(tmp_path, count=10)
    pairs(tmp_path, place="{kind}/Val", count=4)
    opened = open_at(tmp_path, task=SEGMENTATION)
    assert (len(opened.train), len(opened.validation)) == (10, 4)
    assert not any("trained on as well" in note for note in opened.notes)


def test_pictures_of_two_splits_are_told(tmp_path: Path) -> None:
    classes(tmp_path, ("train",))
    (tmp_path / "val" / "dog").mkdir(parents=True)
    (tmp_path / "val" / "cat").symlink_to(tmp_path / "train" / "cat")
    picture(tmp_path / "val" / "dog" / "new.png")
    found = open_at(tmp_path)
    assert any(note.startswith("10 of the 11 pictures of validation are trained on as well") for note in found.notes)


def test_calibration_says_what_splits_it_holds(tmp_path: Path) -> None:
    classes(tmp_path, ("train", "val"))
    said = f"pictures of val/ are among the inputs: give {tmp_path / 'train'} to leave them out"
    small = Reading(input_shape=(3, 8, 8))
    inputs = data.open_inputs(f"folder:{tmp_path}", reading=small)
    assert said not in data.open_inputs(f"folder:{tmp_path / 'train'}", reading=small).notes
    net = models.build("zoo:resnet8(width=8)", classes=2, input_shape=(3, 8, 8)).model
    found = slimkit.compress(net, torch.randn(1, 3, 8, 8), ratio=0.3, calibration=inputs, recover=False, epochs=0)
    assert said in found.report.arch.assumptions


@pytest.mark.parametrize(
    "places",
    [
        ("images", "masks"),
        ("train/images", "train/masks"),
        ("JPEGImages", "SegmentationClass"),
        ("img/a", "Mask/a"),
    ],
)
def test_masks_are_no_pictures_to_calibrate_on(tmp_path: Path, places: tuple[str, str]) -> None:
    for place in places:
        (tmp_path / place).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (number, 99, 0)).save(tmp_path / place / f"{number}.png")
    found = data.open_inputs(f"folder:{tmp_path}", reading=Reading(input_shape=(3, 8, 8)))
    assert len(found) == 3 and any("3 pictures in " in note and "masks, and left out" in note for note in found.notes)
    alone = data.open_inputs(f"folder:{tmp_path / places[1]}", reading=Reading(input_shape=(3, 8, 8)))
    assert len(alone) == 3 and not any("left out" in note for note in alone.notes)


@pytest.mark.parametrize("beside", ["test", "val", "Test"])
def test_of_splits_without_training_it_is_said_that_they_alone_are_there(tmp_path: Path, beside: str) -> None:
    classes(tmp_path, (beside,))
    with pytest.raises(DataError, match=f"0 sub-folders beside {beside}/, so no classes"):
        data.open(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("values", "classes_found", "left", "noted"),
    [((0, 255), 2, {0, 1}, True), ((0, 1, 255), 2, {0, 1, 255}, False), ((0, 1, 4), 5, {0, 1, 4}, False)],
)
def test_the_values_of_masks_are_classes(
    tmp_path: Path, values: tuple[int, ...], classes_found: int, left: set[int], noted: bool
) -> None:
    opened = open_at(pairs(tmp_path, values, count=20), 12, task=SEGMENTATION)
    assert opened.classes == classes_found
    seen = torch.cat([masks.flatten() for _, masks in opened.train.batches(8)])
    assert set(seen.unique().tolist()) == left
    assert any("two classes" in note for note in opened.notes) == noted


def test_what_lies_beyond_a_picture_is_of_no_class(tmp_path: Path) -> None:
    pairs(tmp_path, values=(1, 2))
    reading = Reading(input_shape=(3, 25, 31), resize=12)  # a picture of 16 x 12 in the middle
    found = data.open(f"folder:{tmp_path}", task=SEGMENTATION, reading=reading)
    masks = torch.cat([masks for _, masks in found.validation.batches(4)])
    inside = torch.zeros(25, 31, dtype=torch.bool)
    inside[6:18, 7:23] = True  # where center_crop puts the picture
    assert (masks[:, ~inside] == 255).all() and (masks[:, inside] < 3).all()


def test_masks_of_nothing_but_255_say_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its masks are 255 everywhere"):
        open_at(pairs(tmp_path, values=(255,)), task=SEGMENTATION)


def test_masks_of_0_and_255_are_two_classes_unless_the_network_has_more(tmp_path: Path) -> None:
    pairs(tmp_path, values=(0, 255))
    for known, classes, values in ((None, 2, {0, 1}), (2, 2, {0, 1}), (4, 4, {0, 255})):
        found = open_at(tmp_path, task=SEGMENTATION, own=Provenance(classes=known))
        assert found.classes == classes
        assert set(torch.cat([masks for _, masks in found.validation.batches(4)]).unique().tolist()) == values


BRIGHT = np.eye(12, 16, dtype=bool)


def masks(root: Path, *values: np.ndarray, suffix: str = ".png") -> Path:
    """Write ten pictures for each array of values, with it as their mask."""
    (root / "masks").mkdir(parents=True)
    for number in range(10 * len(values)):
        picture(root / "images" / f"{number}.png")
        Image.fromarray(values[number % len(values)]).save(root / "masks" / f"{number}{suffix}")
    return root


@pytest.mark.parametrize(
    ("values", "suffix", "why"),
    [
        (np.where(BRIGHT, -1, 1).astype(np.int32), ".tif", "holds -1: class numbers are 0 to 65535"),
        (np.where(BRIGHT, 70_000, 0).astype(np.int32), ".tif", "holds 70000: class numbers are 0 to 65535"),
        (np.where(BRIGHT, 255, 0).astype(np.uint8), ".jpg", "it is a JPEG, which changes values"),
    ],
)
def test_values_that_are_no_classes_are_refused(tmp_path: Path, values: np.ndarray, suffix: str, why: str) -> None:
    """They passed as labels, or as no class at all."""
    with pytest.raises(DataError, match=rf"20 of 20 files cannot be used(.|\n)*\{suffix}.*{why}"):
        open_at(masks(tmp_path, values, values, suffix=suffix), task=SEGMENTATION)


def packed(values: np.ndarray, bits: int) -> list[bytes]:
    """Return rows of numbers of some bits each, as files store them."""
    rows = ("".join(format(value, f"0{bits}b") for value in row) for row in values.tolist())
    return [int(row, 2).to_bytes(len(row) // 8) for row in rows]


def png(values: np.ndarray, bits: int, kind: int = 0) -> bytes:
    """Write a PNG of one channel, grey (kind 0) or with a palette (3)."""

    def chunk(name: bytes, held: bytes) -> bytes:
        return struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held))

    height, width = values.shape
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(range(3 * 2 ** min(bits, 4)))) if kind else b""
    rows = zlib.compress(b"".join(b"\0" + row for row in packed(values, bits)))
    return b"\x89PNG\r\n\x1a\n" + head + palette + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, bits: int, black: int) -> bytes:
    """Write a TIFF of one grey channel in which 0 is white (`black` 0) or black (1)."""
    height, width = values.shape
    held = values.astype("<u2").tobytes() if bits == 16 else b"".join(packed(values, bits))
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: black, 273: 8, 277: 1, 278: height, 279: len(held)}
    entries = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags.items()
    )
    return b"II*\0" + struct.pack("<I", 8 + len(held)) + held + struct.pack("<H", len(tags)) + entries + bytes(4)


def pgm(values: np.ndarray, top: int, plain: bool = False) -> bytes:
    """Write a PGM that says the largest number it may hold."""
    head = f"P{2 if plain else 5}\n{values.shape[1]} {values.shape[0]}\n{top}\n".encode()
    if plain:
        return head + b" ".join(b"%d" % value for value in values.flatten().tolist())
    return head + values.astype(">u2" if top > 255 else np.uint8).tobytes()


@pytest.mark.parametrize("classes", [2, 4, 11], ids="{} classes".format)
@pytest.mark.parametrize(
    ("write", "suffix", "most"),
    [
        *[pytest.param(lambda v, b=b: png(v, b), ".png", 2**b, id=f"PNG of {b} bits") for b in (1, 2, 4, 8, 16)],
        *[pytest.param(lambda v, b=b: png(v, b, 3), ".png", 2**b, id=f"palette of {b} bits") for b in (1, 2, 4)],
        *[
            pytest.param(
                lambda v, b=b, k=k: tiff(v, b, k), ".tif", 2**b, id=f"TIFF of {b} bits, {('white', 'black')[k]}"
            )
            for b in (2, 4, 8, 16)
            for k in (0, 1)
        ],
        *[pytest.param(lambda v, t=t: pgm(v, t), ".pgm", t + 1, id=f"PGM to {t}") for t in (3, 10, 255, 300, 65535)],
        *[pytest.param(lambda v, t=t: pgm(v, t, True), ".pgm", t + 1, id=f"plain PGM to {t}") for t in (3, 20, 300)],
    ],
)
def test_class_numbers_are_those_that_the_file_stores(
    tmp_path: Path, write: Callable[[np.ndarray], bytes], suffix: str, most: int, classes: int
) -> None:
    """Numbers of 2 and of 4 bits were stretched to 0 ... 255, as a picture is shown: 4 classes were 256."""
    classes = min(classes, most)
    values = (np.add.outer(np.arange(12), np.arange(16)) * 7 % classes).astype(np.uint16)
    root = masks(tmp_path, values.astype(np.uint8))
    for path in list((root / "masks").iterdir()):
        path.unlink()
        path.with_suffix(suffix).write_bytes(write(values))
    found = open_at(root, 12, task=SEGMENTATION)
    assert found.classes == classes
    given = torch.cat([labels for _, labels in found.validation.batches(4)])
    assert sorted(given.unique().tolist()) == list(range(classes))
    # squashed to 12x12, columns are drawn and rows are not
    assert torch.equal(given[0, :, 0], torch.from_numpy(values[:, 0].astype(np.int64)))


def test_classes_of_16_bits_are_classes(tmp_path: Path) -> None:
    found = open_at(masks(tmp_path, np.where(BRIGHT, 300, 0).astype(np.uint16)), 12, task=SEGMENTATION)
    assert found.classes == 301
    assert any("of the class numbers 0 to 300 masks hold 2: 0, 300" in note for note in found.notes)


@pytest.mark.parametrize(
    ("foreground", "known", "said"),
    [
        ((1, 255), None, "10 of 20 masks hold 255 and no class but 0: there it is read as no class"),
        ((255, 255), 4, "20 of 20 masks hold 255 and no class but 0"),
        ((255, 255), None, "masks hold 0 and 255 alone: read as two classes"),
        ((1, 128), None, "of the class numbers 0 to 128 masks hold 3: 0, 1, 128"),
        ((1, 2), None, ""),
    ],
)
def test_what_masks_may_not_have_meant_is_said(
    tmp_path: Path, foreground: tuple[int, ...], known: int | None, said: str
) -> None:
    """Masks of 0 and 1 beside masks of 0 and 255: half of the foreground was left out in silence."""
    written = masks(tmp_path, *(np.where(BRIGHT, value, 0).astype(np.uint8) for value in foreground))
    found = open_at(written, task=SEGMENTATION, own=Provenance(classes=known))
    notes = [note for note in found.notes if "masks" in note]
    assert notes == [] if not said else len(notes) == 1 and said in notes[0]


def _colours(folder: Path, names: dict[str, int], mode: str) -> None:
    folder.mkdir()
    for name, value in names.items():
        Image.new(mode, (8, 8), value if mode == "L" else (value, 0, 0)).save(folder / f"{name}.png")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"man": 1, "man_mask": 2}, ""),
        ({"man_mask": 2}, "man.png: it has no mask"),
        ({"man_mask": 2, "man_mask_mask": 1}, "man_mask.png: .*man_mask.png and .*man_mask_mask.png are both named"),
        ({"man": 1, "man_mask": 2, "man_mask_mask": 0}, "are both named as its mask"),
    ],
)
def test_a_mask_is_of_the_picture_of_its_own_name(tmp_path: Path, named: dict[str, int], said: str) -> None:
    _colours(tmp_path / "images", {"man": 1, "man_mask": 2, **{f"other{n}": 0 for n in range(10)}}, "RGB")
    _colours(tmp_path / "masks", {**named, **{f"other{n}_mask": 0 for n in range(10)}}, "L")
    if said:
        with pytest.raises(DataError, match=said):
            data.open(f"folder:{tmp_path}", task=SEGMENTATION)
        return
    opened = data.open(f"folder:{tmp_path}", task=SEGMENTATION, reading=data.Reading(mean=(0.0,) * 3, std=(1.0,) * 3))
    for split in (opened.train, opened.validation, opened.test):
        for images, targets in split.batches(1):
            assert (targets == (255 * images[:, 0]).round().long()).all()


def test_two_pictures_of_one_name_do_not_share_a_mask(tmp_path: Path) -> None:
    pairs(tmp_path)
    picture(tmp_path / "images" / "3.png")
    with pytest.raises(DataError, match="3.jpg and .*3.png: .*masks.3.png is the mask of both"):
        data.open(f"folder:{tmp_path}", task=SEGMENTATION)


def test_a_mask_follows_its_picture(tmp_path: Path) -> None:
    """Pictures are painted by their masks: after any crop and mirror, colour and class still agree."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(20):
        mask = np.kron(RANDOM.integers(0, 3, (3, 4)), np.ones((30, 30))).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}_mask.png")
        Image.fromarray(np.repeat((mask * 100)[..., None], 3, 2)).save(tmp_path / "images" / f"{number}.png")
    reading = Reading(input_shape=(3, 48, 48), mean=(0.0,) * 3, std=(1.0,) * 3)
    opened = data.open(f"folder:{tmp_path}", task=SEGMENTATION, reading=reading)
    for augment in (False, True):
        for images, masks in opened.train.batches(7, seed=1, augment=augment):
            agree = (images[:, 0] * 255 / 100).round() == masks
            assert agree.float().mean() > 0.85  # all but the borders of the squares, which are blurred


def break_size(root: Path) -> None:
    picture(root / "masks" / "3.png", (5, 5), "L")


def break_colour(root: Path) -> None:
    picture(root / "masks" / "3.png")


def break_file(root: Path) -> None:
    (root / "masks" / "3.png").write_bytes(b"x")


def break_missing(root: Path) -> None:
    (root / "masks" / "3.png").unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (break_size, r"3\.jpg: it is 16x12, its mask \S+3\.png 5x5"),
        (break_colour, r"3\.jpg: its mask \S+: it is a picture of mode RGB"),
        (break_file, r"3\.jpg: its mask \S+ cannot identify"),
        (break_missing, r"3\.jpg: it has no mask"),
    ],
)
def test_a_mask_that_does_not_fit_is_listed(tmp_path: Path, spoil: Callable[[Path], None], why: str) -> None:
    spoil(pairs(tmp_path))
    with pytest.raises(DataError, match=why):
        open_at(tmp_path, task=SEGMENTATION)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda root: root.rmdir(), "is not a folder"),
        (lambda root: None, "no folder of images for train"),
        (lambda root: picture(root / "images" / "1.png"), "no folder of masks for train"),
        (lambda root: [(root / "images").mkdir(), (root / "masks").mkdir()], "no pictures in"),
        (lambda root: pairs(root, (0,)), "masks hold 1 class"),
    ],
)
def test_a_folder_without_masks_says_what_is_wanted(tmp_path: Path, make: Callable[[Path], Any], why: str) -> None:
    root = tmp_path / "x"
    root.mkdir()
    make(root)
    with pytest.raises(DataError, match=rf"(?s){why}.*Give a folder with images/ and masks/"):
        open_at(root, task=SEGMENTATION)


@pytest.mark.parametrize(
    ("name", "reading", "why"),
    [
        ("digits", Reading(resize=32), "resize is set"),
        ("digits", Reading(allow_bad=0.1), "allow_bad is set"),
        ("digits", Reading(input_shape=(1, 16, 16)), "input_shape is 1,16,16, but the images of 'digits' are 1,8,8"),
    ],
)
def test_what_only_folders_heed_is_refused_elsewhere(name: str, reading: Reading, why: str) -> None:
    with pytest.raises(SlimkitError, match=why):
        data.open(name, reading=reading)
    assert data.open("digits", reading=Reading(input_shape=(1, 8, 8))).input_shape == (1, 8, 8)
    with pytest.raises(DataError, match="its targets are classes, and task is 'segmentation'"):
        data.open("digits", task=SEGMENTATION)


def test_a_picture_that_went_away_is_named(tmp_path: Path) -> None:
    seen = View(shape=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(DataError, match=r"none\.png cannot be read as a picture"):
        seen.open(tmp_path / "none.png")
