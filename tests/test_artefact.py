"""What a run leaves says how it is used; ONNX is written as asked for, and a run does not end where it cannot be."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit import provenance, usage, zoo
from slimkit.cli import main
from slimkit.errors import EngineError, SpecError
from slimkit.export import direct, export_onnx, general
from slimkit.provenance import Provenance, Use
from slimkit.runs.folder import files
from slimkit.settings import CompressSpec
from tests.blocks import conv_bn
from tests.test_export_direct import NETWORKS, randomise

CHECKPOINT = Path(zoo.__file__).parent / "resnet8-digits.safetensors"
X = torch.randn(1, 3, 16, 16)


class Unet(nn.Module):
    """Down, up, and a join: sizes have to be even."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = conv_bn(3, 8), conv_bn(8, 8), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.cat([y, F.interpolate(self.b(F.max_pool2d(y, 2)), size=y.shape[-2:])], 1))


class Bessel(nn.Module):
    """Ends in an operator that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = conv_bn(3, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.out(self.body(x)))


class Rows(nn.Module):
    """A loop over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = conv_bn(3, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.out(self.body(image[None]))[0] for image in x])


class Single(nn.Module):
    """Takes one image at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x).relu()).view(1, 4, 14 * 14)


def infer(path: Path, **inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(found)


def told(path: Path) -> dict[str, Any]:
    """Return what an ONNX file says of its use."""
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    found: dict[str, Any] = json.loads(said["usage"])
    return found


# Free height and width


@pytest.mark.parametrize("fixed", [False, True])
def test_height_and_width_can_be_free(tmp_path: Path, fixed: bool) -> None:
    net = Unet().eval()
    export_onnx(net, tmp_path / "net.onnx", X, free_size=True, fixed_batch=fixed)
    dims = [
        d.dim_param or d.dim_value for d in onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.shape.dim
    ]
    assert dims == [1 if fixed else "batch", 3, "height", "width"]
    (said,) = told(tmp_path / "net.onnx")["inputs"]
    assert (said["shape"], said["proven"]) == ([3, None, None], [3, 16, 16])
    for size in ((16, 16), (24, 40)):
        images = torch.randn(1 if fixed else 2, 3, *size)
        torch.testing.assert_close(
            infer(tmp_path / "net.onnx", input=images), net(images).detach(), rtol=1e-4, atol=1e-4
        )


def test_a_network_of_one_size_is_refused_before_anything_is_done() -> None:
    net = nn.Sequential(conv_bn(3, 8), nn.Flatten(), nn.Linear(8 * 256, 4)).eval()
    words = r"(?s)free_size is True: Sequential does not run on another size, \[1, 3, 32, 32\].*Leave out `free_size`"
    with pytest.raises(EngineError, match=words):
        slimkit.compress(net, X, 0.5, free_size=True)
    with pytest.raises(EngineError, match=words):
        export_onnx(net, Path("net.onnx"), X, free_size=True)
    assert not Path("net.onnx").exists()


@pytest.mark.long
def test_a_run_with_free_size_is_timed_and_proven(tmp_path: Path) -> None:
    found = slimkit.compress(Unet().eval(), X, 0.5, free_size=True, out=tmp_path / "out").report
    assert found.proof.slim_vs_onnx is not None and found.proof.slim_vs_onnx <= 1e-4
    assert found.after.latency_ms is not None
    assert any(layer.ms_after for layer in found.layers)


# ONNX is an exit


@pytest.mark.parametrize("net", [Bessel()], ids=["no operator"])
def test_where_onnx_cannot_say_it_the_slim_file_is_written(
    net: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = slimkit.compress(net.eval(), X, 0.5, out=tmp_path / "out")
    assert not (tmp_path / "out" / "model.onnx").exists()
    (slim,) = (tmp_path / "out").glob("model.pt2")
    torch.testing.assert_close(slimkit.load(slim)(X), result.model(X))
    (said,) = [warning for warning in result.report.warnings if "ONNX" in warning]
    assert said.startswith("No ONNX file: Bessel cannot be exported to ONNX: ") and len(said.splitlines()) == 2
    assert max(map(len, said.splitlines())) < 400
    assert result.report.proof.slim_vs_onnx is None and result.report.after.bytes is None
    printed = capfd.readouterr()
    assert len(printed.err.splitlines()) <= 2 and not printed.out


@pytest.mark.long
def test_an_onnx_file_that_computes_something_else_is_left_out_and_that_alone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = files.run_onnx
    monkeypatch.setattr(files, "run_onnx", lambda *given: [[-one for one in each] for each in right(*given)])
    result = slimkit.compress(
        slimkit.load(zoo.CHECKPOINTS["resnet8-digits"]), torch.rand(1, 1, 8, 8), 0.5, out=tmp_path / "out"
    )
    (said,) = [warning for warning in result.report.warnings if "ONNX" in warning]
    assert "Nothing was written" not in said and "The file is left out. Please report" in said
    assert [path.name for path in (tmp_path / "out").glob("model.*")] == ["model.safetensors"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("net", "why"), [(Rows(), "batch"), (Single(), "it takes one image at a time")], ids=["loop", "one"]
)
def test_where_the_batch_cannot_be_free_the_file_takes_one_image(net: nn.Module, why: str, tmp_path: Path) -> None:
    result = slimkit.compress(net.eval(), X, 0.5, out=tmp_path / "out")
    path = tmp_path / "out" / "model.onnx"
    torch.testing.assert_close(infer(path, input=X), result.model(X).detach(), rtol=1e-4, atol=1e-4)
    assert result.report.usage.batch == 1
    missing, said = [warning for warning in result.report.warnings if "file" in warning]
    assert missing.startswith(f"No slim file: cannot export {type(net).__name__}")
    assert said.startswith("The ONNX file takes one image at a time") and why in said


def test_a_network_of_two_inputs_has_its_onnx_file(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.out = conv_bn(3, 8), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.out(self.stem(x) + self.stem(y))

    result = slimkit.compress(Two().eval(), {"x": X, "y": X}, 0.5, out=tmp_path / "out")
    a, b = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    found = infer(tmp_path / "out" / "model.onnx", x=a, y=b)
    torch.testing.assert_close(found, result.model(a, b).detach(), rtol=1e-4, atol=1e-4)
    assert result.report.proof.slim_vs_onnx is not None
    assert [entry.name for entry in result.report.usage.inputs] == ["x", "y"]
    assert result.report.after.bytes == (tmp_path / "out" / "model.onnx").stat().st_size


@dataclass
class Answer:
    logits: Tensor
    features: Tensor


class Answers(nn.Module):
    """Returns an object that no exporter knows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = conv_bn(3, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Answer:
        y = self.body(x)
        return Answer(self.out(y), y.mean((2, 3)))


@pytest.mark.parametrize("opset", [18, 19], ids=["direct", "general"])
def test_outputs_in_an_object_are_called_as_there(opset: int, tmp_path: Path) -> None:
    net = Answers().eval()
    export_onnx(net, tmp_path / "net.onnx", X, opset=opset)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    images = torch.randn(2, 3, 16, 16)
    logits, features = session.run(["logits", "features"], {"input": images.numpy()})
    expected = net(images)
    torch.testing.assert_close(torch.from_numpy(logits), expected.logits.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(features), expected.features.detach(), rtol=1e-4, atol=1e-4)


def test_without_onnx(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["compress", str(CHECKPOINT), "--no-onnx", "--no-recover", "--ratio", "0.5", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        ".manifest.json", "model.safetensors", "report.json", "report.html", "run.toml",
    }  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    assert (
        report["warnings"] == [] and report["after"]["latency_ms"] is None and report["proof"]["slim_vs_onnx"] is None
    )
    assert "onnx = false" in (out / "run.toml").read_text()
    assert (
        "onnxruntime" not in (out / "report.html").read_text().partition("Use the model")[2].partition("</section>")[0]
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"int8": True}, {"opset": 20}, {"fixed_batch": True}, {"free_size": True}, {"embed_normalisation": True},
        {"max_bytes": 0.5}, {"max_latency": 0.5}, {"max_energy": 0.5}, {"runtime": "openvino"}, {"threads": 2},
        {"batch": 8},
    ],
    ids=lambda settings: next(iter(settings)),
)  # fmt: skip
def test_settings_of_a_file_that_is_not_written_are_refused(settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    with pytest.raises(SpecError, match=rf"{name} is .*, and onnx is False.\n.*Leave out `onnx=False`, or `{name}`"):
        CompressSpec(onnx=False, **settings)


@pytest.mark.long
@pytest.mark.parametrize("opset", [15, 17, 19, 21])
def test_a_file_is_of_the_opset_that_was_asked_for(opset: int, tmp_path: Path) -> None:
    export_onnx(Unet().eval(), tmp_path / "net.onnx", X, opset=opset)
    assert [entry.version for entry in onnx.load(tmp_path / "net.onnx").opset_import] == [opset]


def test_an_opset_that_is_not_known_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="opset is 99: the installed onnx knows none above"):
        slimkit.compress(Unet().eval(), X, 0.5, opset=99, out=tmp_path / "out")
    with pytest.raises(EngineError, match="(?s)opset is 5: the network is in opset 18, and cannot be converted.*opset"):
        export_onnx(Unet().eval(), tmp_path / "net.onnx", X, opset=5)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_the_opset_is_that_which_was_asked_for(tmp_path: Path) -> None:
    slimkit.compress(Unet().eval(), X, 0.5, opset=20, out=tmp_path / "out")
    assert onnx.load(tmp_path / "out" / "model.onnx").opset_import[0].version == 20


# The artefact


SCALE = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3]}


def known(net: nn.Module) -> nn.Module:
    use = Use(task="classification", class_names=("cat", "dog"), crop=0.875)
    provenance.attach(net, Provenance(input_shape=(3, 16, 16), normalisation=SCALE, use=use))
    return net.eval()


@pytest.mark.long
def test_files_and_report_say_how_the_network_is_used(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["compress", str(CHECKPOINT), "--data", "digits", "--epochs", "0", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())["usage"]
    assert report == told(out / "model.onnx")
    of_file = provenance.of(slimkit.load(out / "model.safetensors"))
    assert usage.described(of_file, outputs=["output"]).to_dict() == report
    assert report["task"] == "classification" and report["class_names"] == list("0123456789")
    assert report["inputs"] == [
        {"name": "input", "layout": "NCHW", "shape": [1, 8, 8], "dtype": "float32", "proven": None}
    ]
    assert (report["colour_order"], report["value_range"]) == ("grey", [0.0, 1.0])
    assert len(report["mean"]) == len(report["std"]) == 1


@pytest.mark.parametrize("opset", [18, 19], ids=["direct", "general"])
def test_pixels_in_give_the_same_outputs(opset: int, tmp_path: Path) -> None:
    net = known(nn.Sequential(conv_bn(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)))
    export_onnx(net, tmp_path / "net.onnx", X, opset=opset, embed_normalisation=True)
    pixels = torch.randint(0, 256, (4, 3, 16, 16)).float()
    mean, std = (torch.tensor(SCALE[name]).view(3, 1, 1) for name in ("mean", "std"))
    expected = net((pixels / 255 - mean) / std).detach()
    torch.testing.assert_close(infer(tmp_path / "net.onnx", input=pixels), expected, rtol=1e-4, atol=1e-4)
    said = told(tmp_path / "net.onnx")
    assert (said["value_range"], said["mean"], said["std"]) == ([0.0, 255.0], None, None)
    assert (said["colour_order"], said["class_names"], said["crop"]) == ("RGB", ["cat", "dog"], 0.875)
    assert "forward" not in vars(net)


def test_a_run_with_the_normalisation_inside_is_judged_on_pixels(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["compress", str(CHECKPOINT), "--data", "digits", "--ratio", "0.3", "--epochs", "1", "--int8"]
    assert main([*words, "--embed-normalisation", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["proof"]["slim_vs_onnx"] <= 1e-4
    assert report["int8"]["accuracy"]["test"] > report["after"]["accuracy"]["test"] - 0.03 > 0.85
    assert told(out / "model.int8.onnx")["value_range"] == [0.0, 255.0]
    page = (out / "report.html").read_text()
    assert "the file normalises them itself" in page


def test_a_normalisation_that_is_not_known_cannot_be_put_inside() -> None:
    net = Unet().eval()
    with pytest.raises(EngineError, match="(?s)which mean and std.*not known.*`slimkit compress` on pictures"):
        slimkit.compress(net, X, 0.5, embed_normalisation=True)
    with pytest.raises(EngineError, match="(?s)mean and std are of 3 channels.*Leave out"):
        export_onnx(known(nn.Conv2d(1, 4, 1)), Path("net.onnx"), torch.randn(1, 1, 8, 8), embed_normalisation=True)


def test_an_export_after_own_retraining_keeps_what_was_known(tmp_path: Path) -> None:
    result = slimkit.compress(known(nn.Sequential(conv_bn(3, 8), nn.Conv2d(8, 2, 1))), X, 0.5)
    slim = torch.compile(result.model.train(), backend="eager")
    optimizer = torch.optim.SGD(result.model.parameters(), 0.01)
    slim(torch.randn(4, 3, 16, 16)).square().mean().backward()
    optimizer.step()
    export_onnx(slim, tmp_path / "net.onnx", X)
    said = told(tmp_path / "net.onnx")
    assert (said["class_names"], said["mean"], said["task"]) == (["cat", "dog"], SCALE["mean"], "classification")


def test_pictures_are_read_as_the_network_was_measured(tmp_path: Path) -> None:
    from PIL import Image

    from slimkit import data

    for name in ("cat", "dog"):
        for part in ("train", "val"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(np.full((40, 40, 3), 9, np.uint8)).save(tmp_path / part / name / "a.png")
    own = Provenance(input_shape=(3, 32, 32), normalisation=SCALE, use=Use(crop=0.95))
    opened = data.open(f"folder:{tmp_path}", own=own)
    assert opened.crop == 0.95 and "crop 0.95 (resize 34) from the network" in opened.notes[0]
    assert data.open(f"folder:{tmp_path}", own=own, reading=data.Reading(crop=0.5)).crop == 0.5
    squashed = data.open(f"folder:{tmp_path}", own=Provenance(use=Use(resize="squash")))
    assert squashed.resize == "squash" and squashed.crop is None


# Our own road to ONNX against the general one


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_both_roads_write_the_same_function(name: str, tmp_path: Path) -> None:
    model, example = randomise(NETWORKS[name]), torch.randn(1, 8, 6, 8)
    images = torch.randn(3, 8, 6, 8)
    found = []
    for road in (direct, general):
        road.translate(model, example).save(tmp_path / "net.onnx")
        found.append(infer(tmp_path / "net.onnx", input=images))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
