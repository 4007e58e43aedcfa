"""Classes of a network and of its data are told by their names: labels, figures and files follow them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import slimkit
from slimkit import data, models, provenance
from slimkit.cli import main
from slimkit.data import LoaderSplit, TensorSplit
from slimkit.data.class_names import in_order_of, renumbered
from slimkit.errors import DataError
from slimkit.methods import ScratchConfig
from slimkit.tasks import DETECTION, SEGMENTATION
from slimkit.tasks.task import stacked

ARCH = ("--arch", f"{__file__}:Colours")
NAMES = ("cat", "dog", "fox")


class Colours(nn.Sequential):
    """Tells which of three channels of a picture is the brightest; of its eight hidden channels it needs three."""

    def __init__(self) -> None:
        norm = nn.BatchNorm2d(8)
        super().__init__(nn.Conv2d(3, 8, 1), norm, nn.ReLU(), nn.Conv2d(8, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for layer in (self[0], self[3]):
            nn.init.eye_(layer.weight.data[:, :, 0, 0])
            nn.init.zeros_(layer.bias)
        norm.weight.data[3:] = 0


def painted(root: Path, names: Sequence[str], count: int = 10) -> Path:
    """Write a folder of pictures: those of the i-th class are bright in channel i."""
    random = np.random.default_rng(0)
    for channel, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture = random.integers(0, 120, (8, 8, 3))
            picture[..., channel] += 100
            Image.fromarray(picture.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """The slim file of a network that knows its classes."""
    model = Colours()
    use = provenance.Use(task="classification", class_names=NAMES)
    scale = {"mean": [0.5] * 3, "std": [1.0] * 3}
    known = provenance.Provenance(arch=f"{__file__}:Colours", input_shape=(3, 8, 8), classes=3, normalisation=scale)
    provenance.attach(model, replace(known, use=use))
    models.save(model, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def said(words: Sequence[Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    return status, *capsys.readouterr()


def accuracy(path: Path, folder: Path, network: Path, capsys: pytest.CaptureFixture[str]) -> tuple[float, str]:
    """Return the share of test pictures that is right, and what was assumed."""
    status, out, err = said(
        ["evaluate", path, "--data", f"folder:{folder}", "--json", *(ARCH if path == network else ())], capsys
    )
    assert status == 0, err
    found = json.loads(out)
    return found["accuracy"]["test"], " ".join(found["assumptions"])


@pytest.mark.parametrize("names", [("cat", "Dog", "fox"), ("CAT", "dog_", "Fox"), NAMES])
def test_labels_follow_the_names_of_classes(
    names: tuple[str, ...], network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = painted(tmp_path / "data", names)
    right, noted = accuracy(network, folder, network, capsys)
    assert right == 1 and ("by their names" in noted) == (names != NAMES) == (f"{names[1]} for dog" in noted)


@pytest.mark.long
def test_what_is_written_has_the_networks_names(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = painted(tmp_path / "data", ("cat", "Dog", "fox")), tmp_path / "out"
    words = ["compress", network, *ARCH, "--data", f"folder:{folder}", "--ratio", "0.5", "--round-to", "1"]
    assert said([*words, "--out", out], capsys)[0] == 0
    report = json.loads((out / "report.json").read_text())
    assert report["before"]["accuracy"]["test"] == report["after"]["accuracy"]["test"] == 1
    told = {entry.key: entry.value for entry in onnx.load(out / "model.onnx").metadata_props}
    assert json.loads(told["usage"])["class_names"] == list(NAMES)
    assert provenance.of(slimkit.load(out / "model.safetensors", arch=ARCH[1])).use.class_names == NAMES
    right, noted = accuracy(out / "model.onnx", folder, network, capsys)
    assert right == 1 and "Dog for dog" in noted


@pytest.mark.parametrize(
    "names",
    [("n01440764", "n01443537", "n01484850"), ("0", "1", "2"), ("chat", "chien", "renard")],
    ids=["identifiers", "numbers", "a translation"],
)
def test_names_that_tell_nothing_leave_the_order_and_it_is_said(
    names: tuple[str, ...], network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, noted = accuracy(network, painted(tmp_path / "data", names), network, capsys)
    assert right == 1 and f"by their order ({names[0]} for cat, {names[1]} for dog" in noted


@pytest.mark.parametrize("command", ["evaluate", "compress"])
def test_other_classes_among_the_same_ones_are_refused(
    command: str, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = painted(tmp_path / "data", ("ant", "cat", "dog"))
    more = ["--ratio", "0.5", "--out", tmp_path / "out"] if command == "compress" else []
    status, _, err = said([command, network, *ARCH, "--data", f"folder:{folder}", *more], capsys)
    assert status == 2 and "ant, cat, dog" in err and "cat, dog, fox" in err and "'cat' has another number" in err
    assert not (tmp_path / "out").exists()


def test_other_classes_that_keep_their_numbers_are_told(tmp_path: Path) -> None:
    found = in_order_of(rows(("cat", "dog", "wolf")), NAMES)
    assert found.class_names == NAMES and "wolf for fox" in found.notes[-1]


def rows(names: Sequence[str], labels: Tensor | None = None, **how: Any) -> data.Dataset:
    """Return a data set of one input a class, whose value is its label."""
    labels = torch.arange(len(names)) if labels is None else labels
    split = TensorSplit(images=torch.arange(len(labels)).float().view(-1, 1), labels=labels)
    parts: dict[str, Any] = {"train": split, "validation": split, "test": split, **how}
    return data.Dataset(name="rows", classes=len(names), class_names=tuple(names), input_shape=(1,), **parts)


def numbers(own: Sequence[str], known: Sequence[str]) -> list[int]:
    """Return which of the network's numbers each class of a data set gets."""
    return next(iter(in_order_of(rows(own), known).test.batches(len(own))))[1].tolist()


COUNTED = tuple(map(str, range(12)))
WORDS = [f"class {letter}" for letter in "abcdefghijkl"]
SORTED = [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
PAIRS = {
    "numbers that are sorted as words": (sorted(COUNTED), COUNTED, SORTED),
    "numbers with noughts before them": ([f"{n:02}" for n in range(12)], sorted(COUNTED), [0, 1, *range(4, 12), 2, 3]),
    "numbers for words": (sorted(COUNTED), WORDS, SORTED),
    "capitals alone are classes": (("A", "B", "a"), ("a", "A", "B"), [1, 2, 0]),
    "letters of a Mac": (("Ba\u0308r", "Aal"), ("Aal", "B\u00e4r"), [1, 0]),
    "numbers of no class": (("__background__", "b", "N/A", "a"), ("__background__", "a", "b", "N/A"), [0, 2, 3, 1]),
    "nothing is known": (("b", "a"), (), [0, 1]),
    "fewer classes": (("b", "a"), ("a", "b", "c"), [0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_each_class_gets_the_networks_number(pair: str) -> None:
    own, known, wanted = PAIRS[pair]
    assert numbers(own, known) == wanted


def test_numbers_that_contradict_are_refused() -> None:
    with pytest.raises(DataError, match="'1' has another number"):
        in_order_of(rows(("0", "1", "2")), ("1", "2", "3"))


def of_all(dataset: data.Dataset) -> list[Any]:
    return [next(iter(split.batches(3)))[1] for split in (dataset.train, dataset.validation, dataset.test)]


class Others:
    """A split of somebody's own."""

    def __init__(self, split: TensorSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int, **how: Any) -> Any:
        return self.split.batches(batch_size, **how)

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "Others":
        return self


def test_targets_of_every_kind_of_split_follow() -> None:
    plain = rows(("b", "c", "a"))
    read = LoaderSplit(fetch=lambda index, seed: (torch.zeros(1), index), count=3, collate=stacked, workers=0)
    for split in (plain.train, read, Others(plain.train)):
        given = replace(plain, train=split, validation=split, test=split)
        assert [found.tolist() for found in of_all(in_order_of(given, ("a", "b", "c")))] == [[1, 2, 0]] * 3


def test_masks_and_boxes_follow() -> None:
    masks = torch.tensor([[0, 1], [2, 255]]).repeat(3, 1, 1)
    found = of_all(renumbered(replace(rows(NAMES, masks), task=SEGMENTATION), [1, 2, 0]))
    assert found[0][0].tolist() == [[1, 2], [0, 255]]
    target = {"boxes": torch.zeros(2, 4), "labels": torch.tensor([2, 1])}
    boxed = LoaderSplit(
        fetch=lambda index, seed: (torch.zeros(1), target), count=3, collate=DETECTION.collate, workers=0
    )
    given = rows(("__background__", "b", "a"), train=boxed, validation=boxed, test=boxed)
    for targets in of_all(in_order_of(replace(given, task=DETECTION), ("__background__", "a", "b"))):
        assert [one["labels"].tolist() for one in targets] == [[1, 2]] * 3


def test_a_call_in_python_is_told_too(network: Path) -> None:
    model = slimkit.load(network, arch=ARCH[1])
    images, labels = torch.rand(60, 3, 8, 8), torch.arange(60) % 3
    images[torch.arange(60), labels] += 1
    split = TensorSplit(images=images, labels=(labels + 1) % 3)  # fox, cat, dog
    given = data.Dataset(
        name="mine", classes=3, class_names=("fox", "cat", "dog"), input_shape=(3, 8, 8),
        train=split, validation=split, test=split,
    )  # fmt: skip
    result = slimkit.compress(model, torch.zeros(1, 3, 8, 8), 0.5, dataset=given, round_to=1)
    assert result.report.before.accuracy.test == 1
    assert any("by their names (cat, dog, fox)" in note for note in result.report.arch.assumptions)
    others = replace(given, class_names=("renard", "chat", "chien"))
    result = slimkit.compress(model, torch.zeros(1, 3, 8, 8), 0.5, dataset=others, round_to=1)
    assert result.report.usage.class_names == NAMES
    with pytest.raises(DataError, match="another number"):
        slimkit.compress(model, torch.zeros(1, 3, 8, 8), 0.5, dataset=replace(given, class_names=("dog", "cow", "cat")))


@pytest.mark.parametrize(
    ("names", "left"), [(("fox", "cat", "dog"), NAMES), (("ant", "bee", "cat"), ("ant", "bee", "cat"))]
)
def test_a_network_that_is_trained_learns_the_classes_of_its_data(
    names: tuple[str, ...], left: tuple[str, ...], network: Path
) -> None:
    model = slimkit.load(network, arch=ARCH[1])
    labels = torch.arange(60) % 3
    split = TensorSplit(images=torch.rand(60, 3, 8, 8), labels=labels)
    given = data.Dataset(
        name="mine", classes=3, class_names=names, input_shape=(3, 8, 8), train=split, validation=split, test=split
    )
    result = slimkit.train(model, given, method=ScratchConfig(control="dense"), epochs=1, device="cpu")
    assert result.report.usage.class_names == left
