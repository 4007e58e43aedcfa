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
