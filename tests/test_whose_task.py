"""Whose task it is: that of the settings, else that of the data, and the network's only where the data brings none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import slimkit
from slimkit import data, provenance
from slimkit.errors import SpecError
from slimkit.models import as_network
from slimkit.progress import quiet
from slimkit.provenance import Provenance, Use
from slimkit.runs import opening
from slimkit.runs.evaluate import evaluate_model
from slimkit.settings import CompressSpec, EvaluateSpec
from slimkit.tasks import DETECTION, Metric, Task

IMAGES, MASKS = torch.randn(32, 3, 16, 16), torch.randint(0, 3, (32, 16, 16))
BOTH = (IMAGES, MASKS), (IMAGES, MASKS)


def _right(outputs: Any, targets: Any) -> torch.Tensor:
    return (outputs.argmax(1) == targets).float().flatten(1).mean(1)


MINE = Task.of(loss=nn.functional.cross_entropy, metrics={"my Dice": _right}, better="higher", name="mine")
FUNCTION = """
import torch
from slimkit import data
from slimkit.tasks import Task
def make():
    both = torch.randn(32, 3, 16, 16), torch.randint(0, 3, (32, 16, 16))
    right = lambda a, b: (a.argmax(1) == b).float().flatten(1).mean(1)
    mine = Task.of(loss=torch.nn.functional.cross_entropy, metrics={"my Dice": right}, better="higher", name="mine")
    return data.as_dataset((both, both), task=mine)
def bare():
    both = torch.randn(32, 3, 16, 16), torch.randint(0, 3, (32, 16, 16))
    return both, both
"""


def _segmenter() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1)).eval()
    provenance.attach(net, Provenance(input_shape=(3, 16, 16), use=Use(task="segmentation")))
    return net


@pytest.mark.parametrize(
    ("given", "task", "metric"),
    [
        (data.as_dataset(BOTH, task=MINE), None, "my Dice"),
        (data.as_dataset(BOTH, task=MINE), "segmentation", "mean IoU"),
        (BOTH, None, "mean IoU"),
    ],
    ids=["the data's", "named", "the network's"],
)
def test_the_task_of_a_data_set_is_used_unless_another_is_named(given: Any, task: str | None, metric: str) -> None:
    """The network's file had its way: a data set of its own loss was trained and judged as segmentation."""
    found = slimkit.compress(
        _segmenter(), IMAGES[:1], 0.5, dataset=given, task=task, epochs=0, onnx=False, recover=False
    ).report.before.accuracy
    assert found is not None and found.metric == metric


@pytest.mark.parametrize(
    ("function", "task", "metric"),
    [("make", None, "my Dice"), ("make", "segmentation", "mean IoU"), ("bare", None, "mean IoU")],
)
def test_so_is_that_of_a_function_in_the_commands(function: str, task: str | None, metric: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FUNCTION)
    net = as_network(_segmenter()).model
    slimkit.save(net, tmp_path / "net.pt2")
    named = f"{tmp_path}/mine.py:{function}"
    found = evaluate_model(tmp_path / "net.pt2", EvaluateSpec(data=named, task=task)).accuracy
    assert found.metric == metric
    opened = opening.open_data(CompressSpec(data=named, task=task), as_network(net), quiet)
    assert opened is not None and next(iter(opened.task.metrics)) == metric


def test_a_detector_is_judged_by_the_task_of_its_data() -> None:
    """A detector's own task is always known, and took the place of one that was made of it."""
    net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    target = {"boxes": torch.tensor([[10.0, 10, 60, 90]]), "labels": torch.tensor([1])}
    part = [([torch.rand(3, 100, 140) for _ in range(4)], [target] * 4)]
    mine = replace(DETECTION, name="mine", metrics={"boxes found": Metric(lambda a, b: torch.ones(len(a)))})
    spec = CompressSpec()
    opened = opening.given_data(data.as_dataset((part, part), task=mine), spec, as_network(net), quiet)
    assert opened is not None and (opened.task.name, list(opened.task.metrics)) == ("mine", ["boxes found"])
    bare = opening.given_data((part, part), spec, as_network(net), quiet)
    assert bare is not None and bare.task.name == "detection"
    with pytest.raises(SpecError, match=r"'mine': Sequential is no detector.*\n  Name `task`, or give the data with"):
        opening.given_data(data.as_dataset((part, part), task=mine), spec, as_network(_segmenter()), quiet)
