"""A folder of pictures without labels: the report says how they were read, and which were not."""

import torch
from PIL import Image
from torch import nn

import slimkit


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
