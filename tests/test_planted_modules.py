"""Files in the current folder that are called as libraries are: they are run only where the user names them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from slimkit.export import export_onnx

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "script": [sys.executable, "-P", "-c", "import sys; from slimkit.cli import main; sys.exit(main())"],
    "module": [sys.executable, "-m", "slimkit"],
}
BESIDE = """
from torch import nn

def net(num_classes):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *head)
"""
STUDY = """
study --arch net.py:make --data digits --methods dense --seeds 1 --images 256 --workers 1
--set epochs=1 --set batch_size=64 --set latency=false
"""
PLANTED = ("onnxruntime", "numpy", "click", "multiprocessing", "pickle")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files that say so when they are run."""
    for name in PLANTED:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\nraise SystemExit")
    export_onnx(nn.Conv2d(1, 2, 1), tmp_path / "net.onnx", torch.zeros(1, 1, 4, 4))
    return tmp_path


def ran(folder: Path, *command: str) -> str:
    """Run a command there, which has to end well; say which planted files were run."""
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (folder / "ran").read_text() if (folder / "ran").exists() else ""


@pytest.mark.long
@pytest.mark.parametrize("how", COMMANDS)
def test_engines_are_not_taken_from_the_current_folder(how: str, folder: Path) -> None:
    assert ran(folder, *COMMANDS[how], "bench", "net.onnx") == ""


def test_slimkit_is_not_taken_from_the_current_folder(folder: Path) -> None:
    (folder / "slimkit").mkdir()
    (folder / "onnxruntime.py").rename(folder / "slimkit" / "__init__.py")
    assert ran(folder, *COMMANDS["script"], "bench", "net.onnx") == ""


@pytest.mark.long
def test_workers_take_nothing_from_the_current_folder_but_what_is_named(folder: Path) -> None:
    (folder / "net.py").write_text("import beside\n\ndef make(num_classes):\n    return beside.net(num_classes)\n")
    (folder / "beside.py").write_text(BESIDE)
    assert ran(folder, *COMMANDS["script"], *STUDY.split()) == ""
