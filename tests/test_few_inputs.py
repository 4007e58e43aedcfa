"""A handful of inputs says little of which channels others need: norms of weights are heard too."""

import torch
from torch import Tensor, nn

import slimkit


def _network() -> nn.Sequential:
    """Return a network two of whose eight channels speak of dark pictures alone, and loudly."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )  # fmt: skip
    with torch.no_grad():
        net[0].weight[:2] = -1.0
        net[0].weight[2:] = 0.2 * torch.rand(6, 1, 3, 3)
        net[0].bias.zero_()
    return net.eval()


def _error(count: int) -> Tensor:
    """Return how far off a network is on dark pictures that was cut by so many light ones."""
    net, images = _network(), torch.rand(count, 1, 6, 6)
    slim = slimkit.compress(
        net, images[:1], 0.25, calibration=images, task="classification", round_to=1, epochs=0, onnx=False
    ).model
    dark = -torch.rand(32, 1, 6, 6)
    with torch.no_grad():
        return (slim(dark) - net(dark)).square().mean() / net(dark).var()


def test_of_few_inputs_what_is_silent_on_them_does_not_go_first() -> None:
    assert _error(8) < 0.1 < _error(256)
