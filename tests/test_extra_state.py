"""Networks with modules that keep a state beside their tensors: it goes where the module goes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit.cli import main
from slimkit.errors import ArchitectureError
from slimkit.models.memory import limited, surely_fits
from slimkit.provenance import Provenance, attach


class Scaled(nn.Module):
    """Multiplies by a factor that its state dict has as something else than a parameter or buffer."""

    def __init__(self, factor: Any) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor if isinstance(self.factor, int) else x

    def get_extra_state(self) -> Any:
        return self.factor

    def set_extra_state(self, state: Any) -> None:
        self.factor = state


def network(factor: Any) -> nn.Sequential:
    torch.manual_seed(0)
    body = (nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), Scaled(factor), nn.Conv2d(16, 8, 3), nn.ReLU())
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).eval()


def made(num_classes: int = 10) -> nn.Sequential:
    assert num_classes == 10
    return network(3)


STATES = [3, {"calls": 1}, None, torch.tensor([1.0, 2.0])]
IMAGE = torch.rand(1, 1, 8, 8)


@pytest.mark.long
@pytest.mark.parametrize("state", STATES, ids=["number", "dict", "none", "tensor"])
def test_a_state_beside_the_tensors_goes_with_the_network(state: Any, tmp_path: Path) -> None:
    """It ended in a traceback: a dict has no attribute 'shape'."""
    settings: Any = {"dataset": "digits", "round_to": 1, "onnx": False, "retrain": lambda slim, dense: slim}
    result = slimkit.compress(network(state), IMAGE, 0.5, out=tmp_path / "out", **settings)
    torch.testing.assert_close(result.model[3].factor, state)
    again = slimkit.load(tmp_path / "out" / "model.pt2")
    torch.testing.assert_close(again(IMAGE), result.model(IMAGE))


@pytest.mark.long
@pytest.mark.parametrize("method", ["lottery-ticket", "network-slimming"])
def test_a_network_with_such_a_state_is_trained_and_rewound(method: str, tmp_path: Path) -> None:
    settings: Any = {"method": method, "epochs": 1, "batch_size": 512, "onnx": False, "round_to": 1}
    result = slimkit.train(network(3), "digits", 0.5, out=tmp_path / "out", **settings)
    assert result.model[3].factor == 3
    assert slimkit.load(tmp_path / "out" / "model.pt2")(IMAGE).shape == (1, 10)


def test_a_network_of_ones_own_code_is_trained_and_written(tmp_path: Path) -> None:
    words = ["--data", "digits", "--epochs", "1", "--ratio", "0.3", "--round-to", "1", "--method", "network-slimming"]
    arch = ["--arch", f"{__file__}:made", "--no-onnx", "--out", str(tmp_path / "out")]
    assert main(["train", *arch, *words]) == 0
    assert slimkit.load(tmp_path / "out" / "model.pt2")(IMAGE).shape == (1, 10)


def test_a_slim_file_by_name_is_refused_and_the_remedy_serves(tmp_path: Path) -> None:
    """It could not have been read again."""
    net = network(3)
    attach(net, Provenance(arch="tests.test_extra_state:network", arguments={"factor": 3}, input_shape=(1, 8, 8)))
    with pytest.raises(ArchitectureError, match="(?s)get_extra_state.*Provenance.arch='exported'"):
        slimkit.save(net, tmp_path / "net", IMAGE)
    attach(net, Provenance(arch="exported"))
    slimkit.save(net, tmp_path / "net", IMAGE)
    torch.testing.assert_close(slimkit.load(tmp_path / "net")(IMAGE), net(IMAGE))


def test_memory_is_told_by_tensors_alone() -> None:
    with limited(Path("any")):
        assert surely_fits(network({"calls": 1}), (1, 8, 8))
