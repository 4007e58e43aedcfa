"""Inputs that are not such as a network was trained on: nothing that is told of them is told of the network."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import model_zoo
import slimkit
from slimkit import data, models
from slimkit.errors import DataError
from slimkit.recovery.strange import are_strange

FASHION, DIGITS = data.open("fashion-mnist"), data.as_dataset("digits")


def network(name: str) -> nn.Module:
    return models.load(model_zoo.CHECKPOINTS[name]).model.eval()


def pixels(inputs: Tensor, of: data.Dataset) -> Tensor:
    return inputs * of.std[0] + of.mean[0]


KINDS: dict[str, tuple[bool, Callable[[Tensor, data.Dataset], Tensor]]] = {
    "as in training": (False, lambda x, of: x),
    "eight": (False, lambda x, of: x[:8]),
    "not normalised": (True, pixels),
    "of 0 to 255": (True, lambda x, of: 255 * pixels(x, of)),
    "inverted": (True, lambda x, of: (1 - pixels(x, of) - of.mean[0]) / of.std[0]),
    "noise": (True, lambda x, of: torch.randn(x.shape, generator=torch.Generator().manual_seed(0))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "of"), [("resnet20-fashion-mnist", FASHION), ("resnet8-digits", DIGITS)])
def test_what_batch_norms_tell_of_inputs(name: str, of: data.Dataset, kind: str) -> None:
    strange, made = KINDS[kind]
    if kind == "noise" and of is DIGITS:
        pytest.skip("to a network of so few pixels noise is not strange enough")
    inputs = made(next(iter(of.test.batches(256)))[0], of)
    assert are_strange(network(name), list(inputs.split(64))) == strange


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_of_mosaics_only_the_first_statistics_are_asked(scale: float) -> None:
    """A YOLO found the very pictures strange that it was trained on, as mosaics."""
    first, later = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    net = nn.Sequential(first, nn.Conv2d(3, 3, 1, bias=False), later, nn.ReLU(), nn.BatchNorm2d(3)).eval()
    images = torch.randn(256, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    net.train()(images)
    for norm in (first, net[4], later):
        norm.momentum = None  # type: ignore[union-attr]
        norm.reset_running_stats()  # type: ignore[operator]
    net(images)
    net.eval()
    later.running_mean += 3 * later.running_var.sqrt()  # type: ignore[operator,union-attr]
    net[4].running_mean += 3  # type: ignore[operator]
    assert are_strange(net, [scale * images])
    assert are_strange(net, [scale * images], mixed=True) == (scale > 1)


def test_nothing_is_told_without_statistics_or_where_the_network_does_not_run() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    assert not are_strange(plain, [1000 * torch.randn(8, 1, 8, 8)])
    assert not are_strange(network("resnet8-digits"), [torch.randn(8, 3, 8, 8)])


@pytest.mark.long
def test_a_cut_that_was_fitted_to_such_inputs_is_not_called_good() -> None:
    dense, inputs = network("resnet8-digits"), next(iter(DIGITS.train.batches(1024, seed=0)))[0]
    for given, strange in ((inputs[:256], False), (pixels(inputs[:256], DIGITS), True)):
        report = slimkit.compress(dense, inputs[:1], 0.2, calibration=given, epochs=0, onnx=False).report
        assert report.fit is not None and report.fit.strange is strange
        assert report.verdict.startswith("Not recovered: ") is strange
        assert ("but such inputs are not what the network was trained on" in report.verdict) is strange
        assert any("Are they normalised as in training" in words for words in report.warnings) is strange
    with pytest.raises(DataError, match=r"(?s)max_drop without labels.*Give inputs as in training, or labelled data"):
        slimkit.compress(dense, inputs[:1], max_drop=8, calibration=pixels(inputs, DIGITS), epochs=0, onnx=False)
