"""Inputs without labels: the report says how they were read, and they serve where the data set would."""

import json

import pytest
import torch
from onnxruntime import InferenceSession
from PIL import Image
from torch import nn

import slimkit
from slimkit import data, models, provenance, zoo
from slimkit.cli import main
from slimkit.export.pixels import as_pixels
from tests import test_any_input


def test_the_report_says_how_pictures_to_calibrate_on_were_read(tmp_path):
    for number in range(12):
        Image.new("RGB", (40, 40), (number * 20, 99, 255 - number * 20)).save(tmp_path / f"{number}.png")
    Image.new("RGB", (40, 40), (9, 99, 9)).save(tmp_path / "12.gif")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    given = f"folder:{tmp_path}"

    report = slimkit.compress(
        net, torch.randn(1, 3, 24, 24), 0.5, calibration=given, allow_bad=0.2, epochs=0, onnx=False
    ).report

    said = " ".join(report.arch.assumptions)
    assert "crop 0.875" in said and "mean 0.485" in said and "std 0.229" in said
    assert "1 of 14 files cannot be used" in said and "broken.png" in said


@pytest.mark.long
def test_inputs_without_labels_say_the_shape_where_the_file_does_not(tmp_path):
    """Their own, not the usual one of the architecture, which is 32 x 32."""
    torch.save(models.build("zoo:resnet20", classes=10, input_shape=(1, 8, 8)).model.state_dict(), tmp_path / "net.pt")
    words = ["compress", str(tmp_path / "net.pt"), "--calibration", "digits", "--ratio", "0.3", "--no-recover"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    arch = json.loads((tmp_path / "out" / "report.json").read_text())["arch"]
    assert arch["input_shape"] == [1, 8, 8]
    assert not any("images are" in said for said in arch["assumptions"])


@pytest.mark.long
@pytest.mark.parametrize("embed", [False, True])
def test_an_int8_file_is_calibrated_on_inputs_without_labels(tmp_path, embed):
    digits = data.open("digits")
    net = slimkit.load(zoo.CHECKPOINTS["resnet8-digits"])
    inputs = torch.cat([images for images, _ in digits.train.batches(64)])[:256]
    settings = {"recover": False, "int8": True, "embed_normalisation": embed}
    report = slimkit.compress(net, inputs[:1], 0.1, calibration=inputs, out=tmp_path / "out", **settings).report
    assert report.int8.accuracy is None and report.int8.bytes < report.after.bytes
    if embed:
        inputs = as_pixels(inputs, provenance.of(net).normalisation)
    files = [InferenceSession(tmp_path / "out" / name) for name in ("model.onnx", "model.int8.onnx")]
    whole, small = (file.run(None, {"input": inputs.numpy()})[0].argmax(1) for file in files)
    assert (whole == small).mean() > 0.95


NETS = (
    test_any_input.NETS
    + """
def signals():
    return torch.randn(64, 2, 40)

def pairs():
    return [(torch.randn(8, 3, 8, 8), torch.randn(8, 5)) for _ in range(8)]

def pairs_named():
    return [{"image": torch.randn(8, 3, 8, 8), "more": torch.randn(8, 5)} for _ in range(8)]
"""
)


@pytest.fixture
def nets(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    names: dict = {}
    exec(NETS, names)
    for name in ("signal", "two"):
        torch.save(names[name]().state_dict(), tmp_path / f"{name}.pt")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "inputs", "shapes"),
    [("signal", "signals", "2x40"), ("two", "pairs_named", "3x8x8 and 5")],
)
def test_inputs_of_any_kind_say_the_shape_where_nothing_else_does(nets, name, inputs, shapes):
    code = nets / "nets.py"
    words = ["compress", str(nets / f"{name}.pt"), "--arch", f"{code}:{name}", "--ratio", "0.3", "--no-recover"]
    words += ["--no-onnx", "--calibration", f"{code}:{inputs}", "--out", str(nets / "out")]
    assert main(words) == 0
    arch = json.loads((nets / "out" / "report.json").read_text())["arch"]
    assert any(f"inputs are {shapes}, as those of calibration" in said for said in arch["assumptions"])
    assert arch["input_shape"] == ([2, 40] if name == "signal" else None)


def test_what_says_no_shape_is_not_asked_for_again(nets, capsys):
    code = nets / "nets.py"
    words = ["compress", str(nets / "signal.pt"), "--arch", f"{code}:signal", "--ratio", "0.3"]
    assert main([*words, "--out", str(nets / "out")]) == 2
    said = capsys.readouterr().err
    assert "neither its file nor arch" in said and "no inputs were given" in said
    assert "--data or --calibration" in said and "or --arch" not in said
    assert main(["inspect", *words[1:4]]) == 2
    assert "--input-shape" in (said := capsys.readouterr().err) and "--calibration" not in said and "given" not in said
