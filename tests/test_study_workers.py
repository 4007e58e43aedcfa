"""Processes that train the arms of a study: they read data as any training does, and leave nobody behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from slimkit.errors import SpecError, TrainingError
from slimkit.hardware import take_accelerator
from slimkit.results import study_file
from slimkit.runs import study as studying
from slimkit.runs.arms.workers import Processes, WorkerDied
from tests.study_sample import SETTINGS, reads, tells_or_dies
from tests.test_study import without_times

ROOT = Path(__file__).parents[1]
DATA = """
import torch
from torch.utils.data import DataLoader, Dataset

class Noise(Dataset):
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, index): return torch.randn(1, 8, 8), index % 3

def items(seed): return {"train": Noise(64), "validation": Noise(16), "test": Noise(16)}
def loaders(seed):
    return {name: DataLoader(part, batch_size=16, num_workers=1) for name, part in items(seed).items()}
"""
BEGUN = """
import sys
from slimkit.runs.arms.workers import Processes
from tests.study_sample import reads

if __name__ == "__main__":
    workers = Processes(1, reads)
    try:
        workers.begin("only", sys.argv[1])
        workers.finished()
    finally:
        workers.close()
"""


@pytest.mark.long
@pytest.mark.parametrize("function", ["items", "loaders"])
def test_an_arm_may_read_its_data_by_processes(function: str, tmp_path: Path) -> None:
    (tmp_path / "d.py").write_text(DATA)
    left = {name: value for name, value in SETTINGS.items() if name != "images"}
    asked = {**left, "data": f"{tmp_path / 'd.py'}:{function}", "methods": ["uniform", "dense"], "seeds": 1}
    found = [studying.study(asked, tmp_path / workers, workers=workers).arms for workers in ("0", "1")]
    assert len(found[0]) == 2
    assert without_times(found[1]) == without_times(found[0])


OWN = """
import dataclasses
import torch
from slimkit.tasks import CLASSIFICATION

metric = CLASSIFICATION.metrics["accuracy"]

def data(seed):
    part = torch.randn(64, 1, 8, 8), torch.arange(64) % 4 if seed in (0, 3) else torch.full((64,), seed)
    return part, part, part

def rows(scores, targets):
    if (targets == 1).all():
        raise KeyError("my metric")
    return torch.full((len(targets),), float("nan")) if (targets == 2).all() else metric.per_image(scores, targets)

def task():
    own = dataclasses.replace(metric, per_image=rows)
    return dataclasses.replace(CLASSIFICATION, name="mine", metrics={"accuracy": own})
"""


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 1])
def test_code_of_the_users_own_that_fails_costs_its_arm_alone(workers: int, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    own = {name: f"{tmp_path / 'own.py'}:{name}" for name in ("data", "task")}
    asked = {**SETTINGS, **own, "images": None, "methods": ["dense"], "seeds": 4}
    with pytest.raises(TrainingError, match="2 arms of the study did not finish") as caught:
        studying.study(asked, tmp_path / "out", workers=workers)
    _, raised, judged, _ = str(caught.value).splitlines()
    assert raised.startswith("  dense 1: ")
    assert raised.endswith("own.py, line 14: your own code failed with KeyError: 'my metric'.")
    assert judged == "  dense 2: metric 'accuracy': it gave nan for a batch of 64."
    arms, _ = study_file.read(tmp_path / "out")
    assert [one.seed for one in arms] == [0, 3]


def test_workers_that_are_none_are_told_before_any_arm_is_prepared(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(SpecError, match="workers is '4x'"):
        studying.study(
            {**SETTINGS, "methods": ["dense"]},
            tmp_path / "out",
            workers="4x",
            progress=lambda what, share: said.append(what),
        )
    assert said == []


def test_readers_are_shared_out_of_the_cores_that_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert Processes(2, reads).readers == 2


def test_processes_that_are_ended_take_those_that_read_with_them(tmp_path: Path) -> None:
    workers = Processes(1, reads)
    workers.begin("only", str(tmp_path / "pids"))
    pids = numbers(tmp_path / "pids")
    workers.close()
    assert alive(pids) == []


@pytest.mark.long
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nobody_goes_on_working_for_a_process_that_is_gone(sent: int, tmp_path: Path) -> None:
    (tmp_path / "begun.py").write_text(BEGUN)
    command = [sys.executable, str(tmp_path / "begun.py"), str(tmp_path / "pids")]
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=paths, stderr=subprocess.DEVNULL) as process:
        pids = numbers(tmp_path / "pids")
        process.send_signal(sent)
    end = time.monotonic() + 60
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert alive(pids) == []


def numbers(place: Path) -> list[int]:
    """Wait until processes have left their numbers, all at once."""
    end = time.monotonic() + 60
    while not place.exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    return [int(word) for word in place.read_text().split()]


def alive(pids: list[int]) -> list[int]:
    """Return those that are there and no zombies."""
    stats = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    states = {pid: stat.read_text().rpartition(")")[2].split()[0] for pid, stat in stats.items() if stat.exists()}
    return [pid for pid, state in states.items() if state != "Z"]


def test_processes_share_out_the_accelerators_and_one_that_is_replaced_gives_its_own_on(tmp_path: Path) -> None:
    workers, flag = Processes(3, tells_or_dies), tmp_path / "flag"

    def together() -> list[str]:
        for name in ("a", "b", "c"):
            workers.begin(name, str(flag))
        flag.touch()
        found: list[str] = []
        while len(found) < 3:
            found += [process for _, (process, _) in workers.finished()]
        flag.unlink()
        return sorted(found)

    try:
        assert together() == ["arm-0", "arm-1", "arm-2"]
        for _ in range(2):
            workers.begin("dies", "")
            [(_, died)] = workers.finished()
            assert isinstance(died, WorkerDied)
        assert together() == ["arm-0", "arm-1", "arm-2"]
    finally:
        workers.close()


@pytest.mark.parametrize(("there", "taken"), [(0, []), (1, [0, 0, 0]), (2, [0, 1, 0])])
def test_the_accelerator_of_a_process_goes_by_its_place(
    there: int, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: there)
    monkeypatch.setattr(torch.accelerator, "set_device_index", set_to.append)
    for place in range(3):
        take_accelerator(place)
    assert set_to == taken
