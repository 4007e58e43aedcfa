"""ONNX files whose own words about their use are damaged, or of somebody's making: `slimkit evaluate`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from slimkit import zoo
from slimkit.cli import main
from slimkit.export import export_onnx
from slimkit.models import load_slim
from slimkit.returned import RETURNED

CHECKPOINT = Path(zoo.__file__).parent / "resnet8-digits.safetensors"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "net.onnx"
    export_onnx(load_slim(CHECKPOINT), path, torch.zeros(1, 1, 8, 8))
    return path


def changed(usage: Callable[[dict[str, Any]], str]) -> Callable[[str], str]:
    return lambda said: usage(json.loads(said))


EMBEDDED = {"value_range": [0.0, 255.0], "mean": None, "std": None}
WORDS = {
    "nested": lambda said: "[" * 100_000,
    "several": changed(lambda said: json.dumps(said | EMBEDDED | {"inputs": said["inputs"] * 2})),
    "no input": changed(lambda said: json.dumps(said | EMBEDDED | {"inputs": []})),
    "no sizes": changed(lambda said: json.dumps(said | EMBEDDED | {"inputs": [said["inputs"][0] | {"shape": []}]})),
    "vast": changed(
        lambda said: json.dumps(said | EMBEDDED | {"inputs": [said["inputs"][0] | {"shape": [10**20, 8, 8]}]})
    ),
}


@pytest.mark.parametrize("what", WORDS)
def test_words_that_are_no_good_are_left_or_refused(what: str, network: Path, tmp_path: Path) -> None:
    model = onnx.load(network)
    [entry] = [entry for entry in model.metadata_props if entry.key == "usage"]
    entry.value = WORDS[what](entry.value)
    onnx.save(model, tmp_path / "net.onnx")
    assert main(["evaluate", str(tmp_path / "net.onnx"), "--data", "digits"]) in (0, 2)


NESTED = '{"list":[' * 500 + "]}" * 500
FORMS = ("[" * 100_000, NESTED, '{"output": 7}', '{"named": [["a b", {"output": 0}]]}', "{}", "[1]")


@pytest.mark.parametrize("form", FORMS, ids=range(len(FORMS)))
def test_what_outputs_were_in_may_be_said_wrongly(form: str, network: Path, tmp_path: Path) -> None:
    model = onnx.load(network)
    model.metadata_props.add(key=RETURNED, value=form)
    onnx.save(model, tmp_path / "net.onnx")
    assert main(["evaluate", str(tmp_path / "net.onnx"), "--data", "digits"]) in (0, 2)
