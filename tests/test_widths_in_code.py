"""Networks whose code holds a width as a number: such channels are kept, whatever the budget and the inputs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit.results import Report

WIDTH, SIDE = 8, 4


class Decoder(nn.Module):
    """A vector and back to a map, as autoencoders and generators do."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        norms = [nn.BatchNorm2d(WIDTH)] if norm else []
        self.encoder = nn.Sequential(nn.Conv2d(1, WIDTH, 3, 2, 1), *norms, nn.ReLU(), nn.Flatten())
        self.code = nn.Linear(WIDTH * SIDE**2, 16)
        self.wide = nn.Linear(16, WIDTH * SIDE**2)
        self.last = nn.ConvTranspose2d(WIDTH, 1, 4, 2, 1)
        self.unflatten = nn.Unflatten(1, (WIDTH, SIDE, SIDE))

    def maps(self, y: Tensor) -> Tensor:
        return self.unflatten(y)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.maps(self.wide(self.code(self.encoder(x)).relu()).relu()))


class ByView(Decoder):
    def maps(self, y: Tensor) -> Tensor:
        return y.view(-1, WIDTH, SIDE, SIDE)


class ByMethod(Decoder):
    def maps(self, y: Tensor) -> Tensor:
        return y.unflatten(1, (WIDTH, SIDE, SIDE))


class ByBatch(Decoder):
    def maps(self, y: Tensor) -> Tensor:
        return y.reshape(len(y), WIDTH, SIDE, SIDE)


class OpenView(Decoder):
    def maps(self, y: Tensor) -> Tensor:
        return y.view(len(y), -1, SIDE, SIDE)


class OpenMethod(Decoder):
    def maps(self, y: Tensor) -> Tensor:
        return y.unflatten(1, (-1, SIDE, SIDE))


class Tutorial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.c, self.out = nn.Linear(WIDTH * SIDE**2, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.max_pool2d(self.b(self.a(x).relu()).relu(), 2)
        return self.out(self.c(y.view(-1, WIDTH * SIDE**2)).relu())


NETWORKS = {
    "Unflatten": Decoder,
    "Unflatten, BatchNorm": lambda: Decoder(norm=True),
    "view": ByView,
    "unflatten": ByMethod,
    "reshape": ByBatch,
    "view, open": OpenView,
    "unflatten, open": OpenMethod,
    "tutorial": Tutorial,
}
HOLD = {"Unflatten": "wide", "Unflatten, BatchNorm": "wide", "view": "wide", "unflatten": "wide", "reshape": "wide"}
HOLD["tutorial"] = "b"
TIMED = ("Unflatten", "view, open", "tutorial")
BUDGETS = ({"max_macs": 0.6}, {"max_params": 0.6}, {"max_latency": 0.95}, {"ratio": 0.5})


def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = NETWORKS[name]()
    for _ in range(20):
        net(torch.rand(32, 1, 8, 8))
    return net.eval()


def _check(name: str, report: Report, model: nn.Module) -> None:
    channels = report.channels
    kept = {entry.layer: entry.reason for entry in channels.kept if "holds the width" in entry.reason}
    assert list(kept) == ([HOLD[name]] if name in HOLD else [])
    assert channels.removed
    assert len(model(torch.rand(5, 1, 8, 8))) == 5


@pytest.mark.parametrize("with_inputs", [True, False])
@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: next(iter(budget)))
@pytest.mark.parametrize("name", NETWORKS)
def test_a_width_written_in_code_is_kept(name: str, budget: dict[str, float], with_inputs: bool) -> None:
    if "max_latency" in budget and name not in TIMED:
        pytest.skip("takes seconds, and is the same for all")
    inputs = torch.rand(64, 1, 8, 8) if with_inputs else None
    try:
        result = slimkit.compress(
            _network(name), torch.rand(1, 1, 8, 8), calibration=inputs, round_to=1, epochs=0, **budget
        )
    except slimkit.errors.OutOfReachError:  # whether times of such a network fall is a matter of luck
        assert "max_latency" in budget
        return
    _check(name, result.report, result.model)


class Counted(nn.Module):
    """Asks for a multiple of 16, which half of its channels still are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3)
        self.out = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu()).relu()
        if y.shape[1] % 16:
            raise ValueError("not a multiple of 16")
        return self.out(self.c(y).relu().mean((2, 3)))


def test_a_width_that_only_some_masks_break_is_kept() -> None:
    torch.manual_seed(0)
    inputs = torch.rand(64, 1, 8, 8)
    result = slimkit.compress(Counted().eval(), inputs[:1], calibration=inputs, max_macs=0.4, round_to=1, epochs=0)
    assert "b" in [entry.layer for entry in result.report.channels.kept]
    assert len(result.model(inputs)) == 64


def test_a_width_written_in_code_is_kept_where_a_drop_is_asked_for() -> None:
    torch.manual_seed(1)
    images, labels = torch.rand(512, 1, 8, 8), torch.randint(10, (512,))
    data = torch.utils.data.TensorDataset(images, labels)
    loaders = torch.utils.data.DataLoader(data, 64, shuffle=True), torch.utils.data.DataLoader(data, 64)
    result = slimkit.compress(
        _network("tutorial"), images[:1], dataset=loaders, max_drop=20, minimise="macs", round_to=1, epochs=0
    )
    _check("tutorial", result.report, result.model)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep": ("b",)}, "was to be kept (keep)"),
        ({"without_bn": "keep", "keep": ("a",)}, "no BatchNorm scales it, and such channels were to be kept"),
    ],
)
def test_what_is_kept_on_request_is_told_as_such(settings: dict[str, Any], said: str) -> None:
    """Of `--keep` it had been said that no BatchNorm scales it."""
    net = nn.Sequential()
    net.a, net.n, net.b = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
    net.c, net.m, net.end, net.out = nn.Conv2d(8, 8, 2), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 10)
    report = slimkit.compress(
        net.eval(), torch.rand(1, 1, 8, 8), ratio=0.2, round_to=1, recover=False, **settings
    ).report
    reasons = {entry.layer: entry.reason for entry in report.channels.kept}
    assert reasons["b"].startswith(said)
    if "a" in settings["keep"]:
        assert reasons["a"].startswith("was to be kept (keep)")
