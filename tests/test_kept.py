"""Whether a file can hold a network is known before it is trained, and one that draws random numbers has its file."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import slimkit
from slimkit.cli import main
from slimkit.errors import ArchitectureError, SlimkitError, TraceError
from slimkit.runs.cut import begun
from tests.blocks import conv_bn

DRAWS = {
    "dropout": "F.dropout(x, 0.1)",
    "noise": "x + 0.01 * torch.randn_like(x)",
}
CODE = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.out, self.scale = nn.Linear(8, 10), {scale}

    def forward(self, x):
        x = self.body(x).mean((2, 3))
        return self.out({draws}) * self.scale

def make(num_classes, in_channels=1):
    return Net()
"""


class Dropping(nn.Module):
    """Drops in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Sequential(conv_bn(1, 8), conv_bn(8, 8)), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.dropout(self.body(x).mean((2, 3)), 0.1))


@pytest.mark.parametrize("draws", DRAWS.values(), ids=DRAWS)
def test_a_network_that_draws_random_numbers_has_its_slim_file(draws, tmp_path, capsys):
    code = tmp_path / "net.py"
    code.write_text(CODE.format(draws=draws, scale=1))
    words = ["--arch", f"{code}:make", "--data", "digits", "--epochs", "1", "--round-to", "1", "--out"]
    assert main(["train", *words, str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "draws random numbers" in said and "F.dropout(x, p, self.training)" in said and "No ONNX file" in said
    slimkit.load(tmp_path / "out" / "model.safetensors", arch=f"{code}:make")


def _train(path):
    slimkit.train(Dropping(), "digits", 0.5, epochs=1, round_to=1, out=path, progress=_no_step)


def _retrain(path):
    image = torch.randn(1, 1, 8, 8)
    slimkit.compress(Dropping(), image, 0.5, dataset="digits", epochs=1, out=path, progress=_no_step)


def _no_step(what, share):
    assert "trac" not in what and "epoch" not in what, f"it was {what} already"


@pytest.mark.parametrize("run", [_train, _retrain])
def test_what_no_file_can_hold_is_refused_before_it_is_trained(run, tmp_path):
    with pytest.raises(ArchitectureError, match=r"(?s)in training .*alone, as F.dropout\(x, p, self.training\)"):
        run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Looping(nn.Module):
    """Takes its images one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Sequential(conv_bn(1, 8), conv_bn(8, 8)), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.out(self.body(image[None]))[0] for image in x])


class Deciding(Looping):
    """Does what its data says, once it was told to."""

    says = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.out(x * 2 if self.says and x.mean() > 1e9 else x)


IMAGES = torch.randn(16, 1, 8, 8)


@pytest.mark.long
@pytest.mark.parametrize(
    ("network", "onnx", "remedy"),
    [
        (Looping, False, "leave out `onnx=False`: an ONNX file can hold it"),
        (Deciding, False, "call slimkit.compress without out=: its result is the network itself"),
        (Deciding, True, "call slimkit.compress without out=: its result is the network itself"),
    ],
)
def test_what_no_file_that_is_asked_for_can_hold_is_refused_before_it_is_cut(network, onnx, remedy, tmp_path):
    def no_step(what, share):
        raise AssertionError(f"it was {what} already")

    settings = {"onnx": onnx, "round_to": 1, "calibration": IMAGES}
    with pytest.raises(ArchitectureError, match=re.escape(remedy)):
        slimkit.compress(network(), IMAGES[:1], 0.5, out=tmp_path / "out", progress=no_step, **settings)
    assert not (tmp_path / "out").exists()
    as_said = {"onnx": True, "out": tmp_path / "out"} if network is Looping else {}
    found = slimkit.compress(network(), IMAGES[:1], 0.5, **{**settings, **as_said})
    assert found.model(IMAGES).shape == (16, 4, 8, 8)
    assert (tmp_path / "out" / "model.onnx").exists() == (network is Looping)


@pytest.mark.parametrize("retrain", [None, lambda slim, dense: slim])
def test_a_network_that_does_not_run_is_told_by_tracing(retrain, tmp_path):
    with pytest.raises(TraceError, match="cannot run on its example input"):
        slimkit.compress(Looping(), torch.randn(1, 3, 8, 8), 0.5, retrain=retrain, out=tmp_path / "out")


@pytest.mark.long
def test_a_retraining_after_which_no_file_can_hold_the_network_is_not_lost(tmp_path):
    net = Deciding()
    net.says = False

    def retrain(slim, dense):
        slim.says = True
        return slim

    found = slimkit.compress(
        net, IMAGES[:1], 0.5, out=tmp_path / "out", round_to=1, retrain=retrain, calibration=IMAGES
    )
    assert found.model.says and found.report.channels.share_removed == 0.5
    assert [note.split(":")[0] for note in found.report.warnings if "file" in note] == ["No slim file", "No ONNX file"]


def test_a_factory_that_builds_another_network_each_time(tmp_path):
    code = tmp_path / "net.py"
    code.write_text(CODE.format(draws=DRAWS["dropout"], scale="torch.randn(()).item()"))
    model = slimkit.models.build(f"{code}:make", classes=10, input_shape=(1, 8, 8)).model
    with pytest.raises(SlimkitError, match=r"(?s)net.py:make builds another network .*parameters and buffers"):
        slimkit.train(model, "digits", 0.5, epochs=1, round_to=1, progress=_no_step)


@pytest.mark.parametrize("ratio", ["0.5", "0.3,0.5"])
def test_a_sweep_is_refused_as_early_as_a_single_run(ratio, tmp_path, capsys, monkeypatch):
    code, checkpoint = tmp_path / "net.py", tmp_path / "net.pt"
    code.write_text(CODE.format(draws=DRAWS["dropout"], scale="torch.randn(()).item()"))
    arch = f"{code}:make(num_classes=10)"
    torch.save(slimkit.models.build(arch, input_shape=(1, 8, 8)).model.state_dict(), checkpoint)
    monkeypatch.setattr(begun, "calibrate", lambda *given: pytest.fail("calibrated already"))
    words = ["--arch", arch, "--input-shape", "1,8,8", "--ratio", ratio, "--out", str(tmp_path / "out")]
    assert main(["compress", str(checkpoint), *words]) == 2
    assert "builds another network" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
