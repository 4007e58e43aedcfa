"""How a study times networks: as its settings say, and no setting of files is accepted and ignored."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from slimkit.errors import EngineError, OutputError, SpecError
from slimkit.report.sections.arms import comparison_of_arms
from slimkit.report.study_table import study_table
from slimkit.results import Arm, study_file
from slimkit.runs import study as studying
from slimkit.runs.arms import arm as arms
from slimkit.runs.arms.arm import Assignment, train_arm
from slimkit.runs.arms.order import planned
from slimkit.settings import study_spec
from tests.study_sample import CLOCK, SETTINGS, arm

TIMED = {**SETTINGS, "latency": True, "images": 200, "methods": "dense", "seeds": 1}
DENSE = {name: value for name, value in TIMED.items() if name != "round_to"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "_SECONDS", 0.01)


def trained(**settings: Any) -> Arm:
    [run] = planned(study_spec({**DENSE, **settings}))
    return Arm.from_dict(train_arm(Assignment(run.arm, run.budget, run.resolved({}), 200, None, True)))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_networks_are_timed_as_the_settings_say(runtime: str) -> None:
    pytest.importorskip(runtime)
    clock = trained(runtime=runtime, threads=2, batch=4).clock
    assert clock.engine is not None and clock.engine.startswith(runtime)
    assert (clock.threads, clock.batch) == (2, 4) and clock.latency_ms is not None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"int8": True}, "int8 is True: a study leaves no file of a network"),
        ({"opset": 17}, "opset is 17: a study leaves no file"),
        ({"fixed_batch": True}, "fixed_batch is True: a study"),
        ({"free_size": True}, "free_size is True: a study"),
        ({"embed_normalisation": True}, "embed_normalisation is True: a study"),
        ({"onnx": False}, "onnx is False: a study"),
        ({"arm": {"x": {"method": "factorised", "int8": True}}}, "int8 is True: a study"),
        ({"latency": False, "threads": 8}, "threads is 8: no latency is measured, since latency is False"),
        ({"latency": False, "batch": 8}, "batch is 8: no latency is measured"),
        ({"latency": False, "runtime": "openvino"}, "runtime is 'openvino': no latency is measured"),
        ({"arm": {"x": {"method": "factorised", "threads": 2}}}, "arm 'x' sets threads = 2: .* how they are timed"),
    ],
)
def test_settings_that_a_study_has_no_use_for_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        planned(study_spec({**DENSE, **settings}))
    planned(
        study_spec({**DENSE, "int8": False, "opset": 18, "onnx": True, "threads": 1})
    )  # as a settings file has them
    timing = {"x": {"method": "factorised", "only_faster": True}}
    planned(study_spec({**DENSE, "latency": False, "threads": 2, "arm": timing}))  # which times layers by them


def test_a_network_that_cannot_be_timed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise EngineError("there is no such operator.\n  Write it otherwise")

    monkeypatch.setattr(arms, "export_network", refuse)
    one = trained()
    assert (one.clock.latency_ms, one.clock.engine) == (None, None)
    assert one.notes == ("No latency: there is no such operator.",)


def test_lines_whose_times_are_not_what_they_say_are_not_mixed_with_others(tmp_path: Path) -> None:
    asked = {**DENSE, "threads": 2}
    [one] = studying.study(asked, tmp_path / "new", workers=0).arms
    assert studying.study(asked, tmp_path / "new", resume=True, workers=0).arms == (one,)
    (tmp_path / "old").mkdir()
    old = replace(one, clock=replace(one.clock, engine=None, threads=1))  # it was timed on one thread
    study_file.write(tmp_path / "old" / study_file.NAME, [old])
    with pytest.raises(OutputError, match="its latency is of threads 1, whatever its settings say"):
        studying.study(asked, tmp_path / "old", resume=True, workers=0)


@pytest.mark.parametrize(
    ("clock", "words"),
    [
        (CLOCK, "CPU time of an image"),
        (
            replace(CLOCK, engine="openvino 2", threads=4, batch=8),
            "fastest run on 4 threads of a batch of 8 in openvino 2",
        ),
    ],
)
def test_it_is_shown_how_networks_were_timed(clock: Any, words: str) -> None:
    both = [arm(name, 900, clock=clock) for name in ("early-bird", "uniform")]
    terminal = Console(width=200, file=io.StringIO(), record=True)
    terminal.print(study_table(both))
    assert f"Latency: {words}." in terminal.export_text()
    _, sections = comparison_of_arms(both)
    [drawn] = next(section for section in sections if section.name == "by-latency").parts
    assert f"latency, {words}" in str(drawn)
