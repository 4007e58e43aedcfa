"""What an ONNX file gives is judged in the shape in which the network returned it."""

from collections import namedtuple
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit.measure import quality
from slimkit.tasks import CLASSIFICATION

Pair = namedtuple("Pair", "features logits")


@dataclass
class Both:
    features: list
    logits: Tensor
    extra: None = None


class Net(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.conv, self.wrap, self.head = nn.Conv2d(1, 8, 3), wrap, nn.Linear(8, 3)

    def forward(self, x):
        y = self.head(self.conv(x).relu().mean((2, 3)))
        return self.wrap(-y, y)


SHAPES = {
    "dict": (lambda f, y: {"features": f, "logits": y}, lambda r: (r["logits"],)),
    "dict of one": (lambda f, y: {"logits": y}, lambda r: (r["logits"],)),
    "dict of dicts": (lambda f, y: {"a": {"f": f}, "b": {"y": y}}, lambda r: (r["b"]["y"],)),
    "tuple of a dict": (lambda f, y: (f, {"logits": y}), lambda r: (r[1]["logits"],)),
    "dataclass": (lambda f, y: Both([f], y), lambda r: (r.logits,)),
    "named tuple": (Pair, lambda r: (r.logits,)),
    "tensor": (lambda f, y: y, lambda r: (r + 0,)),
    "as slimkit reads dicts": (lambda f, y: {"features": f, "logits": y}, CLASSIFICATION.outputs),
}


def data():
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 1, 6, 6, generator=random), torch.arange(60) % 3
    return (x + y.view(-1, 1, 1, 1), y), (x[:30] + y[:30].view(-1, 1, 1, 1), y[:30])


@pytest.mark.parametrize("name", SHAPES)
def test_an_onnx_file_gives_the_shape_that_the_network_returns(name, tmp_path):
    wrap, outputs = SHAPES[name]
    torch.manual_seed(0)
    net, path = Net(wrap).eval(), tmp_path / "net.onnx"
    task = replace(CLASSIFICATION, outputs=outputs)
    split = slimkit.data.as_dataset(data(), task=task).validation
    slimkit.export_onnx(net, path, torch.zeros(1, 1, 6, 6))

    assert quality.evaluate(path, split, task) == quality.evaluate(net, split, task)


def test_int8_is_judged_by_a_task_of_ones_own_on_a_network_that_returns_a_dict():
    wrap, outputs = SHAPES["dict"]
    task = replace(CLASSIFICATION, outputs=outputs)

    given = slimkit.data.as_dataset(data(), task=task)
    report = slimkit.compress(Net(wrap).eval(), torch.zeros(1, 1, 6, 6), 0.5, dataset=given, epochs=0, int8=True).report

    assert report.int8.accuracy.validation_images == 30
