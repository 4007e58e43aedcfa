"""Calls in whatever gradient mode, and tensors that carry gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import slimkit


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 3),
    ).eval()


def inputs(count=64):
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def carrying(x):
    return x * nn.Parameter(torch.ones(1))


def in_inference(x):
    with torch.inference_mode():
        return x * 1


@pytest.mark.long
@pytest.mark.parametrize("change", [carrying, in_inference, lambda x: x.clone().requires_grad_()])
@pytest.mark.parametrize("kind", ["tensor", "loader", "data set", "labelled"])
def test_inputs_that_carry_gradients_are_taken_without(kind, change):
    x, y = change(inputs()), torch.arange(64) % 3
    given = {
        "tensor": {"calibration": x},
        "loader": {"calibration": [x[:32], x[32:]]},
        "data set": {"dataset": (torch.utils.data.TensorDataset(x, y),) * 2},
        "labelled": {"dataset": ((x, y), (x, y))},
    }[kind]

    assert slimkit.compress(net(), x[:1], 0.5, **given, epochs=1, onnx=False).report.channels.removed


@pytest.mark.long
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_calls_made_without_gradients_train_all_the_same(mode, tmp_path):
    x, y = inputs(), torch.arange(64) % 3

    def own(slim, dense):
        F.cross_entropy(slim(x), y).backward()
        assert slim[0].weight.grad is not None
        return slim

    with mode():
        model, data = net(), ((x, y), (x, y))
        assert slimkit.compress(model, x[:1], 0.5, calibration=x * 1, epochs=1, onnx=False).report.recovery.epochs == 1
        assert slimkit.compress(model, x[:1], 0.5, calibration=x * 1, retrain=own, onnx=False)
        assert slimkit.train(model, data, 0.5, epochs=1, onnx=False, method="network-slimming")
        settings = {"arch": "resnet8", "data": "digits", "methods": ["network-slimming"], "seeds": 1, "epochs": 1}
        assert slimkit.study(settings, tmp_path / "study").arms
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
