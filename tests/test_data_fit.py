"""Targets in memory go with images and network in every split, or the first that does not is named."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit.data import Dataset, TensorSplit
from slimkit.errors import DataError
from slimkit.tasks import CLASSIFICATION, SEGMENTATION, Task

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


def _late(what: str, share: float | None) -> None:
    raise AssertionError(f"it was {what} already")
