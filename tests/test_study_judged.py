"""What a study says of its arms: counts only where images are counted."""

import json
from dataclasses import replace
from pathlib import Path

import slimkit
from slimkit.report.sections.arms import comparison_of_arms
from slimkit.results import Outcome, study_file
from tests.study_sample import arm

SEGMENTING = """
import torch
from torch import nn

def make(num_classes=3):
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, num_classes, 1))

def part(seed):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(20, 1, 8, 8, generator=random), torch.randint(0, 3, (20, 8, 8), generator=random)

def data(seed): return {"train": part(seed), "validation": part(seed + 1), "test": part(seed + 2)}
"""


def test_a_share_of_something_else_is_no_count_of_images(tmp_path: Path) -> None:
    file = tmp_path / "segmenting.py"
    file.write_text(SEGMENTING)
    asked = {"arch": f"{file}:make", "data": f"{file}:data", "task": "segmentation", "methods": "dense", "seeds": 1,
             "epochs": 1, "batch_size": 10, "device": "cpu", "precision": "fp32", "latency": False}  # fmt: skip
    [one] = slimkit.study(asked, tmp_path / "out", workers=0).arms
    assert (one.metric, one.unit, one.test.right, one.validation.right) == ("mean IoU", "share", None, None)
    assert "of 20" not in (tmp_path / "out" / "study.html").read_text()


def test_a_count_that_an_earlier_version_made_of_a_share_is_not_read(tmp_path: Path) -> None:
    guessed = Outcome(value=0.613, right=12, images=20)
    line = arm("early-bird", 900, metric="mean IoU", test=guessed, validation=guessed).to_dict()
    counted = arm("uniform", 900)
    (tmp_path / study_file.NAME).write_text(json.dumps(line) + "\n" + study_file.line(counted))
    [one, other], _ = study_file.read(tmp_path)
    assert (one.test, one.validation) == (replace(guessed, right=None),) * 2 and other == counted
    _, sections = comparison_of_arms([one, other])
    notes = [cell.note for row in sections[-1].parts[0].rows for cell in row if cell.note]
    assert notes == ["900 of 1000"]
