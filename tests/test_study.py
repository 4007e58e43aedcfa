"""Studies: arms that share what they must, lines that nothing loses, differences that are not made up."""

import contextlib
import errno
import gc
import io
import json
import math
import multiprocessing
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import ttest_rel

import slimkit
from slimkit import data
from slimkit.cli import main
from slimkit.errors import EngineError, OutputError, RecordError, SpecError, TrainingError
from slimkit.methods import METHODS, Found, Job, scratch
from slimkit.methods.cut import cut, named
from slimkit.methods.method import leg
from slimkit.methods.train import history, train
from slimkit.report.page import study_page
from slimkit.report.sections.arms import said_of
from slimkit.report.study_table import study_table
from slimkit.results import Arm, Search, study_file
from slimkit.results.comparison import BETTER, ONE, SAME, WORSE, difference, student
from slimkit.runs import study as studying
from slimkit.runs.arms import ray_workers
from slimkit.runs.arms.arm import Assignment, train_arm
from slimkit.runs.arms.order import planned
from slimkit.runs.arms.workers import Here, Processes, WorkerDied
from slimkit.runs.folder.output import locked
from slimkit.settings import StudySpec, study_spec
from tests.clock import least_seconds
from tests.study_sample import SETTINGS, arm, dies_once

WHOLE = {name: value for name, value in SETTINGS.items() if name != "round_to"}  # of methods that remove no channel
CONTROL = {"method": "scratch", "control": "scratch-E"}
THREE = "lottery-ticket", "uniform", "dense"


def spec(*methods: str, **changes: Any) -> StudySpec:
    """A study of seconds."""
    return study_spec({**SETTINGS, "methods": methods, "seeds": 1, "ratio": [0.5], **changes})


def without_times(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    return [{name: value for name, value in one.to_dict().items() if name != "clock"} for one in arms]


# What is planned ------------------------------------------------------------------------------------------------


def test_arms_are_methods_and_controls_times_budgets_times_seeds() -> None:
    runs = planned(spec("early-bird", "uniform", "dense", ratio=[0.3, 0.5], seeds=2))
    of_seed = [(name, f"ratio {r}") for name in ("early-bird", "uniform") for r in (0.3, 0.5)] + [("dense", "")]
    assert [run.key for run in runs] == [(*key, seed) for seed in (0, 1) for key in of_seed]
    assert [run.waits for run in runs if run.arm == "uniform"] == [run.key for run in runs if run.arm == "early-bird"]
    shared = {"arch", "data", "epochs", "batch_size", "round_to", "precision", "device"}
    assert len({json.dumps({name: run.settings[name] for name in sorted(shared)}) for run in runs}) == 1


def test_scratch_is_all_of_its_controls() -> None:
    assert {run.arm for run in planned(spec("early-bird", "scratch"))} == {"early-bird", *scratch.CONTROLS}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ["early-bird"], "max_macs": [0.5]}, "one kind of budget"),
        ({"methods": ["early-birds"]}, "no such method or control"),
        ({"methods": []}, "needs arms"),
        ({"methods": ["early-bird"], "arch": ""}, "arch is not set"),
        ({"methods": ["early-bird"], "seeds": 0}, "seeds is 0"),
        ({"methods": ["early-bird"], "ratio": [0.5, 1.5]}, r"ratio is 1.5: it must be in \[0, 1\)"),
        ({"methods": ["early-bird"], "ratios": [0.5]}, "no such setting"),
        ({"methods": ["early-bird"], "method": "scratch"}, "has an axis for it"),
        ({"methods": ["early-bird"], "like": "dense"}, "no arm of this study that finds widths"),
        ({"methods": ["early-bird", "factorised"]}, "'factorised' removes no channels, so it cannot share a budget"),
        ({"methods": ["weight-ticket"]}, r"removes no channels, so it cannot share .*ratio = 0.5"),
        ({"methods": ["scratch-B-strict"]}, "no arm to take it from"),
        ({"arm": {"long": {"epochs": 9}}}, "arm 'long' sets epochs = 9: arms that are compared share it"),
        ({"arm": {"other": {"max_macs": 0.1}}}, "arm 'other' sets max_macs = 0.1"),
        ({"arm": {"seeded": {"seed": 7}}}, "arm 'seeded' sets seed = 7"),
        *[
            ({"arm": {"other": {name: value}}}, f"arm 'other' sets {name} = .* share it")
            for name, value in {
                "input_shape": "1,8,8",
                "resize": 8,
                "crop": 0.3,
                "mean": [0.5],
                "std": [0.5],
                "allow_bad": 0.1,
            }.items()
        ],
        ({"arm": {"early-bird": {}}, "methods": ["early-bird"]}, "is among the methods too"),
        ({"arm": {"x": 3}}, "it must be a table of settings"),
        ({"arm": {"x": {"method": "network-slimming", "passes": 0}}}, "passes is 0"),
        ({"ratio": [], "arm": {"x": {"method": "weight-ticket", "rounds": 0}}}, "rounds is 0"),
        ({"ratio": [], "arm": {"x": {"method": "edge-popup", "density": 1.5}}}, "density is 1.5"),
        ({"ratio": [], "arm": {"x": {"method": "factorised", "rank_share": 0.0}}}, "rank_share is 0"),
        ({"arm": {"x": {"keeps": 3}}}, "'keeps' in arm 'x'"),
        (
            {"methods": ["early-bird"], "keep": ["fc"], "arm": {"x": {**CONTROL, "ranking": "taylor"}}},
            "arm 'x': ranking is 'taylor': kept says what is left",
        ),
        ({"methods": ["uniform"], "equal_cost": True}, "equal_cost is true: the study has no arm"),
        (
            {"methods": ["early-bird"], "arm": {"x": {"rewind_step": "reference"}}},
            "rewind_step is 'reference', which",
        ),
        (
            {"methods": ["early-bird"], "arm": {"x": {**CONTROL, "control": "uniform", "worth": "reference"}}},
            "worth is 1.0 and control is 'uniform'",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        planned(study_spec({**(SETTINGS if changes.get("ratio", True) else WHOLE), "ratio": [0.5], **changes}))


def test_methods_that_remove_nothing_share_no_budget_and_need_none() -> None:
    runs = planned(study_spec({**WHOLE, "methods": ["weight-ticket", "factorised", "dense"], "seeds": 1}))
    assert [run.budget for run in runs] == ["", "", ""]


def test_widths_that_an_arm_has_of_its_own_stay() -> None:
    given = {"mine": {"kept": [1, 2]}, "its": {"like": "x"}}
    own = {name: {**CONTROL, **widths, "spend": "reference"} for name, widths in given.items()}
    runs = {run.arm: run for run in planned(spec("early-bird", arm=own))}
    reference = arm("early-bird", 900, widths=(3, 5))
    found = {name: run.resolved({reference.key: reference}) for name, run in runs.items()}
    assert (found["mine"]["kept"], found["mine"]["spend"]) == ([1, 2], 0.5)
    assert "kept" not in found["its"] and found["its"]["spend"] == 0.5


def test_controls_take_widths_and_cost_of_the_reference() -> None:
    runs = planned(spec("early-bird", "uniform", "scratch-B-strict", equal_cost=True))
    reference = arm("early-bird", 900, widths=(3, 5))
    found = {reference.key: reference}
    by_name = {run.arm: run.resolved(found) for run in runs}
    assert (by_name["uniform"]["kept"], by_name["uniform"]["spend"]) == ([3, 5], 0.5)
    assert (by_name["scratch-B-strict"]["kept"], by_name["scratch-B-strict"]["worth"]) == ([3, 5], 0.5)
    assert "kept" not in by_name["early-bird"]


# What is trained --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> studying.Study:
    """A finished study of three arms, trained in this process."""
    folder = tmp_path_factory.mktemp("study") / "small"
    return studying.study(spec(*THREE, seeds=2), folder, workers=0)


def test_fewer_images_are_the_first_ones_unless_those_lack_a_class() -> None:
    images, mixed = torch.randint(0, 255, (300, 1, 8, 8), dtype=torch.uint8), torch.arange(300) % 3
    made = data.as_dataset(((images, mixed), (images, mixed)))
    [(first, _)] = data.smaller(made, images=100).train.normalised((0.0,), (1.0,)).batches(100)
    torch.testing.assert_close(first, images[:100] / 255)
    in_order = data.as_dataset(((images, mixed.sort().values), (images, mixed)))
    once, again = (data.smaller(in_order, images=100).train for _ in range(2))
    [(one, labels)], [(other, _)] = once.batches(100), again.batches(100)
    assert labels.unique().tolist() == [0, 1, 2] and torch.equal(one, other)


def test_every_arm_is_a_line_that_reads_back(small: studying.Study) -> None:
    arms, dropped = study_file.read(small.folder)
    assert tuple(arms) == small.arms
    assert dropped == ""
    assert [one.key for one in arms] == [run.key for run in planned(spec(*THREE, seeds=2))]
    for one in arms:
        assert one.test.right == round(one.test.value * one.test.images)
        assert one.settings["epochs"] == 1
    by = {one.arm: one for one in arms}
    assert by["dense"].spent.dense_trainings == pytest.approx(1)
    assert by["dense"].macs == by["dense"].dense_macs
    assert by["lottery-ticket"].spent.search == pytest.approx(1)
    assert by["uniform"].macs <= by["lottery-ticket"].macs
    assert by["uniform"].spent.dense_trainings == pytest.approx(by["uniform"].macs / by["dense"].macs, rel=0.05)


@pytest.mark.long
def test_two_workers_write_what_one_writes(tmp_path: Path) -> None:
    asked = spec("lottery-ticket", "uniform", seeds=2)
    files = []
    for workers in (1, 2):
        studying.study(asked, tmp_path / str(workers), workers=workers)
        files.append(without_times(study_file.read(tmp_path / str(workers))[0]))
    assert files[0] == files[1]
    assert len(files[0]) == 4


class Everything:
    """A counter of the whole machine."""

    name = "a machine"

    def joules(self) -> float:
        return 1e6


@pytest.mark.parametrize("alone", [True, False])
def test_an_arm_beside_others_does_not_count_what_the_machine_takes(
    alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimkit.measure.stages.processor_meters", lambda: [Everything()])
    monkeypatch.setattr("slimkit.measure.stages.read_along", lambda meters: contextlib.nullcontext())
    [run] = planned(spec("dense"))
    one = Arm.from_dict(train_arm(Assignment(run.arm, run.budget, run.resolved({}), 200, 8, False, alone=alone)))
    assert (one.clock.energy_by.startswith("measured"), one.clock.energy_kj == 1e3) == (alone, alone)
    assert (Here(train_arm).alone, Processes(1, train_arm).alone, Processes(2, train_arm).alone) == (True, True, False)


def test_a_killed_study_goes_on_and_trains_nothing_twice(
    small: studying.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (small.folder / study_file.NAME).read_text().splitlines(keepends=True)
    (tmp_path / study_file.NAME).write_text("".join(lines[:4]) + lines[4][: len(lines[4]) // 2])
    trained = []

    def counted(work: Any) -> dict[str, Any]:
        trained.append((work.arm, work.settings["seed"]))
        return train_arm(work)

    monkeypatch.setattr(studying, "train_arm", counted)
    again = studying.study(spec(*THREE, seeds=2), tmp_path, resume=True, workers=0)
    assert trained == [("uniform", 1), ("dense", 1)]
    assert "half written" in again.notes[0]
    assert without_times(again.arms) == without_times(small.arms)


def test_more_seeds_are_added_to_a_study_that_is_there(small: studying.Study, tmp_path: Path) -> None:
    study_file.write(tmp_path / study_file.NAME, [one for one in small.arms if one.seed == 0])
    asked = {**SETTINGS, "methods": THREE, "ratio": [0.5], "seeds": 2}
    again = slimkit.study(asked, tmp_path, resume=True, workers=0)
    assert without_times(again.arms) == without_times(small.arms)


def test_a_study_of_a_version_that_knew_fewer_settings_goes_on(small: studying.Study, tmp_path: Path) -> None:
    fewer = [
        replace(one, settings={name: value for name, value in one.settings.items() if name != "schedule"})
        for one in small.arms
    ]
    study_file.write(tmp_path / study_file.NAME, fewer)
    studying.study(spec(*THREE, seeds=2), tmp_path, resume=True, workers=0)
    with pytest.raises(OutputError, match="its schedule is 'cosine', not 'step'"):
        studying.study(spec(*THREE, seeds=2, schedule="step"), tmp_path, resume=True, workers=0)


def test_the_precision_of_a_search_is_the_same_by_either_name(tmp_path: Path) -> None:
    asked = spec(arm={"drawn": {"method": "early-bird", "at": 1, "l1": 0.0}}, precision="fp32")
    study = studying.study(asked, tmp_path, workers=0)
    named = [replace(one, settings={**one.settings, "search_precision": "fp32"}) for one in study.arms]
    assert named != list(study.arms)
    study_file.write(tmp_path / study_file.NAME, named)
    assert list(studying.study(asked, tmp_path, resume=True, workers=0).arms) == named


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 2}, "its epochs is 1, not 2"),
        ({"images": 200}, "it was trained on digits, 256 training images of 8 x 8, not on digits, 200 training images"),
        ({"pixels": 4}, "not on digits, 256 training images of 4 x 4"),
        ({"ratio": [0.3]}, "has no such arm"),
        ({"seeds": 1}, "has no such arm"),
    ],
)
def test_another_study_does_not_go_on_in_the_folder(
    small: studying.Study, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    before = (small.folder / study_file.NAME).read_bytes()
    (tmp_path / study_file.NAME).write_bytes(before)
    asked = spec(*THREE, **{"seeds": 2, **changes})
    with pytest.raises(OutputError, match=words):
        studying.study(asked, tmp_path, resume=True, workers=0)
    assert (tmp_path / study_file.NAME).read_bytes() == before


def test_a_reference_that_has_moved_is_named(small: studying.Study, tmp_path: Path) -> None:
    """Arms that are there took widths of another one, which is there too."""
    (tmp_path / study_file.NAME).write_bytes((small.folder / study_file.NAME).read_bytes())
    with pytest.raises(OutputError, match="takes widths or cost of early-bird, of which no arm is here; `like` names"):
        studying.study(spec("early-bird", *THREE, seeds=2), tmp_path, resume=True, workers=0)


CHANGING = """
import os, torch
from torch import nn

def make(num_classes=3):
    width = 4 + int(os.environ.get("WIDER", 0))
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 3),
                         nn.ReLU(), nn.Flatten(), nn.Linear(64, num_classes))

def part(seed):
    random = torch.Generator().manual_seed(seed + int(os.environ.get("OTHER", 0)))
    return torch.randn(32, 1, 8, 8, generator=random), torch.arange(32) % 3

def data(seed): return {"train": part(seed), "validation": part(seed + 1), "test": part(seed + 2)}
"""


@pytest.mark.parametrize(("variable", "words"), [("OTHER", "inputs or targets are others"), ("WIDER", "dense network")])
def test_data_and_code_that_have_changed_are_not_mixed_into_a_study(
    variable: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "changing.py", tmp_path / "out"
    file.write_text(CHANGING)
    names = {name: value for name, value in WHOLE.items() if name != "images"}
    asked = {**names, "arch": f"{file}:make", "data": f"{file}:data", "methods": ["dense"]}
    first = studying.study({**asked, "seeds": 1}, out, workers=0)
    again = studying.study({**asked, "seeds": 2}, out, workers=0, resume=True)
    assert again.arms[0] == first.arms[0] and len({one.data_digest for one in again.arms}) == 2
    monkeypatch.setenv(variable, "7")
    with pytest.raises(OutputError, match=words):
        studying.study({**asked, "seeds": 3}, out, workers=0, resume=True)
    monkeypatch.delenv(variable)
    study_file.write(out / study_file.NAME, [replace(one, data_digest=None) for one in again.arms])  # as earlier ones
    assert len(studying.study({**asked, "seeds": 3}, out, workers=0, resume=True).arms) == 3


def test_a_folder_that_is_there_or_taken_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, words in (("mine", "exists already"), ("file", "it is a file"), ("file/under", "cannot be made")):
        with pytest.raises(OutputError, match=words):
            studying.study(spec("dense"), tmp_path / name, workers=0)
    with locked(tmp_path / "busy"), pytest.raises(OutputError, match="another run writes there"):
        studying.study(spec("dense"), tmp_path / "busy", workers=0)
    assert sorted(path.name for path in tmp_path.rglob("*") if not path.name.startswith(".")) == [
        "file",
        "mine",
        "thesis.tex",
    ]


def test_a_folder_without_a_study_is_no_study_to_go_on_with(tmp_path: Path) -> None:
    (tmp_path / "study.html").write_text("mine")
    with pytest.raises(OutputError, match=r"there is no study\.jsonl in it"):
        studying.study(spec("dense"), tmp_path, resume=True, workers=0)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("study.html", "mine")]


def test_a_line_that_is_no_arm_is_refused_with_its_number(tmp_path: Path) -> None:
    file = tmp_path / study_file.NAME
    for second, words in (("{}", "line 2: schema: it is missing"), ("nonsense", "line 2: it is not valid JSON")):
        file.write_text(study_file.line(arm("uniform", 900)) + second + "\n" + study_file.line(arm("dense", 900)))
        with pytest.raises(RecordError, match=words):
            study_file.read(tmp_path)


@given(name=st.text(st.characters(codec="utf-8"), min_size=1))
def test_an_arm_of_any_name_is_one_line_that_reads_back(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    arms, folder = [arm(name, 900), arm(f"{name}\u2028\x85\x1c\r\n2", 901)], tmp_path_factory.mktemp("names")
    study_file.write(folder / study_file.NAME, arms)
    assert study_file.read(folder) == (arms, "")


def test_a_long_study_is_read_in_time(tmp_path: Path) -> None:
    one = study_file.line(arm("uniform", 900))
    lines = [one.replace('"seed": 0', f'"seed": {seed}', 1) for seed in range(12_000)]
    (tmp_path / study_file.NAME).write_text("".join(lines))
    gc.freeze()  # what the tests before this one left behind is not gone through at each collection
    try:
        alone = least_seconds(lambda: [Arm.from_dict(json.loads(line)) for line in lines], 0)
        whole = least_seconds(lambda: study_file.read(tmp_path), 4 * alone)
    finally:
        gc.unfreeze()
    assert whole < 4 * alone
    assert study_file.read(tmp_path)[0] == [Arm.from_dict(json.loads(line)) for line in lines]


def test_an_arm_that_is_there_twice_is_no_second_seed(tmp_path: Path) -> None:
    lines = [study_file.line(arm("uniform", right)) for right in (900, 901)]
    (tmp_path / study_file.NAME).write_text("".join(lines))
    with pytest.raises(RecordError, match=r"uniform ratio 0\.5 0 is there twice"):
        study_file.read(tmp_path)


def test_an_arm_that_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(work: Any) -> dict[str, Any]:
        if work.arm == "lottery-ticket" and work.settings["seed"] == 1:
            raise TrainingError("the loss is not finite.\n  Lower the learning rate")
        return arm(work.arm, 900, work.settings["seed"], budget=work.budget, widths=(1, 2)).to_dict()

    monkeypatch.setattr(studying, "train_arm", train)
    with pytest.raises(TrainingError, match="(?s)2 arms .*lottery-ticket ratio 0.5 1: the loss.*Lower .*resume=True"):
        studying.study(spec(*THREE, seeds=2), tmp_path / "out", workers=0)
    arms, _ = study_file.read(tmp_path / "out")
    assert [(one.arm, one.seed) for one in arms] == [
        ("lottery-ticket", 0),
        ("uniform", 0),
        ("dense", 0),
        ("dense", 1),
    ]
    assert (tmp_path / "out" / "study.html").exists()


@pytest.mark.parametrize("function", ["append", "write"])
def test_a_full_disk_is_one_message_and_what_was_finished_is_kept(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    done = arm("dense", 900, budget="")
    monkeypatch.setattr(studying, "train_arm", lambda work: replace(done, seed=work.settings["seed"]).to_dict())
    monkeypatch.setattr(study_file, function, full)
    words = ["study", "--arch", SETTINGS["arch"], "--data", "digits", "--images", "256", "--methods", "dense"]
    assert main([*words, "--seeds", "1", "--workers", "0", "--out", str(tmp_path / "out")]) == 2
    assert (
        "the disk is full; what was finished is kept.\n  Free some space, and go on: --resume"
        in capsys.readouterr().err
    )
    assert (tmp_path / "out" / study_file.NAME).exists() == (function == "write")


class Dying(Here):
    """Workers of which the first few die."""

    deaths = 0

    def finished(self) -> list[tuple[Any, Any]]:
        done = super().finished()
        if self.deaths:
            Dying.deaths -= 1
            return [(name, WorkerDied("died")) for name, _ in done]
        return done


@pytest.mark.parametrize(("deaths", "lost"), [(4, False), (5, True)])  # two arms, in turns
def test_a_worker_that_dies_costs_its_arm_which_is_tried_again(
    deaths: int, lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        studying, "train_arm", lambda work: arm(work.arm, 900, work.settings["seed"], budget="").to_dict()
    )
    monkeypatch.setattr(studying, "Here", Dying)
    Dying.deaths = deaths
    if lost:
        with pytest.raises(TrainingError, match="1 arm of the study did not finish"):
            studying.study(spec("dense", seeds=2), tmp_path / "out", workers=0)
    else:
        assert len(studying.study(spec("dense", seeds=2), tmp_path / "out", workers=0).arms) == 2


def test_a_process_that_is_killed_is_replaced(tmp_path: Path) -> None:
    workers = Processes(1, dies_once)
    try:
        workers.begin("first", str(tmp_path / "flag"))
        [(name, died)] = workers.finished()
        assert (name, type(died)) == ("first", WorkerDied)
        workers.begin("again", str(tmp_path / "flag"))
        assert workers.finished() == [("again", "done")]
    finally:
        workers.close()


def test_no_more_processes_are_started_than_there_is_work_for(tmp_path: Path) -> None:
    before = len(multiprocessing.active_children())
    workers = Processes(3, dies_once)
    try:
        (tmp_path / "flag").touch()
        for name in ("first", "second"):  # one after the other: the process that is there does both
            assert workers.free == 3
            workers.begin(name, str(tmp_path / "flag"))
            assert (workers.free, len(multiprocessing.active_children()) - before) == (2, 1)
            assert workers.finished() == [(name, "done")]
    finally:
        workers.close()


def test_a_fault_of_ours_is_not_taken_for_the_users() -> None:
    [(_, found)] = _once(Here(train_arm))  # which is given no assignment
    assert isinstance(found, RuntimeError)
    assert "AttributeError: 'str' object has no attribute" in str(found)


def _once(workers: Here) -> list[tuple[Any, Any]]:
    workers.begin("only", "here")
    return workers.finished()


# What is told -----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=8))
@settings(max_examples=60)
def test_intervals_are_those_of_a_paired_t_test(pairs: list[tuple[int, int]]) -> None:
    mine = [arm("early-bird", a, seed) for seed, (a, _) in enumerate(pairs)]
    theirs = [arm("uniform", b, seed) for seed, (_, b) in enumerate(pairs)]
    found = difference(mine, theirs)
    assert found is not None and found.mean.interval is not None
    if statistics.stdev(a - b for a, b in pairs) > 1:  # else a spread of one image is assumed
        expected = ttest_rel([a / 1000 for a, _ in pairs], [b / 1000 for _, b in pairs]).confidence_interval(0.95)
        assert found.mean.interval == pytest.approx((expected.low, expected.high), abs=1e-9)
    low, high = found.mean.interval
    assert found.verdict == (SAME if low <= 0 <= high else BETTER if low > 0 else WORSE)


def test_as_many_more_seeds_as_are_said_would_tell() -> None:
    mine = [arm("early-bird", right, seed) for seed, right in enumerate((905, 915, 903))]
    theirs = [arm("uniform", right, seed) for seed, right in enumerate((900, 905, 905))]
    found = difference(mine, theirs)
    assert found is not None and found.verdict == SAME and found.more is not None
    spread = math.sqrt(sum((d - 13 / 3) ** 2 for d in (5, 10, -2)) / 2)
    for count, told in ((3 + found.more, True), (2 + found.more, False)):
        # values of that mean and spread: half of them above, half below, and one in the middle where they are odd
        half = count // 2
        off = spread * math.sqrt((count - 1) / (2 * half))
        values = [13 / 3 + off] * half + [13 / 3 - off] * half + [13 / 3] * (count % 2)
        interval = student(values).interval
        assert interval is not None and (interval[0] > 0) is told


def test_one_seed_tells_nothing_and_equal_arms_never_differ() -> None:
    one = difference([arm("early-bird", 950)], [arm("uniform", 100)])
    assert one is not None and one.verdict == ONE and one.more is None
    same = [arm("early-bird", 900, seed) for seed in range(3)]
    found = difference(same, [replace(each, arm="uniform") for each in same])
    assert found is not None and (found.verdict, found.more) == (SAME, None)


@pytest.mark.parametrize(("better", "where"), [("higher", "Up"), ("lower", "Down")])
def test_the_page_says_where_the_best_are(better: str, where: str) -> None:
    arms = [arm(name, 900, seed, better=better) for name in ("early-bird", "uniform") for seed in range(2)]
    assert f"{where} and to the left is better" in study_page(arms)


def test_where_less_is_better_lower_wins() -> None:
    errors = [arm("early-bird", 100 + seed, seed, better="lower") for seed in range(3)]
    others = [arm("uniform", 200 + 2 * seed, seed, better="lower") for seed in range(3)]
    found = difference(errors, others)
    assert found is not None and found.verdict == BETTER


def by_lot(job: Job, config: Any) -> Found:
    """A method that draws its channels by lot, by other seeds than the control does."""
    first = train(job, job.dense)
    widths = scratch.reference(job, scratch.ScratchConfig())
    mask = scratch.random_channels(job.graph, widths, job.recipe.seed + 1000)
    made = cut(job, first.model, job.graph, lambda *_: mask)
    last = train(job, made.model)
    legs = leg(job.macs(), first.phases, search=True), leg(job.macs(mask), last.phases, search=False)
    search = Search(method="lottery-ticket", history=history((first, last)))
    return Found(named(last.model, made.model), (first, last), legs, search, made)


@pytest.mark.long
def test_a_fake_method_that_is_random_is_not_reported_as_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = replace(METHODS["lottery-ticket"], run=by_lot, needs=lambda job, config: None)
    monkeypatch.setitem(METHODS, "lottery-ticket", fake)
    asked = spec("lottery-ticket", "random-channels", seeds=4, images=600, epochs=6)
    found = studying.study(asked, tmp_path / "out", workers=0)
    assert len({one.test.value for one in found.arms}) > 4  # they are not one training under two names
    assert (
        "No arm is better than random-channels at 4 seeds (0 better, 0 worse, 1 without" in said_of(found.arms).sentence
    )
    assert SAME in (tmp_path / "out" / "study.html").read_text()


def test_controls_that_are_better_are_said_beside_the_methods() -> None:
    def study(*arms: tuple[str, int]) -> list[Arm]:
        return [arm(name, right + seed, seed) for name, right in arms for seed in range(3)]

    none = said_of(study(("early-bird", 500), ("uniform", 500), ("uniform-params", 800))).sentence
    assert none == (
        "No method is better than uniform at 3 seeds (0 better, 0 worse, 1 without a difference); of the controls, "
        "better is uniform-params at ratio 0.5 by 30.0 points."
    )
    one = said_of(study(("early-bird", 700), ("uniform", 500), ("uniform-params", 600))).sentence
    assert one.startswith("Better than uniform: early-bird at ratio 0.5 by 20.0 points (1 better, 0 worse, 0 without")
    assert one.endswith("of the controls, better is uniform-params at ratio 0.5 by 10.0 points.")
    alone = said_of(study(("uniform", 500), ("uniform-params", 800))).sentence
    assert alone.startswith("Better than uniform: uniform-params at ratio 0.5 by 30")


def test_arms_that_are_one_network_under_two_names_are_told(tmp_path: Path) -> None:
    named = {"small": {**CONTROL, "control": "scratch-E"}, "again": {**CONTROL, "control": "uniform"}}
    found = studying.study(spec("lottery-ticket", arm=named), tmp_path, workers=0)
    told = "small and again are the same network at ratio 0.5: widths and results are equal for every seed; with scope"
    assert len(found.arms) == 3 and any(note.startswith(told) for note in said_of(found.arms).notes)
    other = [replace(one, widths=(3, *one.widths[1:])) if one.arm == "again" else one for one in found.arms]
    assert not any("same network" in note for note in said_of(other).notes)


@pytest.mark.parametrize(
    ("seeds", "said", "over"),
    [
        ({"early-bird": 3, "uniform": 1}, "One seed in common: nothing can be told between these arms.", ""),
        ({"early-bird": 1, "uniform": 1}, "One seed: nothing can be told between these arms.", ""),
        ({"early-bird": 5, "uniform": 2}, "No arm is better than uniform at 2 seeds (0 better", "over 2 seeds;"),
        (
            {"early-bird": 2, "progressive": 4, "uniform": 5},
            "No arm is better than uniform at 2 to 4 seeds",
            "over 2 to 4 seeds",
        ),
    ],
)
def test_a_study_counts_the_seeds_that_arms_have_in_common(seeds: dict[str, int], said: str, over: str) -> None:
    verdict = said_of([arm(name, 500, seed) for name, count in seeds.items() for seed in range(count)])
    assert verdict.sentence.startswith(said)
    assert over in " ".join(verdict.notes)


# What is shown ----------------------------------------------------------------------------------------------------


def test_the_page_is_made_of_the_lines_alone_and_shows_their_numbers(small: studying.Study, tmp_path: Path) -> None:
    written = (small.folder / "study.html").read_text()
    arms, _ = study_file.read(small.folder)
    assert study_page(arms) == written
    (tmp_path / study_file.NAME).write_bytes((small.folder / study_file.NAME).read_bytes())
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "study.html").read_text() == written
    data = {"arms": [one.to_dict() for one in arms]}
    shown = re.findall(r'data-path="([^"]+)" data-value="([^"]+)"', written)
    assert len(shown) >= 5 * len(arms)
    for path, value in shown:
        place: Any = data
        for step in path.split("/"):
            place = place[int(step)] if isinstance(place, list) else place[step]
        assert float(value) == place
    assert written.count('id="figure-') == 3  # no latency was measured


def test_no_interval_is_shown_that_an_accuracy_cannot_reach() -> None:
    arms = [arm(name, right, seed) for name, pair in (("early-bird", (0, 990)), ("uniform", (990, 0)))
            for seed, right in enumerate(pair)]  # fmt: skip
    page, console = study_page(arms), Console(width=200, record=True, file=io.StringIO())
    console.print(study_table(arms))
    for shown in (page, console.export_text()):
        assert "0.0 – 100.0 %" in shown and "−100.0 to +100.0 points" in shown
        assert not re.search(r"−\d+\.\d – |\d{4}\.\d|[2-9]\d\d\.\d (%|points)", shown)


def test_a_study_of_other_numbers_has_another_page(small: studying.Study) -> None:
    other = [replace(one, test=replace(one.test, value=0.5)) for one in small.arms]
    assert study_page(other) != study_page(small.arms)


def test_what_was_never_measured_is_not_drawn_and_one_arm_has_a_page() -> None:
    assert "One seed: nothing can be told" in study_page([arm("dense", 900)])


# The command ------------------------------------------------------------------------------------------------------


def test_the_command_reads_a_file_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "narrow.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in SETTINGS.items()]
    file.write_text("\n".join([*lines, 'methods = ["uniform"]', "ratio = 0.3", "seeds = 3"]))
    words = ["study", str(file), "--seeds", "1", "--ratio", "0.4,0.5", "--methods", "uniform,dense", "--workers", "0"]
    assert main([*words, "--learning-rate", "0.05", "--out", str(tmp_path / "out"), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    keys = [(line["arm"], line["budget"], line["seed"]) for line in map(json.loads, lines)]
    assert keys == [("uniform", "ratio 0.4", 0), ("uniform", "ratio 0.5", 0), ("dense", "", 0)]
    assert {json.loads(line)["settings"]["learning_rate"] for line in lines} == {0.05}
    assert lines == (tmp_path / "out" / study_file.NAME).read_text().splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "early-birds"], "no such method or control"),
        (["--methods", "dense", "--workers", "many"], "workers is 'many'"),
        (["--methods", "dense", "--ratios", "0.5"], "'ratios'"),
        (["--methods", "dense", "--images", "100000"], "images is 100000: 'digits' has"),
        (["--methods", "dense", "--pixels", "3"], "images of 8 x 8 cannot be averaged down"),
        (["no-such.toml"], "no-such.toml: the settings file cannot be read"),
        (["--methods", "dense", "--out", "there"], "--resume"),
    ],
)
def test_what_the_user_can_mend_is_one_message_and_leaves_nothing(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    base = ["--arch", "zoo:resnet8", "--data", "digits", "--seeds", "1", "--epochs", "1", "--workers", "0"]
    assert main(["study", *base, *words]) == 2
    told = capsys.readouterr()
    assert said in told.err and "Traceback" not in told.err
    assert told.out == ""
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["there", "there/mine"]


def test_a_method_that_needs_batchnorm_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = "nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, num_classes)"
    code = f"from torch import nn\ndef make(num_classes=10):\n    return nn.Sequential({layers})\n"
    (tmp_path / "plain.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(studying, "train_arm", lambda work: pytest.fail("trained"))
    words = ["--arch", "plain.py:make", "--data", "digits", "--methods", "dense,early-bird", "--workers", "0"]
    assert main(["study", *words, "--out", "out"]) == 2
    assert "no channel that can be removed has a BatchNorm" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_that_names_code_is_not_run_unless_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.toml").write_text("""arch = "evil.py:make"\ndata = "digits"\nmethods = ["dense"]""")
    assert main(["study", str(tmp_path / "study.toml"), "--workers", "0", "--out", str(tmp_path / "out")]) == 2
    assert "runs code" in capsys.readouterr().err


# Ray --------------------------------------------------------------------------------------------------------------


def test_ray_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(EngineError, match=r"pip install 'slimkit\[ray\]'"),
        ray_workers.cluster("ray", train_arm, "cpu"),
    ):
        pytest.fail("there is no Ray")


def test_a_cluster_that_is_not_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable:
        def init(self, **settings: Any) -> None:
            raise ConnectionError("ray client\nconnection timeout")

    monkeypatch.setitem(sys.modules, "ray", Unreachable())
    with (
        pytest.raises(EngineError, match=r"no Ray cluster can be reached there \(ray client connection timeout\)"),
        ray_workers.cluster("ray://nowhere:10001", train_arm, "cpu"),
    ):
        pytest.fail("there is no cluster")
