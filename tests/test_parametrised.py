"""Checkpoints of networks whose first convolution computes its weight, so that none of that name is stored."""

from pathlib import Path

import pytest
import torch

import slimkit
from slimkit import models, own_code
from slimkit.cli import main
from slimkit.errors import ArchitectureError

CODE = """
from torch import nn
from torch.nn.utils import parametrize, parametrizations as new, spectral_norm, weight_norm

class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight

    def right_inverse(self, weight):
        return weight / 2

def own(layer):
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer

HOW = {
    "weight_norm": new.weight_norm,
    "old weight_norm": weight_norm,
    "spectral_norm": new.spectral_norm,
    "old spectral_norm": spectral_norm,
    "orthogonal": new.orthogonal,
    "own": own,
}

def net(how):
    wrapped = HOW[how]
    return nn.Sequential(
        wrapped(nn.Conv2d(1, 8, 3)), nn.ReLU(), wrapped(nn.Conv2d(8, 16, 3)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )
"""
HOW = ("weight_norm", "old weight_norm", "spectral_norm", "old spectral_norm", "orthogonal", "own")
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "computed.py").write_text(CODE)
    return f"{tmp_path}/computed.py:net"


@pytest.mark.parametrize("how", HOW)
def test_a_state_dict_of_computed_weights_is_read_narrowed_and_read_again(code: str, how: str, tmp_path: Path) -> None:
    """`KeyError: '0.weight'` was what came of it."""
    torch.manual_seed(0)
    net = own_code.find(code, "arch", ArchitectureError)(how).eval()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    images, arch = torch.randn(2, 1, 16, 16), f"{code}(how={how!r})"
    model = models.load(tmp_path / "net.pt", arch=arch).model
    assert torch.equal(model(images), net(images))
    made = slimkit.compress(model, images, ratio=0.3)
    assert made.report.channels.removed
    slimkit.save(made.model, tmp_path / "slim.safetensors")
    again = slimkit.load(tmp_path / "slim.safetensors", arch=arch)
    assert torch.equal(again(images), made.model(images))


@pytest.mark.parametrize("how", HOW)
def test_the_command_takes_computed_weights_and_its_own_file_of_them(
    code: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = own_code.find(code, "arch", ArchitectureError)(how)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    arch = ["--arch", f"{code}(how={how!r})"]
    rest = ["--input-shape", "1,16,16", "--ratio", "0.3", "--out"]
    assert main(["compress", str(tmp_path / "net.pt"), *rest, str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.count("Say what builds the network: --arch") == 1
    assert main(["compress", str(tmp_path / "net.pt"), *arch, *rest, str(tmp_path / "slim")]) == 0
    again = [str(tmp_path / "slim" / "model.safetensors"), *arch, "--ratio", "0.2", "--out", str(tmp_path / "again")]
    assert main(["compress", *again]) == 0


def test_a_computed_weight_is_not_made_anew_for_other_channels(code: str) -> None:
    with pytest.raises(ArchitectureError, match=r"cannot be built for 3 channels\.\n  Give the factory a parameter"):
        models.build(f"{code}(how='weight_norm')", input_shape=(3, 16, 16))
