"""What checkpoints hold beside the weights: counters, other networks, averages, classes of their own."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from slimkit import models
from slimkit.errors import ArchitectureError

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
"""
MAKE = "{folder}/mynet.py:Net"


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def counted(state: dict) -> dict:
    """Return a state dict as thop leaves it: two counters in every module."""
    places = {"", *(f"{name.rpartition('.')[0]}." for name in state)}
    counters = {f"{place}{name}": torch.zeros(1) for place in places for name in ("total_ops", "total_params")}
    return {**state, **counters}


SAID = {
    "counters of thop": (counted, "8 counters of thop"),
    "counters below a prefix": (
        lambda state: {"model": {f"module.{name}": value for name, value in counted(state).items()}},
        "8 counters of thop",
    ),
    "a tensor of something else": (lambda state: {**state, "loss.weight": torch.ones(3)}, "no place for loss.weight"),
    "another network": (
        lambda state: {"generator": state, "discriminator": {"0.weight": torch.ones(1)}},
        "of 'generator', 'discriminator' in the file, 'generator' was taken",
    ),
    "an average without names": (
        lambda state: {"model": state, "ema": {"decay": 0.9, "shadow_params": [torch.ones(1)]}},
        "'ema' in the file is a moving average without names",
    ),
}


@pytest.mark.parametrize("kind", SAID)
def test_what_lies_beside_the_weights_is_left_and_said(kind, tmp_path):
    (tmp_path / "mynet.py").write_text(NET)
    (change, said), net = SAID[kind], network()
    torch.save(change(net.state_dict()), tmp_path / "net.pt")
    found = models.load(tmp_path / "net.pt", arch=MAKE.format(folder=tmp_path))
    torch.testing.assert_close(found.model.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert any(said in line for line in found.assumptions), found.assumptions


def test_counters_hide_no_known_architecture(tmp_path):
    net = models.build("zoo:resnet8", classes=5).model
    torch.save(counted(net.state_dict()), tmp_path / "net.pt")
    for arch in (None, "zoo:resnet8"):
        found = models.load(tmp_path / "net.pt", arch=arch).model
        torch.testing.assert_close(found.state_dict(), net.state_dict(), rtol=0, atol=0)


def test_what_the_architecture_needs_must_be_there(tmp_path):
    (tmp_path / "mynet.py").write_text(NET)
    state = {**network().state_dict(), "loss.weight": torch.ones(3)}
    del state["3.bias"]
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(ArchitectureError, match="without 3.bias, with loss.weight besides"):
        models.load(tmp_path / "net.pt", arch=MAKE.format(folder=tmp_path))


def test_code_of_a_trusted_pickle_is_looked_for_in_the_current_folder(tmp_path):
    (tmp_path / "mynet.py").write_text(NET)
    make = "import torch, mynet; torch.save(mynet.Net(), 'net.pt')"
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True)
    load = (
        "import sys; sys.path.remove(''); from slimkit import models; before = list(sys.path); "
        "print(type(models.load('net.pt', trust_pickle=True).model).__name__, sys.path == before)"
    )
    done = subprocess.run([sys.executable, "-c", load], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["Net", "True"], done.stderr
