"""Inputs and targets that are not finite are named with their split, where anything is ruined by them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import slimkit
from slimkit import data
from slimkit.errors import DataError
from slimkit.tasks import Task

PLACE = 37


class Careful(nn.Module):
    """Takes what is not finite for 0."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.net(images.nan_to_num(posinf=0, neginf=0))
        return found


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def task(known: bool = False) -> Task:
    """Values; `known`: where a target is NaN it counts nothing."""

    def errors(outputs: Tensor, targets: Tensor) -> Tensor:
        off = (outputs - targets).square()
        return off.nan_to_num(0.0) if known else off

    return Task.of(
        loss=lambda o, t: errors(o, t).mean(), metrics={"error": lambda o, t: errors(o, t).mean(1)}, better="lower"
    )


def parts(where: str, what: str, number: float) -> dict[str, tuple[Tensor, Tensor]]:
    given = {}
    for name in ("train", "validation", "test"):
        images, targets = torch.randn(64, 1, 8, 8), torch.randn(64, 3)
        if name == where:
            (images if what == "input" else targets).view(64, -1)[PLACE, -1] = number
        given[name] = (images, targets)
    return given


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["input", "target"])
@pytest.mark.parametrize("where", ["train", "validation", "test"])
def test_the_first_that_is_not_finite_is_named_with_its_split(where: str, what: str, number: float) -> None:
    """The network was blamed, or inputs were said to be too few."""
    dataset = data.as_dataset(parts(where, what, number), task=task())
    holds = "NaN" if math.isnan(number) else "infinite numbers"
    with pytest.raises(
        DataError, match=rf"data 'dataset': {where}: {what} {PLACE} holds {holds}, so .*\n  Mend it, or"
    ):
        slimkit.compress(network(), torch.randn(1, 1, 8, 8), 0.3, dataset=dataset, epochs=0)


@pytest.mark.parametrize("what", ["input", "target"])
@pytest.mark.parametrize("loader", [True, False])
def test_what_is_read_batch_by_batch_is_named_when_it_is_judged(what: str, loader: bool) -> None:
    given: dict[str, Any] = {name: TensorDataset(*part) for name, part in parts("test", what, math.nan).items()}
    if loader:
        given = {name: DataLoader(part, batch_size=16) for name, part in given.items()}
    dataset = data.as_dataset(given, task=task())
    with pytest.raises(DataError, match=rf"dataset: test: {what} {PLACE} holds NaN; .*\n  Mend it, or leave it out"):
        slimkit.compress(network(), torch.randn(1, 1, 8, 8), 0.3, dataset=dataset, epochs=0)


def test_unlabelled_inputs_are_named_too() -> None:
    images = parts("train", "input", math.nan)["train"][0]
    with pytest.raises(DataError, match=f"calibration: input {PLACE} holds NaN, so that the network's outputs"):
        slimkit.compress(network(), images[:1], 0.3, calibration=images)


def test_what_network_and_task_make_nothing_of_is_no_reason_to_refuse() -> None:
    settings: dict[str, Any] = {"epochs": 0, "recover": False, "onnx": False}
    for what, net, known in (("input", Careful(network()), False), ("target", network(), True)):
        dataset = data.as_dataset(parts("validation", what, math.nan), task=task(known))
        assert slimkit.compress(net, torch.randn(1, 1, 8, 8), 0.3, dataset=dataset, **settings).report.after.accuracy
