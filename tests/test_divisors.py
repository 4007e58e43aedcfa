"""Channels behind activations that divide by a parameter of their own: 0 / 0 is no silence."""

import pytest
import torch
from torch import Tensor, nn

import slimkit

FORMS = {
    "snake": lambda x, a: x + torch.sin(a * x).pow(2) / a,
    "reciprocal": lambda x, a: x + torch.sin(a * x).pow(2) * a.reciprocal(),
    "power": lambda x, a: x + torch.sin(a * x).pow(2) * a**-1,
    "of its absolute": lambda x, a: torch.tanh(x / a.abs()),
    "root": lambda x, a: torch.tanh(x) * a.rsqrt(),
    "logarithm": lambda x, a: torch.tanh(x) * a.log(),
}


class Activation(nn.Module):
    def __init__(self, channels: int, form: str) -> None:
        super().__init__()
        self.alpha, self.form = nn.Parameter(torch.rand(1, channels, 1) + 0.5), FORMS[form]

    def forward(self, x: Tensor) -> Tensor:
        return self.form(x, self.alpha)


@pytest.mark.parametrize("form", FORMS)
def test_channels_go_where_an_activation_divides_by_its_parameter(form: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(1, 16, 7, padding=3), Activation(16, form), nn.Conv1d(16, 32, 4, 2, 1), Activation(32, form),
        nn.Conv1d(32, 1, 7, padding=3),
    ).eval()  # fmt: skip

    found = slimkit.compress(net, torch.randn(1, 1, 64), 0.5, onnx=False, round_to=1)

    assert found.report.channels.removed == 24
    assert found.model[1].alpha.shape == (1, 8, 1)


class Added(nn.Module):
    """What the parameter adds is no silence either: of such channels nothing is claimed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 16, 3), nn.Conv1d(16, 1, 3)
        self.alpha = nn.Parameter(torch.rand(1, 16, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.conv(x) + self.alpha) / self.alpha)


def test_channels_that_a_divisor_is_added_to_are_not_cut_wrong() -> None:
    torch.manual_seed(0)
    try:
        found = slimkit.compress(Added().eval(), torch.randn(1, 1, 32), 0.5, onnx=False)
    except slimkit.MaskError as error:
        assert "compute the same without" in str(error)
    else:
        assert found.report.proof.masked_vs_slim < 1e-4
