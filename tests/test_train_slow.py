"""The train command as a process: killed, interrupted, and as one of two."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
RUN = ["train", "--arch", "zoo:resnet8", "--data", "digits", "--ratio", "0.5", "--epochs", "6", "--draw", "epoch:2",
       "--precision", "fp32", "--device", "cpu", "--batch-size", "64", "--set", "round_to=1"]  # fmt: skip
ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
# Saves the state at every step, so that there is one whenever the run ends.
EAGER = (
    "from dataclasses import make_dataclass as make; from slimkit import training; "
    "training.Store = make('Eager', [('seconds', float, 0.0)], bases=(training.Store,), frozen=True); "
)
MAIN = "import sys; from slimkit.cli import main; sys.exit(main(sys.argv[1:]))"


def command(folder: Path, *more: str, eager: bool = False) -> list[str]:
    return [sys.executable, "-c", (EAGER if eager else "") + MAIN, *RUN, "--out", str(folder), *more]


def run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr


def until(condition: object, process: subprocess.Popen[bytes]) -> None:
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.02)


def same(a: Path, b: Path) -> None:
    one, two = (load_file(folder / "model.safetensors") for folder in (a, b))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    one_report, two_report = (json.loads((folder / "report.json").read_text()) for folder in (a, b))
    for part in ("search", "channels", "groups", "gammas", "after_cut", "proof"):
        assert one_report[part] == two_report[part]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_resumed(tmp_path: Path, number: int) -> None:
    run(command(tmp_path / "whole"))
    state = tmp_path / "out.state" / "state.bin"
    for wait in (0.0, 1.0) if number == signal.SIGKILL else (0.5,):
        began = state.stat().st_mtime_ns if state.exists() else 0
        resume = ["--resume"] if began else []
        with (tmp_path / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                command(tmp_path / "out", *resume, eager=True), env=ENVIRONMENT, stderr=stderr, stdout=stderr
            )
            until(lambda seen=began: state.exists() and state.stat().st_mtime_ns > seen, process)
            time.sleep(wait)
            process.send_signal(number)
            assert process.wait(120) == (130 if number == signal.SIGINT else -number)
        assert not (tmp_path / "out").exists()
        assert b"Traceback" not in (tmp_path / "stderr").read_bytes()
    run(command(tmp_path / "out", "--resume"))
    same(tmp_path / "whole", tmp_path / "out")
    assert not state.parent.exists()


def distributed(folder: Path, *more: str) -> list[str]:
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [sys.executable, *start, "-m", "slimkit", *RUN, "--out", str(folder), *more]


# At a low rate: at a high one differences of the last bit grow a thousandfold within three steps.
GROUP = ("--set", "penalty=group", "--set", "ranking=group-norm", "--set", "learning_rate=0.02")


@pytest.mark.parametrize("more", [(), GROUP])
def test_two_processes_do_what_one_does(tmp_path: Path, more: tuple[str, ...]) -> None:
    run(command(tmp_path / "one", *more))
    run(distributed(tmp_path / "two", *more))
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert [g["after"] for g in one["groups"]] == [g["after"] for g in two["groups"]]
    assert one["cost"]["training_macs"] == two["cost"]["training_macs"]
    first = zip(one["search"]["history"][:2], two["search"]["history"][:2], strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-3) for a, b in first)
    last = [report["search"]["history"][-1]["loss"] for report in (one, two)]
    assert last[0] == pytest.approx(last[1], rel=0.05, abs=0.02)  # float differences grow over 130 steps
    assert not list(tmp_path.glob("*.state")) and not list(tmp_path.glob(".*"))


def test_two_processes_agree_on_a_mask_though_each_measures_other_times(tmp_path: Path) -> None:
    arguments = distributed(tmp_path / "out")
    at = arguments.index("--ratio")
    arguments[at : at + 2] = ["--max-latency", "0.9"]
    run(arguments)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["budget"]["reached"] <= report["budget"]["target"] and report["channels"]["removed"] > 0
    arguments[arguments.index("0.9")] = "0.0001"
    arguments[arguments.index(str(tmp_path / "out"))] = str(tmp_path / "refused")
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0 and not (tmp_path / "refused").exists()
    assert "the smallest that the allowed widths reach is" in done.stderr


def test_a_dead_process_ends_the_run_and_resume_goes_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        distributed(tmp_path / "out", "--epochs", "40"), env=ENVIRONMENT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until((tmp_path / "out.state" / "state.bin").exists, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {Path(f"/proc/{child}/environ").read_bytes().split(b"\0RANK=")[1][:1]: int(child) for child in children}
    os.kill(ranks[b"1"], signal.SIGKILL)
    assert process.wait(300) != 0
    assert not (tmp_path / "out").exists()
    run(distributed(tmp_path / "out", "--epochs", "40", "--resume"))
    assert (tmp_path / "out" / "model.onnx").exists()
