"""Networks whose output is their input and a little more: what is lost is told by what they add."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit.recovery.calibration import Chunk
from slimkit.recovery.gap import spreads_of
from slimkit.report.verdict import verdict


class Denoiser(nn.Module):
    """Takes the noise off, x - f(x); of twice the size with `scale` 2, and in units of its own with `factor`."""

    def __init__(self, scale: int = 1, factor: float = 1.0) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.last, self.scale, self.factor = nn.Conv2d(16, scale**2, 3, padding=1), scale, factor

    def forward(self, x: Tensor) -> Tensor:
        found = F.pixel_shuffle(self.last(self.f(x)), self.scale)
        skip = x if self.scale == 1 else F.interpolate(x, scale_factor=self.scale, mode="bilinear")
        return self.factor * (skip - found) + (0 if self.factor == 1 else 3)


def _network(scale: int, factor: float) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = Denoiser(scale, factor).eval()
    images = 4 * F.interpolate(torch.randn(96, 1, 3, 3), size=12, mode="bilinear") + 0.3 * torch.randn(96, 1, 12, 12)
    with torch.no_grad():
        added = net.last(net.f(images))
        net.last.weight.mul_(0.3 / added.std())
        net.last.bias.zero_()
    return net, images


@pytest.mark.parametrize(("scale", "factor"), [(1, 1.0), (2, 1.0), (1, 255.0)])
def test_what_a_network_adds_to_its_input_is_what_it_is_told_by(scale: int, factor: float) -> None:
    net, images = _network(scale, factor)
    variance = float(next(iter(spreads_of(net, [Chunk(images, False)]).values())))
    with torch.no_grad():
        whole, added = net(images).var(), (factor * net.last(net.f(images))).var()
    assert variance < 0.2 * whole
    assert 0.2 * added < variance < 1.1 * added


def test_a_denoiser_that_does_nothing_any_more_is_not_told_as_recovered() -> None:
    """It was: its output varies by its input, of which nothing is lost."""
    net, images = _network(1, 1.0)
    result = slimkit.compress(net, images[:1], calibration=images, ratio=0.95, cap=0.98, round_to=1, epochs=0)
    with torch.no_grad():
        wanted = net(images)
        lost = (result.model(images) - wanted).square().mean() / (images - wanted).var()
    assert lost > 0.1
    assert result.report.verdict.startswith("Not recovered")
    assert "its outputs are off by" in result.report.verdict


def test_a_denoiser_that_still_does_its_work_is_told_as_such() -> None:
    net, images = _network(1, 1.0)
    result = slimkit.compress(net, images[:1], calibration=images, ratio=0.1, round_to=1, epochs=0)
    assert result.report.verdict.startswith("Not retrained")
    assert "of the spread of what it computes" in result.report.verdict
    assert verdict(result.report).command == (
        "slimkit compress CHECKPOINT --ratio 0.1 --round-to 1 --calibration folder:MORE_IMAGES --epochs 10"
    )  # a folder of pictures has no labels for it
