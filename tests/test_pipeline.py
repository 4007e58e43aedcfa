"""The whole command on real input: the zoo's ResNet-8, trained on digits."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import slimkit
from slimkit import data, zoo
from slimkit.channels import trace
from slimkit.cli import main
from slimkit.errors import MaskError
from slimkit.models import load
from slimkit.selection.mask import Mask, apply_

CHECKPOINT = Path(zoo.__file__).parent / "resnet8-digits.safetensors"
FILES = {".manifest.json", "model.onnx", "model.safetensors", "report.json", "report.html", "run.toml", "train.log"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of the README's main command, with less retraining."""
    out = tmp_path_factory.mktemp("run") / "slim"
    words = ["compress", str(CHECKPOINT), "--data", "digits", "--ratio", "0.5", "--epochs", "3"]
    assert main([*words, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def report(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


def test_a_run_leaves_its_files_and_no_pickle(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == FILES
    assert [path.name for path in run.parent.iterdir()] == ["slim"]


def test_half_of_the_channels_are_gone_and_it_is_proven(report: dict) -> None:
    channels = report["channels"]
    assert channels["removed"] == channels["removable"] // 2
    for step in ("masked_vs_slim", "slim_vs_reloaded", "slim_vs_onnx"):
        assert report["proof"][step] < report["proof"]["tolerance"] == 1e-4
    assert any("real batch" in kind for kind in report["proof"]["inputs"])


def test_the_figures_are_those_of_the_files(run: Path, report: dict) -> None:
    slim = slimkit.load(run / "model.safetensors")
    assert report["after"]["params"] == sum(p.numel() for p in slim.parameters())
    assert report["after"]["bytes"] == (run / "model.onnx").stat().st_size
    by_layer = sum(layer["macs_after"] for layer in report["layers"])
    assert report["after"]["macs"] == by_layer
    widths = {name: m.out_channels for name, m in slim.named_modules() if isinstance(m, nn.Conv2d)}
    for layer in report["layers"]:
        if layer["kind"] == "Conv2d":
            assert layer["channels_after"] == widths[layer["name"]]
    for side in ("before", "after"):
        together, whole = sum(layer[f"ms_{side}"] for layer in report["layers"]), report[side]["latency_ms"]["fastest"]
        assert 0 < together <= whole * (1 + 1e-9)  # whatever the machine did meanwhile


def test_the_onnx_file_classifies_as_the_report_says(run: Path, report: dict) -> None:
    """Accuracy recomputed here, from the file alone, with nothing of slimkit's measuring."""
    session = onnxruntime.InferenceSession(str(run / "model.onnx"), providers=["CPUExecutionProvider"])
    normalisation = slimkit.provenance.of(slimkit.load(run / "model.safetensors")).normalisation
    test = data.open("digits").normalised(normalisation).test
    right = seen = 0
    for images, labels in test.batches(64):
        (scores,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        right += int((np.argmax(scores, 1) == labels.numpy()).sum())
        seen += len(labels)
    assert report["after"]["accuracy"]["test"] == pytest.approx(right / seen)
    assert report["after"]["accuracy"]["test_images"] == seen
    assert right / seen > 0.9


def test_a_run_can_be_repeated_from_its_settings(run: Path, report: dict, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["compress", str(CHECKPOINT), "--config", str(run / "run.toml"), "--out", str(out)]) == 0
    again = slimkit.load(out / "model.safetensors").state_dict()
    for name, tensor in slimkit.load(run / "model.safetensors").state_dict().items():
        assert torch.equal(again[name], tensor), name


def test_a_slim_file_can_be_slimmed_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "twice"
    words = ["compress", str(run / "model.safetensors"), "--ratio", "0.3", "--set", "round_to=1", "--no-recover"]
    assert main([*words, "--out", str(out)]) == 0
    once, twice = slimkit.load(run / "model.safetensors"), slimkit.load(out / "model.safetensors")
    assert sum(p.numel() for p in twice.parameters()) < sum(p.numel() for p in once.parameters())
    assert len(slimkit.provenance.of(twice).edits) == 2


def test_the_shape_of_an_image_can_be_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "larger"
    words = ["compress", str(CHECKPOINT), "--ratio", ".3", "--input-shape", "1,16,24", "--no-recover"]
    assert main([*words, "--out", str(out)]) == 0
    found = json.loads((out / "report.json").read_text())
    assert found["arch"]["input_shape"] == [1, 16, 24]
    usual = slimkit.compress(load(CHECKPOINT).model, torch.randn(1, 1, 8, 8), ratio=0.3, recover=False).report
    assert found["before"]["macs"] / usual.before.macs == pytest.approx(16 * 24 / 8**2, rel=0.02)
    assert slimkit.provenance.of(slimkit.load(out / "model.safetensors")).input_shape == (1, 16, 24)
    assert main(["inspect", str(out / "model.safetensors")]) == 0


def test_python_does_what_the_command_does() -> None:
    model = load(CHECKPOINT).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = slimkit.compress(model, torch.randn(1, 1, 8, 8), ratio=0.5, round_to=1, recover=False)
    graph = trace(model, torch.randn(1, 1, 8, 8))
    assert result.mask.removed == round(0.5 * graph.units)
    assert result.report.before.macs > result.report.after.macs
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_every_stage_works_alone() -> None:
    model = load(CHECKPOINT).model
    image = torch.randn(2, 1, 8, 8)
    graph = slimkit.trace(model, image[:1])
    keep = torch.ones(graph.units, dtype=torch.bool)
    keep[graph.groups[0].members[::2]] = False
    slim = slimkit.remove(model, graph, Mask(keep))
    apply_(model, graph, Mask(keep))
    with torch.no_grad():
        torch.testing.assert_close(slim(image), model(image), rtol=1e-4, atol=1e-4)


def test_inspect_says_what_can_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(CHECKPOINT), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["channels"]["removable"] == sum(group["channels"] for group in found["groups"])
    assert any("output" in kept["reason"] for kept in found["channels"]["kept"])


def test_bench_puts_files_side_by_side(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(run / "model.onnx"), str(run / "model.onnx"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert len(rows) == 2 and 0.3 < rows[1]["share"] < 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data", "no-such-set"], "no-such-set"),
        (["--ratio", "50"], "ratio"),
        (["--ratio", "half"], "ratio"),
        (["--set", "nonsense=1"], "nonsense"),
        (["--arch", "resnet18"], "resnet18"),
        (["--arch", "zoo:nothing"], "nothing"),
        (["--max-macs", "0.0001"], "max_macs"),
        (["--ratio", "0.5", "--max-macs", "0.5"], "one budget"),
        (["--set", "int8=true"], "int8 is True: it needs data"),
        (["--ranking", "taylor"], "ranking is 'taylor': it needs data"),
        (["--input-shape", "28x28"], "it must be C,H,W"),
        (["--input-shape", "3,8,8"], "cannot run on its example input [1, 3, 8, 8]"),
        (["--input-shape", "1,28,28", "--data", "digits"], "the images of 'digits' are 1,8,8"),
    ],
)
def test_what_the_user_can_mend_exits_2_with_one_message(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["compress", str(CHECKPOINT), *words, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("slimkit: ") and says in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_anything_removable_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(MaskError, match="nothing can be removed"):
        slimkit.compress(model, torch.randn(1, 1, 8, 8), ratio=0.5)
