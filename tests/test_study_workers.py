"""Processes that train the arms of a study: they read data as any training does, and leave nobody behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slimkit.runs import study as studying
from slimkit.runs.arms.workers import Processes
from tests.study_sample import SETTINGS, reads
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


@pytest.mark.parametrize("function", ["items", "loaders"])
def test_an_arm_may_read_its_data_by_processes(function: str, tmp_path: Path) -> None:
    (tmp_path / "d.py").write_text(DATA)
    left = {name: value for name, value in SETTINGS.items() if name != "images"}
    asked = {**left, "data": f"{tmp_path / 'd.py'}:{function}", "methods": ["uniform", "dense"], "seeds": 1}
    found = [studying.study(asked, tmp_path / workers, workers=workers).arms for workers in ("0", "1")]
    assert len(found[0]) == 2
    assert without_times(found[1]) == without_times(found[0])


def test_processes_that_are_ended_take_those_that_read_with_them(tmp_path: Path) -> None:
    workers = Processes(1, reads)
    workers.begin("only", str(tmp_path / "pids"))
    pids = numbers(tmp_path / "pids")
    workers.close()
    assert alive(pids) == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nobody_goes_on_working_for_a_process_that_is_gone(sent: int, tmp_path: Path) -> None:
    (tmp_path / "begun.py").write_text(BEGUN)
    command = [sys.executable, str(tmp_path / "begun.py"), str(tmp_path / "pids")]
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=paths, stderr=subprocess.DEVNULL) as process:
        pids = numbers(tmp_path / "pids")
        process.send_signal(sent)
    end = time.monotonic() + 20
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert alive(pids) == []


def numbers(place: Path) -> list[int]:
    """Wait until processes have left their numbers."""
    end = time.monotonic() + 60
    while not place.exists() or len(place.read_text().split()) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    return [int(word) for word in place.read_text().split()]


def alive(pids: list[int]) -> list[int]:
    """Return those that are there and no zombies."""
    stats = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    states = {pid: stat.read_text().rpartition(")")[2].split()[0] for pid, stat in stats.items() if stat.exists()}
    return [pid for pid, state in states.items() if state != "Z"]
