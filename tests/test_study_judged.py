"""What a study says of its arms: counts only where images are counted, and better only where nothing is larger."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import slimkit
from slimkit.report.sections.arms import comparison_of_arms, judged, said_of
from slimkit.report.study_table import study_table
from slimkit.results import Arm, Outcome, study_file
from slimkit.results.comparison import BETTER, LESS, MORE, SAME, WORSE, differences, opponents
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


def arms_of(mine: dict[str, Any], offset: int) -> list[Arm]:
    """Five seeds of a method that tells `offset` more of 1,000 images right than uniform does, and of uniform."""
    scatter = list(enumerate((0, 3, -2, 1, 4)))
    spent = replace(arm("uniform", 0).spent, dense_trainings=mine.pop("cost", 0.5))
    method = [arm("early-bird", 900 + offset + 2 * off, seed, spent=spent, **mine) for seed, off in scatter]
    return method + [arm("uniform", 900 + off, seed) for seed, off in scatter]


EQUAL = {"macs": 250, "params": 30, "cost": 0.5}  # of uniform
WORDS = {"macs": "multiply-adds", "params": "parameters", "cost": "training"}


@given(
    shares=st.dictionaries(st.sampled_from(sorted(EQUAL)), st.sampled_from((0.1, 0.9, 1.0, 1.04, 1.2, 3.0))),
    offset=st.sampled_from((-40, 0, 40)),
)
@settings(max_examples=40)
def test_better_is_what_is_better_with_no_more(shares: dict[str, float], offset: int) -> None:
    mine = {name: EQUAL[name] * share for name, share in shares.items()}
    mine |= {name: round(value) for name, value in mine.items() if name != "cost"}
    arms = arms_of(mine, offset)
    told = {name: share for name, share in shares.items() if abs(share - 1) > 0.05}
    more, less = any(share > 1 for share in told.values()), bool(told)
    [found] = differences(arms, ["uniform"])
    assert found.verdict == {40: MORE if more else BETTER, 0: SAME, -40: LESS if less and not more else WORSE}[offset]
    said = said_of(arms).sentence
    assert said.startswith("Better than uniform") == (found.verdict == BETTER)
    shown = judged(found)
    for name, share in told.items():
        words = f"{share:.2f} times its {WORDS[name]}"
        assert words in shown and (words in said) == (offset == 40)


def test_what_is_larger_is_not_better_in_the_terminal_either() -> None:
    arms = arms_of({"macs": 420, "cost": 1.0}, 40)
    said = "at 1.68 times its multiply-adds and 2.00 times its training"
    assert said_of(arms).sentence == (
        "No arm is better than uniform at 5 seeds (0 better, 0 worse, 0 without a difference, 1 better for more); "
        f"better for more: early-bird at ratio 0.5 by 4.1 points, {said}."
    )
    terminal = Console(width=200, file=io.StringIO(), record=True)
    terminal.print(study_table(arms))
    assert f"better, for more: {said}" in terminal.export_text()


@pytest.mark.parametrize("control", ["permuted", "scratch-B-strict", "fine-tune", "scratch-E", "random-channels"])
def test_a_method_is_set_against_every_control(control: str) -> None:
    """With `uniform` there, the control of equal cost was 27 points ahead and in no pair."""
    arms = [arm("early-bird", 700, seed) for seed in (0, 1)] + [arm("uniform", 100, seed) for seed in (0, 1)]
    told = {"method": "scratch", "settings": {"arch": "zoo:resnet8", "control": control}}
    arms += [arm(control, 950, seed, **told) for seed in (0, 1)]
    pairs = {(one.arm, one.against): one.mean.value for one in differences(arms, opponents(arms))}
    assert pairs["early-bird", control] == pytest.approx(-0.25)
