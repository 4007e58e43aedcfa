"""Networks of Ultralytics: its checkpoints, its trainer, its metrics; the file that plain Ultralytics goes on with."""

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import boxes
import pytest
import torch
from torch import nn

import slimkit
from slimkit import models
from slimkit.cli import main
from slimkit.errors import ArchitectureError, CheckpointError, DataError, SlimkitError, SpecError, TrainingError
from slimkit.models.ultralytics import Deployed, Maps, from_checkpoint, save
from slimkit.runs.cut import begun
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.training.ultralytics import Workshop, keep_widths, penalty

ultralytics = pytest.importorskip("ultralytics", exc_type=ImportError)
YAML = ultralytics.utils.YAML
pytestmark = pytest.mark.filterwarnings("default")  # Ultralytics' own are not ours to mend

SIDE = 64
QUICK = ["yolov8n", "yolo11n-seg", "yolo11n-cls", "yolov10n"]
REST = ["yolov5n", "yolov9t", "yolo12n", "yolo26n", "yolov8n-pose", "yolov8n-obb", "yolov8n-seg", "yolo26n-pose"]
HOW = {"imgsz": SIDE, "epochs": 1, "batch": 8, "workers": 0, "plots": False, "device": "cpu", "verbose": False}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path_factory):
    """Keep what Ultralytics writes, and its look for updates, out of the machine."""
    monkeypatch.chdir(tmp_path_factory.mktemp("runs"))
    monkeypatch.setattr("ultralytics.utils.checks.check_pip_update_available", lambda: False)


def fresh(name: str) -> nn.Module:
    """Return a network whose BatchNorms have scales of their own and the statistics of noise: all of it matters."""
    torch.manual_seed(0)
    net = ultralytics.YOLO(f"{name}.yaml", verbose=False).model.float().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            module.momentum = None
            module.train()
    with torch.no_grad():
        net(torch.randn(4, 3, SIDE, SIDE))
    return net.eval()


def written(net: nn.Module, path: Path, **more) -> Path:
    """Write a network as Ultralytics does."""
    torch.save({"model": net, "train_args": {"imgsz": SIDE}, "version": ultralytics.__version__, **more}, path)
    return path


def half_of(model: nn.Module, x: torch.Tensor) -> tuple[slimkit.Graph, Mask]:
    graph = slimkit.trace(model, x)
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.groups:
        keep[group.members[: len(group.members) // 2]] = False
    return graph, Mask(keep)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return boxes.write(tmp_path_factory.mktemp("shapes"), {"train": 24, "val": 12}, SIDE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data) -> Path:
    """Return what Ultralytics leaves of a training: of a network of half YOLOv8n's widths."""
    folder = tmp_path_factory.mktemp("trained")
    made = YAML.load(ultralytics.utils.ROOT / "cfg/models/v8/yolov8.yaml") | {"scales": {"n": [0.33, 0.125, 1024]}}
    YAML.save(folder / "yolov8n.yaml", made)
    yolo = ultralytics.YOLO(folder / "yolov8n.yaml")
    quick = {"nbs": 8, "warmup_epochs": 0, "optimizer": "AdamW", "lr0": 0.01, "val": False}
    yolo.train(data=str(data), project=str(folder), name="run", **{**HOW, "epochs": 15}, **quick)
    return folder / "run" / "weights" / "last.pt"


@pytest.fixture(scope="module")
def slim(tmp_path_factory, trained, data) -> Path:
    """Return the folder of a run of the command."""
    out = tmp_path_factory.mktemp("slim") / "out"
    words = ["compress", str(trained), "--data", str(data), "--ratio", "0.5", "--epochs", "1", "--out", str(out)]
    assert main([*words, "--batch-size", "8"]) == 0
    return out


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_a_checkpoint_is_read_without_running_it_and_cut_exactly(name, tmp_path):
    net = fresh(name)
    path = written(net, tmp_path / "yolo.pt")
    x = torch.rand(2, 3, SIDE, SIDE)
    network = models.load(path)
    assert isinstance(network.model, Maps) and network.source == "Ultralytics checkpoint"
    torch.testing.assert_close(Deployed(network.model.net).eval()(x), Deployed(net).eval()(x), rtol=0, atol=0)
    graph, mask = half_of(network.model, x[:1])
    assert graph.units > 500 and proof.evidence_for(network.model, graph, mask, [x]).error <= proof.TOLERANCE

    slim = slimkit.remove(network.model, graph, mask)
    save(slim, tmp_path / "slim.pt")
    again = models.load(tmp_path / "slim.pt").model
    assert sum(p.numel() for p in again.parameters()) < 0.6 * sum(p.numel() for p in net.parameters())
    loaded = ultralytics.YOLO(tmp_path / "slim.pt").model.float()  # its own, unpickling
    torch.testing.assert_close(Deployed(loaded).eval()(x), Deployed(again.net).eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n-seg", "yolo11n-cls"])
def test_what_is_deployed_is_what_ultralytics_exports(name):
    net, x = fresh(name), torch.rand(1, 3, SIDE, SIDE)
    found = Deployed(net).eval()(x)
    net.model[-1].export = True
    torch.testing.assert_close(found, net(x))


def test_training_leaves_a_checkpoint_that_is_read(trained):
    network = models.load(trained)
    assert slimkit.provenance.of(network.model).input_shape == (3, SIDE, SIDE) and network.assumptions == ()
    half = ultralytics.YOLO(trained).model.float()
    x = torch.rand(1, 3, SIDE, SIDE)
    torch.testing.assert_close(Deployed(network.model.net).eval()(x), Deployed(half).eval()(x), rtol=0, atol=0)


def test_the_command_recovers_retrains_and_judges(slim):
    report = json.loads((slim / "report.json").read_text())
    for side in ("before", "after"):
        found = report[side]["accuracy"]
        assert (found["task"], found["metric"]) == ("detect", "mAP50-95") and found["validation_images"] == 12
    assert report["recovery"]["by"] == f"Ultralytics {ultralytics.__version__}" and report["recovery"]["images"] == 24
    assert report["cost"]["training_macs"] == 24 * 3 * report["after"]["macs"]
    assert [row["epoch"] for row in report["recovery"]["history"]] == [1]
    assert [row["constants"] for row in report["after_cut"]] == ["zero", "reconstructed"]
    assert all(row["accuracy"] is not None for row in report["after_cut"])
    assert report["proof"]["slim_vs_onnx"] < 1e-4 and "real batch" in report["proof"]["inputs"]
    assert report["after"]["macs"] < 0.5 * report["before"]["macs"]
    assert "mAP50-95" in (slim / "report.html").read_text()
    assert {path.name for path in slim.iterdir()} >= {"model.pt", "model.onnx", "run.toml"}


PLAIN = """
import sys
sys.modules["slimkit"] = None  # an import of it fails
import torch
from ultralytics import YOLO
path, data, how = sys.argv[1], sys.argv[2], {how}
yolo = YOLO(path)
widths = [tuple(p.shape) for p in yolo.model.parameters()]
print(len(yolo.predict(torch.rand(1, 3, 64, 64), imgsz=64, verbose=False)), "predicted")
print(yolo.val(data=data, imgsz=64, plots=False, workers=0, verbose=False).box.map >= 0, "validated")
print(YOLO(path).export(format="onnx", imgsz=64, simplify=False), "exported")
try:
    YOLO(path).train(data=data, **how)
except KeyError as error:
    words = error.args[0]
yolo = YOLO(path)
eval("yolo." + words.partition("call ")[2])
yolo.train(data=data, **how)
print([tuple(p.shape) for p in yolo.model.parameters()] == widths, "trained")
again = YOLO(yolo.trainer.last)
print([tuple(p.shape) for p in again.model.parameters()] == widths, "loaded")
"""


def test_plain_ultralytics_goes_on_with_the_file(slim, data, tmp_path):
    path = shutil.copy(slim / "model.pt", tmp_path)
    script = tmp_path / "plain.py"
    script.write_text(PLAIN.replace("{how}", repr({**HOW, "project": str(tmp_path)})))
    found = subprocess.run([sys.executable, script, path, data], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    said = [line for line in found.stdout.splitlines() if line.endswith(("ed",))]
    assert [line.split()[-1] for line in said[-5:]] == ["predicted", "validated", "exported", "trained", "loaded"]
    assert said[-5] == "1 predicted" and said[-4] == "True validated"
    assert said[-2:] == ["True trained", "True loaded"]


def test_its_onnx_file_runs_in_onnx_runtime_on_any_batch(slim):
    from slimkit.measure.engines import open_runner

    x = torch.rand(3, 3, SIDE, SIDE)
    expected = Deployed(models.load(slim / "model.pt").model.net).eval()(x)
    (found,) = open_runner(slim / "model.onnx").run(x.numpy())
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)


def test_a_slim_file_can_be_cut_again(slim):
    model = models.load(slim / "model.pt").model
    found = slimkit.compress(model, torch.rand(1, 3, SIDE, SIDE), 0.3, constants="zero")
    assert isinstance(found.model, Maps)
    assert sum(p.numel() for p in found.model.parameters()) < sum(p.numel() for p in model.parameters())


def test_its_run_goes_to_the_hub_and_comes_back(slim, tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    def upload(self, repo_id, folder_path, **_):
        shutil.copytree(folder_path, tmp_path / "hub")
        return repo_id

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: None)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "hub"))
    slimkit.hub.push(slim, "me/slim-yolo")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert 'hub.pull("me/slim-yolo")' in card and "pipeline_tag: object-detection" in card
    found, wanted = slimkit.hub.pull("me/slim-yolo"), models.load(slim / "model.pt").model
    torch.testing.assert_close(dict(found.state_dict()), dict(wanted.state_dict()), rtol=0, atol=0)


def test_compress_takes_a_network_in_memory():
    net = fresh("yolov8n")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = slimkit.compress(net, torch.rand(1, 3, SIDE, SIDE), 0.5, constants="zero")
    assert isinstance(found.model, Maps) and found.report.arch.name == "ultralytics:yolov8n"
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)


def test_evaluate_measures_a_file_again(slim, data, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(slim / "model.pt"), "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["accuracy"]
    before = json.loads((slim / "report.json").read_text())["after"]["accuracy"]
    assert found["metric"] == "mAP50-95" and found["validation"] == pytest.approx(before["validation"], abs=1e-6)
    assert {"precision", "recall", "mAP50"} <= set(found["metrics"])  # "(B)" tells boxes from masks, where both are
    assert main(["evaluate", str(slim / "model.pt"), "--data", str(data), "--crop", "0.5"]) == 2
    assert "crop is 0.5: a network of Ultralytics" in capsys.readouterr().err


def test_its_onnx_file_is_measured_as_well_and_plain_ultralytics_takes_it(slim, data, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(slim / "model.onnx"), "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["accuracy"]
    before = json.loads((slim / "report.json").read_text())["after"]["accuracy"]
    assert found["metric"] == "mAP50-95" and found["validation_images"] == 12
    assert found["validation"] == pytest.approx(before["validation"], abs=0.01)

    engine = ultralytics.YOLO(slim / "model.onnx", task="detect")
    (seen,) = engine.predict(torch.rand(1, 3, SIDE, SIDE), imgsz=SIDE, verbose=False, conf=0.001)
    assert seen.names == ultralytics.YOLO(slim / "model.pt").names and len(seen.boxes)


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_onnx_file_that_ultralytics_exported_is_measured_too(dynamic, slim, data, tmp_path, capsys):
    path = shutil.copy(slim / "model.pt", tmp_path)
    made = ultralytics.YOLO(path).export(format="onnx", imgsz=SIDE, simplify=False, dynamic=dynamic, verbose=False)
    capsys.readouterr()
    assert main(["evaluate", str(made), "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["accuracy"]
    before = json.loads((slim / "report.json").read_text())["after"]["accuracy"]
    assert found["metric"] == "mAP50-95" and found["validation"] == pytest.approx(before["validation"], abs=0.01)


@pytest.mark.parametrize("own", [False, True])
def test_an_onnx_file_of_one_size_is_not_asked_for_another(own, slim, data, tmp_path, capsys):
    """Ours ended in a traceback, and of Ultralytics' own the size that was asked for was left unused without a word."""
    file = slim / "model.onnx"
    if own:
        path = shutil.copy(slim / "model.pt", tmp_path)
        file = ultralytics.YOLO(path).export(format="onnx", imgsz=SIDE, simplify=False, verbose=False)
    capsys.readouterr()
    assert main(["evaluate", str(file), "--data", str(data), "--input-shape", "3,96,96"]) == 2
    err = capsys.readouterr().err
    assert f"{file} takes 3 x 64 x 64 alone" in err and "Leave --input-shape out" in err


def test_an_onnx_file_that_takes_no_squares_is_refused(slim, data, tmp_path, capsys):
    """Ultralytics gives it squares, unless the file is of one batch too."""
    words = ["--to", "onnx", "--input-shape", "3,32,64", "--out", str(tmp_path / "out")]
    assert main(["export", str(slim / "model.pt"), *words]) == 0
    assert main(["evaluate", str(tmp_path / "out" / "model.onnx"), "--data", str(data)]) == 2
    assert "the ONNX file does not run on its pictures" in capsys.readouterr().err


def test_what_is_exported_for_engines_is_decoded(slim, tmp_path):
    from slimkit.measure.engines import open_runner

    out = tmp_path / "out"
    assert main(["export", str(slim / "model.pt"), "--to", "onnx,torchscript", "--out", str(out)]) == 0
    x = torch.rand(3, 3, SIDE, SIDE)
    expected = Deployed(models.load(slim / "model.pt").model.net).eval()(x)
    (found,) = open_runner(out / "model.onnx").run(x.numpy())
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)
    assert ultralytics.YOLO(out / "model.onnx", task="detect").names == ultralytics.YOLO(slim / "model.pt").names


def refused(capsys, *words: object) -> str:
    assert main(["compress", *map(str, words)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("train: images/train\nval: images/none\nnames: [a, b, c]", "images/none"),
        ("train: images/none\nval: images/val\nnames: [a, b, c]", "images/none"),
        ("train: images/train\nval: images/none\nnames: [a, b, c]\ndownload: raise SystemError", "images/none"),
        ("val: images/val\nnames: [a, b, c]", "'train:' key missing"),
        ("train: images/train\nval: images/val", "'names' or 'nc'"),
    ],
)
def test_a_yaml_that_names_what_is_not_there(yaml, said, trained, data, tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(f"path: {data.parent}\n{yaml}\n")
    assert said in refused(capsys, trained, "--data", path)


def test_pictures_that_are_trained_on_and_judged_by_are_told(data, tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(f"path: {data.parent}\ntrain: images\nval: images/val\nnames: [a, b, c]\n")
    [said] = Workshop(str(path), "detect", SIDE, 8).trained_too()
    assert said.startswith("12 of the 12 pictures of val are trained on as well")
    assert Workshop(str(data), "detect", SIDE, 8).trained_too() == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "none.yaml"], "there is no such file"),
        (["--data", "{data}", "--epochs", "0.5"], "Ultralytics trains whole epochs"),
        (["--data", "{data}", "--max-drop", "1"], "max_drop is 1.0: a network of Ultralytics"),
        (["--data", "{data}", "--int8"], "int8 is True"),
        (["--data", "{data}", "--input-shape", "image=3,32,32"], "a network of Ultralytics takes one image"),
        (["--data", "{data}", "--input-shape", "32"], "a network of Ultralytics takes one image"),
        (["--data", "{data}", "--ranking", "taylor"], "ranking is 'taylor'"),
    ],
)
def test_settings_that_do_not_apply_are_refused(words, said, trained, data, capsys):
    assert said in refused(capsys, trained, *(word.format(data=data) for word in words))


def test_a_yolo_takes_a_yaml_alone(trained, tmp_path, capsys):
    """Of a folder that is there, and of a data set of ours, it was said that there was no such file."""
    for name in (f"folder:{tmp_path}", "digits", str(tmp_path)):
        err = refused(capsys, trained, "--data", name)
        assert f"data is {name!r}: a network of Ultralytics takes the yaml of a data set" in err
        assert "no such file" not in err


def test_layers_to_keep_are_called_as_in_the_network_itself(trained, tmp_path, capsys):
    """Surgery sees it in a module of ours, so that all names begin with `net.`, and `model.0.*` was refused."""
    words = ["--ratio", "0.3", "--no-recover", "--no-onnx", "--keep"]
    widths = []
    for pattern in ("model.0.*", "net.model.0.*"):
        out = tmp_path / pattern[:3]
        assert main(["compress", str(trained), *words, pattern, "--out", str(out)]) == 0
        widths.append(ultralytics.YOLO(out / "model.pt").model.model[0].conv.out_channels)
    assert widths == [ultralytics.YOLO(trained).model.model[0].conv.out_channels] * 2
    capsys.readouterr()
    err = refused(capsys, trained, *words, "model.99.*")
    assert "Layers are model.0.conv" in err


def test_a_yaml_needs_a_network_of_ultralytics(data, tmp_path, capsys):
    torch.save(
        models.build("zoo:resnet8(width=8)", classes=3, input_shape=(3, 8, 8)).model.state_dict(), tmp_path / "a"
    )
    assert "network of Ultralytics" in refused(capsys, tmp_path / "a", "--arch", "zoo:resnet8(width=8)", "--data", data)


def test_modules_of_another_version_are_named(tmp_path, capsys):
    net = fresh("yolov8n")
    del net.model[2].cv1  # what an older version did not have
    path = written(net, tmp_path / "old.pt", version="8.0.7")
    said = refused(capsys, path)
    assert "made by Ultralytics 8.0.7" in said and "pip install ultralytics==8.0.7" in said
    assert "cv1" in said


def test_a_fused_network_is_refused():
    net = fresh("yolov10n")
    net.fuse(verbose=False)
    with pytest.raises(CheckpointError, match="fused for inference"):
        from_checkpoint({"model": net}, Path("yolo.pt"))


def test_without_ultralytics_the_extra_is_named(tmp_path, monkeypatch):
    path = written(fresh("yolo11n-cls"), tmp_path / "yolo.pt")
    for name in [name for name in sys.modules if name.startswith("ultralytics")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("slimkit.models.ultralytics.installed", lambda: "none")
    with pytest.raises(CheckpointError, match=r"pip install 'slimkit\[ultralytics\]'"):
        models.load(path)


class Evil:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def test_what_lies_beside_the_network_is_never_called(tmp_path):
    from ultralytics.utils.downloads import safe_download  # of a package that is left unread

    net = fresh("yolo11n-cls")
    net.transforms = Evil(safe_download, "file:///nowhere")
    net.criterion = Evil(getattr, type(net), "forward")
    model = models.load(written(net, tmp_path / "yolo.pt")).model
    assert not hasattr(model.net, "transforms") and getattr(model.net, "criterion", 0) is None


@pytest.mark.parametrize("owner", [nn.Module, nn.Conv2d, "text", 1, Evil])
def test_of_nothing_else_is_an_attribute_taken(owner, tmp_path):
    net = fresh("yolo11n-cls")
    net.transforms = Evil(getattr, owner, "__init__")
    with pytest.raises(CheckpointError, match=r"getattr|Evil"):
        models.load(written(net, tmp_path / "yolo.pt"))


@pytest.mark.parametrize("name", ["ultralytics.nn.autobackend.AutoBackend", "ultralytics.nn.tasks.attempt_compile"])
def test_other_parts_of_ultralytics_are_refused(name, tmp_path):
    from slimkit.models import pickled_modules
    from slimkit.pickled.machine import Refused

    with pytest.raises(Refused):
        pickled_modules.word(name)


def test_a_layer_may_be_called_what_it_is_but_nothing_that_runs(tmp_path):
    net = fresh("yolo11n-cls")
    net.model[0].type = print
    with pytest.raises(CheckpointError, match=r"print|a method of a module"):
        models.load(written(net, tmp_path / "yolo.pt"))


def test_another_number_of_classes_is_refused_before_anything_is_cut(trained, data, tmp_path, monkeypatch, capsys):
    other = tmp_path / "two.yaml"
    other.write_text(data.read_text().replace("  2: triangle\n", ""))
    monkeypatch.setattr(begun, "ranked", lambda *_: pytest.fail("it was begun"))
    words = [trained, "--data", other, "--epochs", "1", "--out", tmp_path / "out"]
    assert main(["compress", *map(str, words)]) == 2
    assert "data has 2 classes, the network 3" in capsys.readouterr().err


def test_classes_in_another_order_are_refused_before_anything_is_cut(trained, data, tmp_path, monkeypatch, capsys):
    other = tmp_path / "order.yaml"
    names = YAML.load(data)["names"]
    turned = {number: names[(number + 1) % len(names)] for number in names}
    YAML.save(other, YAML.load(data) | {"names": turned})
    monkeypatch.setattr(begun, "ranked", lambda *_: pytest.fail("it was begun"))
    words = [trained, "--data", other, "--epochs", "1", "--out", tmp_path / "out"]
    assert "the network's classes in another order" in refused(capsys, *words)


def test_a_checkpoint_tells_the_size_that_it_is_used_at(tmp_path):
    model = models.load(written(fresh("yolov8n"), tmp_path / "yolo.pt", train_args={})).model
    models.save(model, tmp_path / "slim.pt", torch.zeros(1, 3, 64, 96))
    again = models.load(tmp_path / "slim.pt")
    assert not again.guess and slimkit.provenance.of(again.model).input_shape == (3, 64, 96)


def test_the_default_side_is_a_guess_that_may_be_known_better(tmp_path):
    found = models.load(written(fresh("yolo11n"), tmp_path / "yolo.pt", train_args={}))
    assert "3x640x640: Ultralytics' default" in found.guess and not found.said


def test_another_number_of_classes_is_refused_before_training(slim, data, tmp_path):
    other = tmp_path / "two.yaml"
    other.write_text(data.read_text().replace("  2: triangle\n", ""))
    yolo = ultralytics.YOLO(slim / "model.pt")
    yolo.add_callback("on_pretrain_routine_start", keep_widths)
    with pytest.raises(DataError, match="data has 2 classes, the network 3"):
        yolo.train(data=str(other), project=str(tmp_path), **HOW)
    with pytest.raises(TrainingError, match="pretrained is False"):
        yolo.train(data=str(data), project=str(tmp_path), pretrained=False, **HOW)


def test_the_penalty_is_added_right_before_each_step(data, tmp_path):
    """With no learning rate but one step of SGD, gammas differ by what the penalty adds."""
    moved = {}
    for strength in (0.0, 2.0):
        torch.manual_seed(0)
        yolo = ultralytics.YOLO("yolo11n.yaml")
        yolo.add_callback("on_train_start", penalty(strength))
        steps = []

        def count(trainer, steps=steps):
            steps.append(trainer.optimizer.param_groups[0]["lr"])

        yolo.add_callback("on_train_batch_end", count)
        how = {"optimizer": "SGD", "momentum": 0.0, "lr0": 0.01, "warmup_epochs": 0, "nbs": 8, "fraction": 0.3}
        yolo.train(data=str(data), project=str(tmp_path), name=str(strength), seed=0, **HOW, **how)
        moved[strength] = {name: p.detach() for name, p in yolo.trainer.model.named_parameters() if "bn.weight" in name}
        assert len(steps) == 1
    for name, gamma in moved[0.0].items():
        torch.testing.assert_close(moved[2.0][name], gamma - steps[0] * 2.0, rtol=1e-4, atol=1e-5)


def test_training_is_in_fp32_and_tries_no_other_network(trained, data, monkeypatch):
    """On a GPU the trainer by itself downloads a network of its makers' to see whether fp16 works, and unpickles it."""
    monkeypatch.setattr("ultralytics.engine.trainer.check_amp", lambda _: pytest.fail("another network was tried"))
    lower = []

    def autocast(enabled, **_):
        lower.append(enabled)
        return nullcontext()

    monkeypatch.setattr("ultralytics.engine.trainer.autocast", autocast)
    workshop = Workshop(str(data), "detect", SIDE, 8, {"device": "cpu"})
    workshop.train(Maps(ultralytics.YOLO(trained).model.float()), 1, lambda *_: None)
    assert lower and not any(lower)


def test_a_trainer_that_returns_another_network(monkeypatch, trained, data, tmp_path, capsys):
    real = Workshop.train

    def other(self, model, epochs, progress):
        _, *rest = real(self, model, epochs, progress)
        return Maps(fresh("yolo11n")), *rest

    monkeypatch.setattr(Workshop, "train", other)
    out = tmp_path / "out"
    said = refused(capsys, trained, "--data", data, "--epochs", "1", "--batch-size", "8", "--out", out)
    assert "retrain returned Maps with other weights" in said and not out.exists()


def test_errors_are_of_the_kinds_that_end_with_2():
    assert all(issubclass(kind, SlimkitError) for kind in (ArchitectureError, SpecError, TrainingError))
