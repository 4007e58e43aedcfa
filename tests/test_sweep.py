"""Several budgets in one command: traced, ranked and timed once, a folder each, and a page with the curve."""

import contextlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from slimkit import zoo
from slimkit.cli import main
from slimkit.errors import BudgetError, SpecError
from slimkit.results import SweepReport, report_file
from slimkit.runs import start
from slimkit.runs.cut import begun
from slimkit.runs.sweep import sweep_checkpoint
from slimkit.settings import CompressSpec
from slimkit.settings.command_line import gather_each
from slimkit.settings.output import OutputOptions

CHECKPOINT = str(zoo.CHECKPOINTS["resnet8-digits"])


def words(**given: str) -> dict[str, Any]:
    return {"config": None, "pairs": (), "engine": (), "trust_config": False, **given}


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"ratio": "0.3, 0.5"}, [0.3, 0.5]),
        ({"max_latency": "0.8,2.5ms"}, ["0.8", "2.5ms"]),
        ({"max_macs": "0.5"}, ["0.5"]),
        ({"max_drop": "1,2"}, [1.0, 2.0]),
        ({}, [0.5]),
    ],
)
def test_each_value_of_a_budget_is_a_run(given: dict[str, str], values: list[Any]) -> None:
    specs = gather_each(CompressSpec, words(epochs="2", **given))
    [name] = given or ["ratio"]
    assert [str(getattr(spec, name)) for spec in specs] == [str(value) for value in values]
    assert {spec.epochs for spec in specs} == {2}


@pytest.mark.parametrize(
    "given",
    [
        {"ratio": "0.5,0.50"},
        {"max_macs": "0.5,50%"},
        {"max_params": "1M,1000k"},
        {"max_drop": "1,1.0"},
        {"ratio": "0.3,"},
        {"ratio": "0.3,half"},
        {"max_macs": "1,-1"},
    ],
)
def test_a_value_that_cannot_be_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(SpecError):
        gather_each(CompressSpec, words(**given))


def test_a_sweep_shares_its_beginning_and_leaves_a_folder_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []
    for module, name in ((start, "trace_with"), (begun, "calibrate"), (begun, "ranked")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, real=real, name=name: calls.append(name) or real(*given))
    out = tmp_path / "out"
    asked = ["compress", CHECKPOINT, "--max-macs", "0.7,0.5,0.0001", "--no-recover", "--out", str(out)]
    assert main(asked) == 2  # the last is out of reach, the others are there
    said = capsys.readouterr().err
    assert "1 of 3 budgets are out of reach; max-macs-0.7, max-macs-0.5 are in" in said
    assert sorted(calls) == ["calibrate", "ranked", "trace_with"]
    first, second = (report_file.read(out / name) for name in ("max-macs-0.7", "max-macs-0.5"))
    assert second.after.macs <= 0.5 * first.before.macs < first.after.macs <= 0.7 * first.before.macs
    assert first.spec["max_macs"] == 0.7 and (out / "max-macs-0.5" / "model.onnx").exists()
    page = (out / "comparison.html").read_text()
    assert "max-macs-0.7" in page and "max-macs-0.5" in page
    assert sorted(path.name for path in out.iterdir()) == ["comparison.html", "max-macs-0.5", "max-macs-0.7"]

    assert main(asked) == 2 and "exists already" in capsys.readouterr().err
    (out / "comparison.html").write_text("mine")
    assert main([*asked, "--force"]) == 2 and "slimkit did not write it" in capsys.readouterr().err
    assert (out / "comparison.html").read_text() == "mine"


@pytest.mark.parametrize(("budgets", "reached"), [("0.7,0.6", 2), ("0.7,0.0001", 1), ("0.0002,0.0001", 0), ("0.6", 1)])
def test_a_page_compares_what_lies_beside_it(budgets: str, reached: int, tmp_path: Path) -> None:
    """A page of an earlier sweep goes with the first folder that is new; where none is, nothing has changed."""
    out = tmp_path / "out"
    out.mkdir()
    earlier = "<!doctype html><footer>Written by slimkit 0.1</footer>"
    (out / "comparison.html").write_text(earlier)
    specs = [CompressSpec(max_macs=value, recover=False, onnx=False) for value in budgets.split(",")]
    with contextlib.suppress(BudgetError):
        sweep_checkpoint(Path(CHECKPOINT), specs, OutputOptions(out=out, force=True))
    names = sorted(path.name for path in out.iterdir() if path.is_dir())
    page = (out / "comparison.html").read_text() if (out / "comparison.html").exists() else ""
    assert len(names) == reached
    assert page == earlier if not reached else all(name in page for name in names) if reached > 1 else not page


@pytest.mark.long
def test_a_sweep_is_printed_as_one_table_or_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["compress", CHECKPOINT, "--ratio", "0.5,0.3", "--no-recover", "--out", str(tmp_path / "out")]
    assert main([*asked, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    jsonschema.validate(printed, json.loads((Path(report_file.__file__).parent / "schemas" / "sweep.json").read_text()))
    found = SweepReport.from_dict(printed)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "all its numbers are in the report.json of each run" in page
    assert found.names == ("ratio-0.5", "ratio-0.3")
    assert [run.spec["ratio"] for run in found.runs] == [0.5, 0.3]
    (tmp_path / "out" / "ratio-0.3" / "mine.txt").write_text("kept")
    assert main([*asked, "--force"]) == 2 and "slimkit did not write" in capsys.readouterr().err
    assert (tmp_path / "out" / "ratio-0.3" / "mine.txt").read_text() == "kept"
    (tmp_path / "out" / "ratio-0.3" / "mine.txt").unlink()
    assert main([*asked, "--force"]) == 0
    said = capsys.readouterr().out
    assert "original" in said and "ratio-0.3" in said and "comparison.html" in said


@pytest.mark.long
def test_each_figure_of_a_sweep_has_its_own_interval(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--data", "digits", "--ratio", "0.5,0.3", "--epochs", "0", "--no-onnx", "--out", str(tmp_path / "out")]
    assert main(["compress", CHECKPOINT, *words]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = 0
    for figure, interval in zip(lines, lines[1:], strict=False):
        if interval[:3] == ["95", "%", "interval"]:
            values = [float(word) for word in figure if word.replace(".", "").isdigit()][-3:]  # original and two runs
            bounds = [float(word) for word in interval[3:] if word.replace(".", "").isdigit()]
            spans = list(zip(bounds[::2], bounds[1::2], strict=True))
            assert len(spans) == 3
            assert all(low <= value <= high for value, (low, high) in zip(values, spans, strict=True)), (figure, spans)
            shown += 1
    assert shown


def test_a_sweep_that_is_complete_is_told_before_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was traced, calibrated and ranked before; one that lacks a budget is so for that one alone."""
    asked = ["compress", CHECKPOINT, "--no-recover", "--out", str(tmp_path / "out"), "--json"]
    assert main([*asked, "--ratio", "0.5,0.3"]) == 0
    before = json.loads(capsys.readouterr().out)
    calls = []
    real = begun.ranked
    monkeypatch.setattr(begun, "ranked", lambda *given: calls.append("ranked") or real(*given))
    assert main([*asked, "--ratio", "0.5,0.3", "--resume"]) == 0
    assert json.loads(capsys.readouterr().out) == before and not calls
    assert main([*asked, "--ratio", "0.5,0.4,0.3", "--resume"]) == 0
    found = SweepReport.from_dict(json.loads(capsys.readouterr().out))
    assert found.names == ("ratio-0.5", "ratio-0.4", "ratio-0.3") and calls == ["ranked"]
    assert main([*asked, "--ratio", "0.5,0.2", "--seed", "3", "--resume"]) == 2
    assert "another run is complete there" in capsys.readouterr().err and calls == ["ranked"]
