"""Code of the user's own that raises or exits is told with its line; what is ours leaves as it is."""

import os
import signal
from pathlib import Path

import pytest
import torch

from slimkit import models
from slimkit.cli import main
from slimkit.data import as_dataset

NETWORK = str(Path(models.__file__).parents[2] / "model_zoo" / "resnet8-digits.safetensors")
CODE = """import os, signal, sys, torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from slimkit.tasks import Task
X, Y = torch.rand(32, 1, 8, 8), torch.arange(32) % 10
def good(): return (X, Y), (X, Y)
def raises(num_classes=10): raise KeyError("hm")
def exits(num_classes=10): sys.exit(0)
class Items(Dataset):
    def __len__(self): return 32
    def __getitem__(self, index):
        if index == 20: raise KeyError("item")
        return X[index], 1
def items(): return Items(), Items()
def workers(): return 2 * (DataLoader(Items(), batch_size=8, num_workers=1),)
class Loader:
    def __iter__(self):
        yield X, Y
        sys.exit(0)
def loader(): return Loader(), Loader()
def right(outputs, targets): return outputs.argmax(1) == targets
def bad(outputs, targets): raise ValueError("bad")
def leaves(outputs, targets): sys.exit(0)
def loss(): return Task.of(loss=bad, metrics={"right": right}, better="higher")
def metric(): return Task.of(loss=cross_entropy, metrics={"right": leaves}, better="higher")
def stopped(): os.kill(os.getpid(), signal.SIGTERM)
"""
CASES = [
    ("--data {}:raises", "data '{}:raises': calling it failed with KeyError: 'hm' ({}, line 7)"),
    ("--data {}:exits", "data '{}:exits': calling it failed with SystemExit: 0 ({}, line 8)"),
    ("--calibration {}:raises", "calibration '{}:raises': calling it failed with KeyError: 'hm' ({}, line 7)"),
    ("--data {}:good --task {}:raises", "task '{}:raises': calling it failed with KeyError: 'hm' ({}, line 7)"),
    ("--data {}:good --task {}:exits", "task '{}:exits': calling it failed with SystemExit: 0 ({}, line 8)"),
    ("--arch {}:raises", "--arch {}:raises: building it with () failed with KeyError: 'hm'"),
    ("--arch {}:exits", "--arch {}:exits: building it with () failed with SystemExit: 0"),
    ("--data {}:items", "{}, line 12: your own code failed with KeyError: 'item'"),
    ("--data {}:workers", "{}, line 12: your own code failed with KeyError: 'item'"),
    ("--data {}:loader", "{}, line 19: your own code failed with SystemExit: 0"),
    ("--data {}:good --task {}:loss", "{}, line 22: your own code failed with ValueError: bad"),
    ("--data {}:good --task {}:metric", "{}, line 23: your own code failed with SystemExit: 0"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "mine.py"
    made.write_text(CODE)
    return made


def compress(file: Path, words: str) -> int:
    """Run the command on a network with what comes of the file."""
    given = words.replace("{}", str(file)).split()
    network = NETWORK
    if "--arch" in words:
        network = str(file.with_name("weights.pt"))
        torch.save(models.load(NETWORK).model.state_dict(), network)
    more = ["--epochs", "1"] if "--data" in words else []
    return main(
        ["compress", network, "--ratio", "0.3", "--out", str(file.with_name("out")), *given, *more, "--no-onnx"]
    )


@pytest.mark.long
@pytest.mark.parametrize(("words", "said"), CASES)
def test_what_code_of_ones_own_raises_is_one_message(words: str, said: str, file: Path, capsys) -> None:
    assert compress(file, words) == 2
    assert said.replace("{}", str(file)) in capsys.readouterr().err


def test_a_file_that_exits_when_it_is_read_is_told(file: Path, capsys) -> None:
    file.write_text("import sys\nsys.exit(0)\n")
    assert compress(file, "--data {}:make") == 2
    assert f"running {file} failed with SystemExit: 0" in capsys.readouterr().err


def test_sigterm_is_no_fault_of_code_that_it_stops(file: Path, capsys) -> None:
    assert compress(file, "--data {}:stopped") == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "slimkit: terminated\n"


@pytest.mark.parametrize(
    ("rank", "most", "said"),
    [
        ("0", "0", "died.\n  Start all of them again, with --resume\n"),
        ("0", "3", "died.\n  The launcher starts all of them again\n"),
        ("1", "0", "slimkit: terminated\n"),
    ],
)
def test_the_first_process_that_a_launcher_ends_says_how_to_go_on(
    file: Path, capsys, monkeypatch: pytest.MonkeyPatch, rank: str, most: str, said: str
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": rank, "TORCHELASTIC_MAX_RESTARTS": most}.items():
        monkeypatch.setenv(name, value)
    assert compress(file, "--data {}:stopped") == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith(said)


def test_what_python_code_gives_raises_as_it_is(file: Path) -> None:
    class Loader:
        def __iter__(self):
            os.stat("there is no such file")

    with pytest.raises(FileNotFoundError):
        as_dataset((Loader(), Loader()))
