"""What a study refuses before it trains anything."""

from pathlib import Path
from typing import Any

import pytest

from slimkit.cli import main
from slimkit.errors import SlimkitError
from slimkit.methods import METHODS
from slimkit.runs import study as studying
from slimkit.runs.arms.order import CONTROLS, planned
from slimkit.settings import TrainSpec, study_spec
from slimkit.settings.train import REMOVE_NONE
from tests.study_sample import SETTINGS

CUTS = [name for name in METHODS if name not in REMOVE_NONE and name != "scratch"]


def refused(monkeypatch: pytest.MonkeyPatch, folder: Path, **settings: Any) -> str:
    """Return what a study says that refuses to begin; it must not train."""

    def train_arm(*_: object) -> None:
        raise AssertionError("an arm is trained")

    monkeypatch.setattr(studying, "train_arm", train_arm)
    with pytest.raises(SlimkitError) as error:
        studying.study(study_spec({**SETTINGS, "seeds": 1, **settings}), folder / "out", workers=0)
    return str(error.value)


@pytest.mark.parametrize("method", [*CUTS, "uniform"])
@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        ({"ratio": [0.5, 0.97]}, "ratio is 0.97: with at most 90% of a group removed"),
        ({"max_macs": [0.5, 0.001]}, "the smallest that the allowed widths reach"),
        ({"max_params": [0.5, 0.001]}, "the smallest that the allowed widths reach"),
    ],
)
def test_a_later_budget_out_of_reach(
    method: str, budgets: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was seen when the other arms had been trained, and hours been spent."""
    arms = ["scratch-E", "dense"] if method == "uniform" else ["dense"]
    assert words in refused(monkeypatch, tmp_path, methods=[method, *arms], **budgets)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("lottery-ticket", {}),
        ("network-slimming", {"init": "rewind"}),
        ("early-bird", {"init": "rewind"}),
        ("progressive", {"init": "rewind"}),
        ("weight-ticket", {}),
    ],
)
def test_a_step_to_rewind_to_beyond_the_end(
    method: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = refused(
        monkeypatch,
        tmp_path,
        arm={"late": {"method": method, "rewind_step": 999, **settings}},
        **({"round_to": "auto"} if method == "weight-ticket" else {}),
    )
    assert "rewind_step is 999: the " in said and "\n" in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"methods": ["uniform", "uniform"]}, "methods is uniform, uniform: uniform is there twice"),
        ({"methods": ["scratch", "dense"]}, "methods names 'dense' twice: scratch is all controls"),
        ({"methods": ["uniform"], "ratio": [0.5, 0.3, 0.50]}, "ratio is 0.5, 0.3, 0.5: 0.5 is there twice"),
        ({"methods": ["uniform"], "max_macs": [0.5, "50%"]}, "max_macs is 0.5, 50%: 0.5 and 50% are the same"),
        ({"methods": ["uniform"], "max_params": ["1M", "1000k"]}, "max_params is 1M, 1000k: 1M and 1000k are the same"),
    ],
)
def test_what_is_there_twice(
    settings: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was trained once, without a word: whoever wrote it may have meant something else."""
    assert words in refused(monkeypatch, tmp_path, **settings)


def test_what_is_there_twice_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "study --arch zoo:resnet8 --data digits --methods uniform --ratio 0.5,0.5 --seeds 1 --workers 0 --epochs 1"
    assert main([*words.split(), "--images", "64", "--out", str(tmp_path / "out")]) == 2
    assert "0.5 is there twice" in capsys.readouterr().err


@pytest.mark.parametrize("name", CONTROLS)
def test_an_arm_of_ones_own_may_be_a_control_by_name(name: str) -> None:
    """It was said not to exist, in a message that listed it."""
    settings = {**SETTINGS, "seeds": 1, "equal_cost": True, "methods": ["early-bird", name]}
    own = {"mine": {"method": name, "learning_rate": 0.2}}
    runs = {run.arm: run for run in planned(study_spec({**settings, "arm": own}))}
    assert runs["mine"].settings == {**runs[name].settings, "learning_rate": 0.2}
    assert runs["mine"].waits == runs[name].waits


@pytest.mark.parametrize("equal_cost", [False, True])
def test_an_arm_without_a_method_is_what_train_makes_of_it(equal_cost: bool) -> None:
    """It was an early bird, without a word."""
    both = {"mine": {"learning_rate": 0.2}, "named": {"learning_rate": 0.2, "method": "uniform"}}
    settings = {**SETTINGS, "methods": ["early-bird"], "equal_cost": equal_cost, "arm": both}
    [mine, named] = [run.settings for run in planned(study_spec({**settings, "seeds": 1})) if run.arm in both]
    assert mine == named and mine["method"] == TrainSpec.method == "scratch"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"method": "nothing"}, "arm 'mine': method is 'nothing': there is no such method or control"),
        ({"method": ["uniform"]}, "arm 'mine': method is ['uniform']: there is no such method or control"),
        ({"method": "uniform", "control": "dense"}, "arm 'mine': method is 'uniform', whose control is 'uniform', and"),
        ({"method": "network-slimming", "passes": 0}, "arm 'mine': passes is 0: "),
        ({"learning_rate": -1}, "arm 'mine': learning_rate is -1: "),
        ({"onnx": False}, "arm 'mine': onnx is False: "),
        ({"method": "early-bird", "cap": 0.3}, "arm 'mine': ratio is 0.5: with at most 30% of a group removed"),
    ],
)
def test_what_is_wrong_with_an_arm_names_it(
    own: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = refused(monkeypatch, tmp_path, methods=["early-bird"], ratio=[0.5], arm={"mine": own})
    assert said.startswith(words)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("method", ["network-slimming", "early-bird", "lottery-ticket"])
def test_permuted_widths_that_can_be_no_others(
    method: str, seeds: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was seen when the reference had been trained."""
    said = refused(monkeypatch, tmp_path, methods=[method, "permuted"], ratio=[0.25, 0.5], seeds=seeds)
    assert said.startswith("arm 'permuted': control is 'permuted', and of the ")


def test_a_study_of_which_nothing_is_trained_names_no_others(tmp_path: Path) -> None:
    settings = {**SETTINGS, "methods": ["dense"], "seeds": 1, "learning_rate": 1e30}
    with pytest.raises(SlimkitError) as error:
        studying.study(settings, tmp_path / "out", workers=0)
    assert "did not finish" in str(error.value) and "others" not in str(error.value)
