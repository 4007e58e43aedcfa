"""`slimkit evaluate` and `slimkit export`: finished networks, measured again and written for other engines."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import slimkit
from slimkit import models, provenance, zoo
from slimkit.cli import main
from slimkit.errors import EngineError, SpecError
from slimkit.export.formats import FORMATS, Source
from slimkit.export.formats.source import Format
from slimkit.modules import unwarned
from slimkit.provenance import Provenance
from slimkit.settings import EvaluateSpec, ExportSpec
from slimkit.settings.export import FORMATS as NAMES
from tests.test_data import write_fashion
from tests.test_data_folder import pairs, picture

CHECKPOINT = Path(zoo.__file__).parent / "resnet8-digits.safetensors"
PACKAGES = {"openvino": ["openvino"], "coreml": ["coremltools"], "ncnn": ["ncnn", "pnnx"], "tflite": ["litert_torch"]}


def needs(name: str) -> Any:
    missing = [package for package in PACKAGES.get(name, []) if importlib.util.find_spec(package) is None]
    return pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=f"{missing} not installed"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "slim"
    words = ["compress", str(CHECKPOINT), "--data", "digits", "--ratio", "0.3", "--epochs", "1", "--int8"]
    assert main([*words, "--embed-normalisation", "--out", str(out)]) == 0
    return out


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("file", "side"), [("model.safetensors", "after"), ("model.onnx", "after"), ("model.int8.onnx", "int8")]
)
def test_a_file_is_measured_as_its_run_measured_it(
    run: Path, capsys: pytest.CaptureFixture[str], file: str, side: str
) -> None:
    found = printed(capsys, "evaluate", str(run / file), "--data", "digits")
    report = json.loads((run / "report.json").read_text())
    expected = report[side]["accuracy"]
    assert found["accuracy"]["test"] == pytest.approx(expected["test"], abs=1e-3)
    assert found["accuracy"]["test_images"] == expected["test_images"] == 359
    low, high = found["accuracy"]["interval"]
    assert low < found["accuracy"]["test"] < high
    assert (found["schema"], found["model"], found["data"]) == ("slimkit.evaluation/1", str(run / file), "digits")


def test_a_checkpoint_is_measured_and_a_table_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(CHECKPOINT), "--data", "digits"]) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out and "95 % interval" in out and "359" in out


def test_a_file_of_one_image_at_a_time_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = slimkit.load(CHECKPOINT)
    for name, fixed in (("free.onnx", False), ("fixed.onnx", True)):
        slimkit.export_onnx(model, tmp_path / name, torch.zeros(1, 1, 8, 8), fixed_batch=fixed)
    free, fixed = (
        printed(capsys, "evaluate", str(tmp_path / name), "--data", "digits") for name in ("free.onnx", "fixed.onnx")
    )
    assert free["accuracy"] == fixed["accuracy"]


@pytest.mark.long
@pytest.mark.parametrize("flags", [[], ["--fixed-batch"], ["--fp16"]], ids=" ".join)
def test_a_file_of_any_size_is_measured_at_the_one_it_was_proven_at(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(40):
        picture(tmp_path / "data" / str(number % 10) / f"{number}.png")
    out = tmp_path / "out"
    printed(capsys, "export", str(CHECKPOINT), "--to", "onnx", "--free-size", *flags, "--out", str(out))
    (file,) = out.glob("*.onnx")
    found = printed(capsys, "evaluate", str(file), "--data", f"folder:{tmp_path / 'data'}")
    assert found["assumptions"][0].startswith("pictures are read as 1x8x8, with input_shape from the network")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "MODEL"], "data is not set: there is nothing to measure on"),
        (["evaluate", "MODEL", "--data", "folder:nowhere"], "folder:nowhere is not a folder"),
        (["evaluate", "none.onnx", "--data", "digits"], "is not a readable ONNX file"),
        (["evaluate", "PIXELS", "--data", "digits", "--mean", "0.5", "--std", "0.5"], "normalises by itself"),
        (["evaluate", "PIXELS", "--data", "digits", "--arch", "resnet18"], "arch is 'resnet18': an ONNX file says all"),
        (["evaluate", "PIXELS", "--data", "digits", "--trust-pickle"], "an ONNX file says all"),
        (["inspect", "MODEL", "--set", "keep=conv1"], "keep is conv1: this command has no use for it"),
        (["inspect", "MODEL", "--set", "ratio=0.5"], "ratio is 0.5: this command has no use for it"),
        (["export", "PIXELS", "--to", "openvino"], "is an ONNX model, not a trainable network"),
        (["export", "MODEL", "--to", "gguf"], "to is 'gguf': it must be 'onnx' or"),
        (["export", "MODEL", "--to", "ncnn", "--free-size"], "ncnn files are of one size"),
        (["export", "MODEL", "--to", "torchscript", "--opset", "20"], "opset is 20, and to is torchscript"),
    ],
    ids=lambda value: " ".join(value[:1] + value[2:]) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"MODEL": str(CHECKPOINT), "PIXELS": str(run / "model.onnx")}
    assert main([files.get(word, word) for word in words]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_an_onnx_file_is_held_against_the_data(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its classes, as a slim file is, and by whether it runs at all."""
    write_fashion(tmp_path)
    words = ["evaluate", str(run / "model.onnx"), "--data", "fashion-mnist", "--data-root", str(tmp_path)]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "the ONNX file does not run on inputs of shape [" in err and "it takes 1 x 8 x 8 alone" in err
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "def make():\n"
        "    part = torch.randn(30, 1, 8, 8), torch.arange(30) % 12\n"
        "    return {'train': part, 'validation': part, 'test': part}\n"
    )
    assert main(["evaluate", str(run / "model.onnx"), "--data", f"{tmp_path / 'own.py'}:make"]) == 2
    assert "class numbers reach from 0 to 11, the network has classes 0 to 9" in capsys.readouterr().err


@pytest.mark.parametrize("fixed", [False, True])
def test_an_onnx_file_of_one_size_is_not_asked_for_another(
    fixed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(40):
        picture(tmp_path / "data" / str(number % 10) / f"{number}.png")
    file, words = tmp_path / "net.onnx", ["--data", f"folder:{tmp_path / 'data'}", "--input-shape"]
    slimkit.export_onnx(slimkit.load(CHECKPOINT), file, torch.zeros(1, 1, 8, 8), fixed_batch=fixed)
    assert main(["evaluate", str(file), *words, "1,12,12"]) == 2
    err = capsys.readouterr().err
    assert f"input_shape is 1,12,12: {file} takes 1 x 8 x 8 alone" in err and "Leave --input-shape out" in err
    assert main(["evaluate", str(file), *words, "1,8,8"]) == 0


def test_a_file_that_says_its_task_is_measured_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a class that is in none of the masks is no reason to refuse the data."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    pairs(tmp_path / "data", count=20)  # of classes 0, 1, 2
    given: dict[str, Any] = {"data": f"folder:{tmp_path / 'data'}", "task": "segmentation", "epochs": 0}
    result = slimkit.compress(net, torch.randn(1, 3, 8, 8), 0.5, out=tmp_path / "run", **given)
    assert result.report.after.accuracy is not None
    for name in ("model.onnx", "model.pt2"):
        found = printed(capsys, "evaluate", str(tmp_path / "run" / name), "--data", given["data"])
        assert found["accuracy"]["metric"] == "mean IoU"
        assert found["accuracy"]["test"] == pytest.approx(result.report.after.accuracy.test, abs=1e-3)


OWN = """
from torch import nn
def make():
    from beside_own import last
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 8, 3), *last())
"""
BESIDE = """
from torch import nn
class Loud(nn.Module):
    def forward(self, x):
        return x * float(x.max())
def last():
    return Loud(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
"""


def test_own_code_may_import_what_lies_beside_it_when_called_and_exporters_are_kept_quiet(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a shape that was given is no guess."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "beside_own.py").write_text(BESIDE)
    own = f"{tmp_path / 'own.py'}:make"
    torch.save(models.build(own).model.state_dict(), tmp_path / "net.pt")
    words = ["compress", str(tmp_path / "net.pt"), "--arch", own, "--input-shape", "3,12,12"]
    assert main([*words, "--out", str(tmp_path / "slim")]) == 0
    said = capfd.readouterr()
    assert "a guess" not in said.out and "which normalisation" in said.out
    assert said.err.strip() == ""
    assumed = json.loads((tmp_path / "slim" / "report.json").read_text())["arch"]["assumptions"]
    assert assumed and not any("12" in words or "224" in words for words in assumed)


def test_labels_outside_the_classes_are_no_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = zoo.resnet8(num_classes=4)
    provenance.attach(
        net, Provenance(arch="zoo:resnet8", arguments={"num_classes": 4}, input_shape=(1, 8, 8), classes=4)
    )
    slimkit.save(net, tmp_path / "net.safetensors")
    assert main(["evaluate", str(tmp_path / "net.safetensors"), "--data", "digits"]) == 2
    assert "classes" in capsys.readouterr().err


def test_both_lists_of_formats_are_one() -> None:
    assert tuple(FORMATS) == NAMES


@pytest.mark.long
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", [needs(name) for name in ("onnx", "openvino", "torchscript", "coreml", "ncnn")])
def test_a_network_is_written_and_computes_the_same(
    name: str, half: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["export", str(CHECKPOINT), "--to", name, "--embed-normalisation", *(["--fp16"] if half else [])]
    found = printed(capsys, *words, "--out", str(out))
    (file,) = found["files"]
    assert (file["format"], file["file"]) == (name, FORMATS[name].file) and (out / file["file"]).exists()
    assert json.loads((out / "export.json").read_text()) == found
    if name == "coreml" and FORMATS[name].run is None:
        assert file["error"] is None and "Apple" in file["note"]
    else:
        assert file["error"] <= (0.05 if half else 1e-4)
    plain = printed(capsys, *[word for word in words if word != "--fp16"], "--out", str(tmp_path / "plain"))["files"][0]
    assert file["bytes"] < 0.75 * plain["bytes"] if half else file["bytes"] == pytest.approx(plain["bytes"], rel=0.01)


@pytest.mark.long
@pytest.mark.parametrize(
    ("to", "flags", "batch", "batches", "shape"),
    [
        ("onnx,torchscript", [], None, [None, None], [1, 8, 8]),
        ("onnx", ["--fixed-batch"], 1, [1], [1, 8, 8]),
        ("onnx,torchscript", ["--fixed-batch", "--fp16"], None, [1, None], [1, 8, 8]),
        ("torchscript,onnx", ["--free-size"], None, [None, None], [1, None, None]),
    ],
)
def test_what_is_said_of_the_use_of_files_is_so(
    to: str, flags: list[str], batch: Any, batches: Any, shape: Any, tmp_path: Path, capsys: Any
) -> None:
    found = printed(capsys, "export", str(CHECKPOINT), "--to", to, *flags, "--out", str(tmp_path / "out"))
    used = found["usage"]
    assert (used["batch"], [file["batch"] for file in found["files"]]) == (batch, batches)
    assert used["inputs"][0]["shape"] == shape and used["outputs"] == ["output"]
    sizes = [size or 10 for size in used["inputs"][0]["shape"]]
    for file in found["files"]:
        images = torch.zeros(file["batch"] or 3, *sizes, dtype=getattr(torch, used["inputs"][0]["dtype"]))
        path = str(tmp_path / "out" / file["file"])
        if file["format"] == "torchscript":
            with unwarned():
                assert torch.jit.load(path)(images).dtype == torch.float32
        else:
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            session.run(used["outputs"], {used["inputs"][0]["name"]: images.numpy()})


SEVERAL = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, left, scale=None, right=None):
        return {"logits": (self.left(left).relu() - self.right(right)).mean((2, 3)), "map": self.left(left)}
"""


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_networks_of_named_inputs_and_outputs_are_torchscript(
    half: bool, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(SEVERAL)
    made: dict[str, Any] = {}
    exec(SEVERAL, made)
    net = made["Net"]().eval()
    torch.save(net.state_dict(), "net.pt")
    shapes = ["--input-shape", "right=3,8,8", "--input-shape", "left=3,8,8"]  # not in the order of its forward
    words = ["export", "net.pt", "--arch", "nets.py:Net", "--to", "torchscript", *shapes, *(["--fp16"] * half)]
    used = printed(capsys, *words, "--out", "out")["usage"]
    images = {entry["name"]: torch.randn(3, *entry["shape"]) for entry in used["inputs"]}
    with unwarned(), torch.no_grad():
        found = torch.jit.load("out/model.torchscript")(*images.values())
    torch.testing.assert_close(found, net(**images), rtol=0.05 if half else 1e-4, atol=0.05 if half else 1e-4)
    assert used["outputs"] == ["logits", "map"]


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 2, 3)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"a": self.a(x), "rest": [self.b(x), {"mean": self.b(x).mean((2, 3))}]}


def test_outputs_in_a_nest_are_torchscript_one_by_one(tmp_path: Path) -> None:
    net, images = Nested().eval(), torch.randn(3, 3, 8, 8)
    source = Source(net, images[:1], ExportSpec(to=("torchscript",)))
    path = tmp_path / "model.torchscript"
    FORMATS["torchscript"].convert(source, path)
    with unwarned(), torch.no_grad():
        found, wanted = torch.jit.load(str(path))(images), net(images)
    torch.testing.assert_close(found, (wanted["a"], wanted["rest"][0], wanted["rest"][1]["mean"]))


def test_formats_do_not_touch_the_network_that_the_next_one_gets(tmp_path: Path, capsys: Any) -> None:
    words = ["export", str(CHECKPOINT), "--to", "torchscript,onnx,torchscript", "--fp16"]
    files = printed(capsys, *words, "--out", str(tmp_path / "out"))["files"]
    assert [file["format"] for file in files] == ["torchscript", "onnx"]
    assert all(file["error"] <= 0.05 for file in files)


@pytest.mark.parametrize("name", [needs("tflite")])
def test_tflite(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(CHECKPOINT), "--to", name]
    (whole,) = printed(capsys, *words, "--out", str(tmp_path / "out"))["files"]
    assert whole["error"] <= 1e-4
    (half,) = printed(capsys, *words, "--fp16", "--out", str(tmp_path / "half"))["files"]
    assert 0 < half["error"] <= 0.05 and half["bytes"] < 0.6 * whole["bytes"]


@pytest.mark.parametrize("name", ["coreml", "tflite", "ncnn", "openvino"])
def test_a_converter_that_is_not_installed_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> None:
        raise ImportError(package)

    monkeypatch.setattr("slimkit.export.formats.source.importlib.import_module", missing)
    source = Source(nn.Conv2d(3, 4, 1).eval(), torch.zeros(1, 3, 8, 8), ExportSpec(to=(name,)))
    with pytest.raises(EngineError, match=rf"{name}: the package .* not installed.\n.*pip install 'slimkit\[{name}\]'"):
        FORMATS[name].convert(source, tmp_path / FORMATS[name].file)


def test_all_converters_that_are_not_installed_are_named_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first alone was, so that each had to be found out by a run of its own."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in sum(PACKAGES.values(), []) else name)
    words = ["export", str(CHECKPOINT), "--to", "onnx,openvino,ncnn,tflite", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "openvino, ncnn, tflite: the packages openvino and ncnn and pnnx and litert-torch are not installed" in err
    assert "pip install 'slimkit[openvino,ncnn,tflite]'" in err and not (tmp_path / "out").exists()


def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    def wrong(source: Source, path: Path) -> None:
        source.onnx(path)
        model = onnx.load(path)
        for node in model.graph.node:
            if node.op_type == "Relu":
                node.op_type = "Sigmoid"
        onnx.save(model, path)

    monkeypatch.setitem(FORMATS, "onnx", Format("model.onnx", wrong, engine="onnxruntime"))
    assert main(["export", str(CHECKPOINT), "--out", str(tmp_path / "out")]) == 2
    assert "differs from the network by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_settings_say_what_they_lack() -> None:
    with pytest.raises(SpecError, match="(?s)data is not set.*`data='digits'`"):
        EvaluateSpec()
    assert ExportSpec(to="openvino", opset=20).to == ("openvino",)


def test_images_of_another_size_than_the_networks_own_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fashion(tmp_path)
    assert main(["evaluate", str(CHECKPOINT), "--data", "fashion-mnist", "--set", f"data_root={tmp_path}"]) == 0
    assert "images are 1x28x28, as the data has them, not 1x8x8" in " ".join("".join(capsys.readouterr()).split())
    assert main(["evaluate", str(CHECKPOINT), "--data", "digits"]) == 0
    assert "as the data has them" not in "".join(capsys.readouterr())


GREY = """
from torch import nn
def make():
    first = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


def test_no_shape_is_guessed_beside_data_that_has_one(tmp_path: Path, capsys: Any) -> None:
    """Pictures of a folder are read at the shape that was guessed, so that there it is said."""
    (tmp_path / "own.py").write_text(GREY)
    own = f"{tmp_path / 'own.py'}:make"
    torch.save(models.build(own).model.state_dict(), tmp_path / "net.pt")
    for command in (["compress", "--epochs", "0", "--no-onnx", "--out", str(tmp_path / "out")], ["evaluate"]):
        assert main([*command, str(tmp_path / "net.pt"), "--arch", own, "--data", "digits"]) == 0
        said = capsys.readouterr().out
        assert "a guess" not in said and "as the data has them" in said
    for number in range(4):
        for name in map(str, range(10)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 10 * number).save(tmp_path / "data" / name / f"{number}.png")
    assert main(["evaluate", str(tmp_path / "net.pt"), "--arch", own, "--data", f"folder:{tmp_path / 'data'}"]) == 0
    assert "a guess" in capsys.readouterr().out


def test_a_format_that_misses_the_tolerance_is_left_out_and_the_others_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(source: Source, path: Path) -> int | None:
        other = Source(nn.Sequential(source.model, nn.Softmax(-1)).eval(), source.example, source.spec)
        return FORMATS["onnx"].convert(other, path)

    monkeypatch.setitem(FORMATS, "openvino", Format("wrong.onnx", wrong, engine="onnxruntime"))
    words = ["export", str(CHECKPOINT), "--to", "openvino,onnx", "--fp16", "--out"]

    found = printed(capsys, *words, str(tmp_path / "out"))
    assert main([*words, str(tmp_path / "again")]) == 0
    said = capsys.readouterr().out
    assert main([*words[:3], "openvino", *words[4:], str(tmp_path / "none")]) == 2
    refused = capsys.readouterr().err

    assert [file["format"] for file in found["files"]] == ["onnx"] and "openvino: what its" in found["left_out"][0]
    assert not (tmp_path / "out" / "wrong.onnx").exists() and "Left out: openvino" in said
    assert "fp16" in refused and not (tmp_path / "none").exists()
