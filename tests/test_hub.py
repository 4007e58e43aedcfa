"""Slim networks in repositories of the hub, offline: what is pushed lands in the hub's cache, and is pulled."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import slimkit
from slimkit import hub, zoo
from slimkit.cli import main
from slimkit.errors import CheckpointError, EngineError
from slimkit.report.card import card
from slimkit.results import Accuracy, report_file

CHECKPOINT = Path(zoo.__file__).parent / "resnet8-digits.safetensors"
COMMIT = "0" * 39 + "1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "slim"
    assert main(["compress", str(CHECKPOINT), "--data", "digits", "--epochs", "0", "--out", str(out)]) == 0
    return out


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a cache, into which what is pushed goes as if it had been fetched."""

    def place(repository: str) -> Path:
        return tmp_path / f"models--{repository.replace('/', '--')}"

    class Api:
        def create_repo(self, repository: str, private: bool, exist_ok: bool) -> None:
            assert private and exist_ok
            (place(repository) / "refs").mkdir(parents=True, exist_ok=True)
            (place(repository) / "refs" / "main").write_text(COMMIT)

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str, delete_patterns: list[str]) -> str:
            there = place(repo_id) / "snapshots" / COMMIT
            for name in delete_patterns:
                (there / name).unlink(missing_ok=True)
            shutil.copytree(folder_path, there, dirs_exist_ok=True)
            return f"hub:{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return tmp_path


def test_a_network_that_was_pushed_is_pulled_bit_by_bit(run: Path, cache: Path) -> None:
    assert hub.push(run, "me/slim-digits") == "hub:me/slim-digits"
    found = hub.pull("me/slim-digits", cache=cache, offline=True)
    with pytest.raises(CheckpointError, match="max_memory"):
        hub.pull("me/slim-digits", cache=cache, offline=True, max_memory="0.01MB")
    expected = slimkit.load(run / "model.safetensors")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    pushed = cache / "models--me--slim-digits" / "snapshots" / COMMIT
    assert {path.name for path in pushed.iterdir()} == {"model.safetensors", "model.onnx", "report.json", "README.md"}


def test_a_run_takes_the_place_of_an_earlier_one(run: Path, cache: Path, tmp_path: Path) -> None:
    hub.push(run, "me/twice")
    there = cache / "models--me--twice" / "snapshots" / COMMIT
    (there / "notes.txt").write_text("my own")
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 2, 3))
    slimkit.compress(net, torch.randn(1, 1, 8, 8), 0.5, out=tmp_path / "own", onnx=False)
    hub.push(tmp_path / "own", "me/twice")
    assert {path.name for path in there.iterdir()} == {"model.pt2", "report.json", "README.md", "notes.txt"}
    found = hub.pull("me/twice", cache=cache, offline=True)
    assert found(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 4, 4)


FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 3))
"""


def test_the_card_of_somebodys_own_code_names_it(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FACTORY)
    made: dict[str, Any] = {}
    exec(FACTORY, made)
    torch.save(made["make"]().state_dict(), "mine.pt")
    given = ["compress", "mine.pt", "--arch", "mine.py:make", "--input-shape", "1,8,8", "--no-onnx", "--out", "slim"]
    assert main(given) == 0
    hub.push("slim", "me/own")
    card = (cache / "models--me--own" / "snapshots" / COMMIT / "README.md").read_text()
    call = next(line for line in card.splitlines() if line.startswith("model = "))
    assert call.startswith('model = hub.pull("me/own", arch="mine.py:make")')
    slim = eval(call[8:].replace(")  #", ", cache=cache, offline=True)  #"), {"hub": hub, "cache": cache})
    assert slim(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 4, 4)


def test_the_card_says_what_the_report_says(run: Path, cache: Path) -> None:
    hub.push(run, "me/card")
    text = (cache / "models--me--card" / "snapshots" / COMMIT / "README.md").read_text()
    head = text.split("---")[1]
    assert "library_name: slimkit" in head and "pipeline_tag: image-classification" in head
    report = json.loads((run / "report.json").read_text())
    assert report["verdict"] in text and 'hub.pull("me/card")' in text
    used = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert used == report["usage"]


@pytest.mark.parametrize(
    ("measure", "pipeline"),
    [
        ("mAP50-95", "object-detection"),
        ("mask mAP50-95", "image-segmentation"),
        ("keypoint mAP50-95", "keypoint-detection"),
    ],
)
def test_the_card_of_a_detector_is_of_what_it_is_judged_by(run: Path, measure: str, pipeline: str) -> None:
    report = report_file.read(run)
    assert report.usage
    judged = Accuracy(task="detection", metric=measure, validation=0.5, test=0.4, validation_images=8, test_images=8)
    after = replace(report.after, accuracy=judged)
    text = card(replace(report, usage=replace(report.usage, task="detection"), after=after), "me/card")
    assert f"pipeline_tag: {pipeline}" in text and f"| {measure} (8 test) | " in text


def test_what_is_not_there_is_said(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"has no model.safetensors or model.pt2 or model.pt"):
        hub.push(tmp_path, "me/none")
    with pytest.raises(EngineError, match="(?s)me/none: the hub cannot be reached or refuses.*hf auth login"):
        hub.pull("me/none", cache=cache, offline=True)
    empty = cache / "models--me--empty"
    (empty / "refs").mkdir(parents=True)
    (empty / "refs" / "main").write_text(COMMIT)
    (empty / "snapshots" / COMMIT).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="me/empty: has no"):
        hub.pull("me/empty", cache=cache, offline=True)
    real: Any = __import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "huggingface_hub":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr("builtins.__import__", missing)
    with pytest.raises(EngineError, match=r"pip install 'slimkit\[hub\]'"):
        hub.pull("me/none")
