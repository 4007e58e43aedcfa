"""Targets in memory go with images and network in every split, or the first that does not is named."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import slimkit
from slimkit import data
from slimkit.data import Dataset, TensorSplit
from slimkit.errors import DataError, SlimkitError
from slimkit.runs.plan import plan
from slimkit.runs.train import train_network
from slimkit.settings.output import OutputOptions
from slimkit.tasks import CLASSIFICATION, SEGMENTATION, Task
from slimkit.zoo import resnet8

COUNT, PLACE = 300, 261  # beyond the part that is looked at first


def split(task: Task, change: Callable[[Tensor], Tensor | None] = lambda labels: None) -> TensorSplit:
    """Images with random class numbers, 0 to 2, some pixels of no class; `change` writes to them or gives others."""
    images = torch.randn(COUNT, 1, 6, 6)
    labels = torch.randint(0, 3, (COUNT, 6, 6) if task is SEGMENTATION else (COUNT,))
    if task is SEGMENTATION:
        labels[::7, 0] = 255
    changed = change(labels)
    return TensorSplit(images=images, labels=labels if changed is None else changed)


def network(task: Task) -> nn.Module:
    body = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    if task is SEGMENTATION:
        return nn.Sequential(*body, nn.Conv2d(8, 3, 1))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def put(number: int) -> Callable[[Tensor], None]:
    def change(labels: Tensor) -> None:
        labels[PLACE].view(-1)[-1:] = number

    return change


WRONG: list[tuple[Task, Callable[[Tensor], Tensor | None], str]] = [
    (SEGMENTATION, put(3), f"target {PLACE}: class numbers reach from 0 to 3, the network has 0 to 2"),
    (SEGMENTATION, put(-1), f"target {PLACE}: class number -1 is below 0, and no class: give 255 to what is of none"),
    (SEGMENTATION, lambda masks: masks[:, :3], "images are 6x6, their masks 6x3"),
    (SEGMENTATION, lambda masks: masks.float(), "a target must be one class number per pixel"),
    (CLASSIFICATION, put(3), f"target {PLACE}: class numbers reach from 3 to 3, the network has classes 0 to 2"),
    (CLASSIFICATION, put(-2), f"target {PLACE}: class number -2 is below 0, and no class"),
    (CLASSIFICATION, lambda labels: labels.float(), "a target must be one class number per image"),
]


@pytest.mark.parametrize(("task", "change", "said"), WRONG)
@pytest.mark.parametrize("where", ["train", "test"])
def test_the_first_target_that_does_not_go_with_a_network_is_named_with_its_split(
    task: Task, change: Callable[[Tensor], Tensor | None], said: str, where: str
) -> None:
    splits: dict[str, Any] = {name: split(task) for name in ("train", "validation", "test")} | {
        where: split(task, change)
    }
    given = Dataset(name="pixels", task=task, input_shape=(1, 6, 6), **splits)
    with pytest.raises(DataError, match=rf"data 'pixels': {where}: {re.escape(said)}(?s:.*)\n  \S"):
        if where == "train":
            slimkit.train(network(task), given, 0.5, epochs=1, progress=_late)
        else:
            slimkit.compress(network(task), torch.randn(1, 1, 6, 6), 0.5, dataset=given, epochs=1, progress=_late)


@pytest.mark.parametrize("task", [SEGMENTATION, CLASSIFICATION])
def test_targets_that_go_with_a_network_are_trained_on(task: Task) -> None:
    splits: dict[str, Any] = {name: split(task) for name in ("train", "validation", "test")}
    given = Dataset(name="pixels", task=task, input_shape=(1, 6, 6), **splits)
    found = slimkit.train(network(task), given, 0.5, epochs=1, round_to=1)
    assert found.report.after.accuracy is not None


class Named(TensorDataset):
    """Names its classes, as the data sets of torchvision do."""

    classes = ("cat", "dog", "fox", "owl")


PARTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tensors": lambda *both: both,
    "items": TensorDataset,
    "loader": lambda *both: DataLoader(TensorDataset(*both), batch_size=16),
    "named": Named,
}


@pytest.mark.parametrize(
    ("part", "highest", "said"),
    [
        ("tensors", 3, None),
        ("items", 3, None),
        ("loader", 3, None),
        ("tensors", 4, None),
        ("tensors", 5, "dataset': train: target 5: class numbers reach from 5 to 5, the network has classes 0 to 4"),
        ("items", 5, "dataset': its labels reach to 5, and the network has no more than 5 classes"),
        ("named", 3, "the data has 4 classes, the network 5"),
    ],
)
def test_labels_may_lack_the_highest_classes_where_nothing_else_says_how_many_there_are(
    part: str, highest: int, said: str | None
) -> None:
    labels = torch.arange(60) % (highest + 1)
    train, rest = (PARTS[part](torch.rand(60, 1, 8, 8), each) for each in (labels, labels % 3))
    model = resnet8(num_classes=5, width=4)
    with pytest.raises(DataError, match=said) if said else nullcontext():
        data.check_fits(data.as_dataset((train, rest)), model)


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "classes", "said"),
    [
        ("width=4", 3, None),
        ("width=4, num_classes=5", 5, None),
        ("width=4, num_classes=2", None, "labels reach to 2, and the network has no more than 2 classes"),
        ("width=4, in_channels=3", None, "in_channels=3 is asked for, and the images have 1 channel"),
    ],
)
def test_an_architecture_has_the_classes_that_it_states_or_is_refused(
    arguments: str, classes: int | None, said: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "def make():\n    part = TensorDataset(torch.rand(60, 1, 8, 8), torch.arange(60) % 3)\n    return part, part\n"
    )
    asked = plan({"arch": f"zoo:resnet8({arguments})", "data": f"{file}:make", "ratio": 0.3, "epochs": 1})
    with pytest.raises(SlimkitError, match=said) if said else nullcontext():
        report = train_network(asked, OutputOptions(out=tmp_path / "out")).report
        assert report and (report.arch.classes, report.arch.arguments["num_classes"]) == (classes, classes)


def test_an_architecture_that_states_other_classes_than_named_data_has_is_refused(tmp_path: Path) -> None:
    for number in (7, 20):
        asked = plan({"arch": f"zoo:resnet8(num_classes={number})", "data": "digits", "ratio": 0.3, "epochs": 1})
        with pytest.raises(DataError, match=f"the data has 10 classes, the network {number}"):
            train_network(asked, OutputOptions(out=tmp_path / "out"))


def _late(what: str, share: float | None) -> None:
    raise AssertionError(f"it was {what} already")


FITTING = """
import torch
from torch import nn

def signal(num_classes=3):
    return nn.Sequential(nn.Conv1d(1, 12, 5), nn.BatchNorm1d(12), nn.ReLU(), nn.Conv1d(12, 8, 5), nn.ReLU(),
                         nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, num_classes))

def flat(num_classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, num_classes))

def part(): return torch.randn(48, {channels}, {size}), torch.arange(48) % 3
def data(seed): return part(), part()
"""


@pytest.mark.parametrize(
    ("net", "channels", "size", "said"),
    [
        ("signal", 1, "64", None),
        ("signal", 2, "64", None),  # its first layer is made for two channels
        ("flat", 1, "64", None),
        ("flat", 1, "8, 8", None),
        ("flat", 1, "9, 9", "does not run on its inputs"),
    ],
)
def test_a_factory_without_a_word_for_channels_makes_what_fits_the_data(
    net: str, channels: int, size: str, said: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "fitting.py"
    file.write_text(FITTING.format(channels=channels, size=size))
    asked = plan({"arch": f"{file}:{net}", "data": f"{file}:data", "ratio": 0.3, "epochs": 1, "round_to": 1})
    with pytest.raises(DataError, match=said) if said else nullcontext():
        report = train_network(asked, OutputOptions(out=tmp_path / "out")).report
        assert report and report.channels.removed
