"""Whole runs on data as people have it: masks, loaders, numbers instead of classes, pictures of the network's size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shapes
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import slimkit
from slimkit import data, provenance, zoo
from slimkit.cli import main
from slimkit.data.tensor_split import TensorSplit
from slimkit.errors import DataError, SlimkitError, SpecError
from slimkit.measure.quality import evaluate
from slimkit.models import load
from slimkit.provenance import Provenance
from slimkit.report.sections.several import Compared, comparison
from slimkit.tasks import CLASSIFICATION, SEGMENTATION, Task
from slimkit.training import Recipe, train

CHECKPOINT = Path(zoo.__file__).parent / "resnet8-digits.safetensors"


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of made pictures with masks, and a checkpoint trained on it."""
    root = tmp_path_factory.mktemp("shapes")
    for seed, (part, count) in enumerate((("train", 120), ("val", 40))):
        shapes.write(root / "data", part, count, seed)
    opened = data.open(f"folder:{root / 'data'}", task=SEGMENTATION, own=Provenance(input_shape=(3, 24, 24)))
    torch.manual_seed(0)
    recipe = Recipe(epochs=16, batch_size=20, device="cpu", precision="fp32", augment=False)
    trained = train(shapes.Segmenter(), opened.train, recipe, task=SEGMENTATION)
    torch.save(trained.model.state_dict(), root / "net.pt")
    assert evaluate(trained.model, opened.validation, SEGMENTATION)["mean IoU"].value > 0.75
    return root / "data", root / "net.pt"


@pytest.mark.long
def test_a_segmentation_network_is_compressed_and_retrained(
    segmentation: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, checkpoint = segmentation
    out = tmp_path / "out"
    words = ["compress", str(checkpoint), "--arch", f"{Path(shapes.__file__)}:Segmenter", "--task", "segmentation"]
    words += ["--data", f"folder:{folder}", "--input-shape", "3,24,24", "--ratio", "0.5", "--epochs", "3"]
    assert main([*words, "--batch-size", "20", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    found, before = (report[side]["accuracy"] for side in ("after", "before"))
    assert (found["task"], found["metric"], found["test_images"]) == ("segmentation", "mean IoU", 40)
    low, high = found["interval"]
    assert low < found["test"] < high
    assert found["test"] > before["test"] - 0.1 > 0.6
    start, last = report["after_cut"][-1]["accuracy"], report["recovery"]["history"][-1]["validation_accuracy"]
    assert found["validation"] == (last if report["recovery"]["delivered"] else start) >= max(start, last) - 0.02
    assert report["after"]["macs"] < 0.6 * report["before"]["macs"]
    split = data.open(f"folder:{folder}", task=SEGMENTATION, own=Provenance(input_shape=(3, 24, 24))).validation
    assert evaluate(out / "model.onnx", split, SEGMENTATION)["mean IoU"].value == pytest.approx(found["test"], abs=1e-3)
    assert any("resize squash" in words for words in report["arch"]["assumptions"])


def test_the_wrong_task_is_told_and_what_fits(segmentation: tuple[Path, Path]) -> None:
    folder, _ = segmentation
    opened = data.open(f"folder:{folder}", task=SEGMENTATION, own=Provenance(input_shape=(3, 24, 24)))
    with pytest.raises(DataError, match=r"(?s)task classification: .*\[2, 3, 24, 24\].*`task='segmentation'`"):
        data.check_fits(replace(opened, task=CLASSIFICATION), shapes.Segmenter())


@pytest.mark.parametrize("part", ["train", "validation"])
def test_masks_of_another_size_than_their_images_are_refused(part: str) -> None:
    images, masks = shapes.shapes(8)
    images, halves = images / 255, masks[:, ::2, ::2]
    for given in (
        {name: (images, halves if name == part else masks) for name in ("train", "validation")},
        {name: [(images, halves if name == part else masks)] for name in ("train", "validation")},  # loaders
    ):
        with pytest.raises(DataError, match=rf"dataset: {part}: images are 24x24, their masks 12x12.\n  Give"):
            slimkit.compress(shapes.Segmenter(), images[:1], 0.5, dataset=given, task="segmentation", epochs=0)
    made = data.as_dataset(((images, masks), (images, masks)), task=SEGMENTATION)
    assert isinstance(made.validation, TensorSplit)
    half = replace(made.validation, labels=halves)
    with pytest.raises(DataError, match="images are 24x24, their masks 12x12"):
        slimkit.compress(shapes.Segmenter(), images[:1], 0.5, dataset=replace(made, validation=half), epochs=0)


def net(outputs: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, outputs),
    )  # fmt: skip


def test_anybodys_loaders_serve_the_python_call() -> None:
    images, labels = torch.randn(60, 3, 8, 8), torch.arange(60) % 4
    loaders = [DataLoader(TensorDataset(images, labels), batch_size=7, shuffle=shuffle) for shuffle in (True, False)]
    result = slimkit.compress(net(4), images[:1], 0.5, dataset=tuple(loaders), epochs=1, batch_size=20)
    after = result.report.after.accuracy
    right = (result.model(images).argmax(1) == labels).double().mean()
    assert after.test == after.validation == pytest.approx(float(right)) and after.test_images == 60
    assert not after.tested_apart and after.quoted is not None and after.quoted.split == "validation"
    assert result.report.recovery.images == 60
    assert any("no test split" in words for words in result.report.arch.assumptions)


def test_a_task_of_ones_own_is_what_is_trained_and_reported() -> None:
    images = torch.rand(80, 3, 8, 8)
    brightness = images.mean((1, 2, 3)).unsqueeze(1) * 10
    task = Task.of(loss=F.mse_loss, metrics={"error": lambda a, b: (a - b).abs().flatten(1).mean(1)}, better="lower")
    opened = data.as_dataset(((images, brightness), (images[:40], brightness[:40])), task=task)
    recipe = Recipe(epochs=10, batch_size=20, learning_rate=0.05, device="cpu", precision="fp32")
    dense = train(net(), opened.train, recipe, task=task).model
    result = slimkit.compress(dense, images[:1], 0.3, dataset=opened, epochs=3, batch_size=20, learning_rate=0.01)
    found = result.report.after.accuracy
    error = (result.model(images[:40]) - brightness[:40]).abs().mean().detach()
    assert (found.metric, found.better) == ("error", "lower")
    assert found.test == pytest.approx(float(error), rel=1e-3)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"dataset": "digit"}, "did you mean digits"),
        ({"data": "nowhere"}, "data is 'nowhere'"),
        ({"data": "digits", "dataset": "digits"}, "and dataset is given too"),
        ({"dataset": 3}, "dataset: it is int"),
        ({"resize": 40}, "resize is 40: there is no data for it"),
        ({"task": "segmentation"}, "task is 'segmentation': there is no data"),
        ({"data": "digits", "task": "segmentation"}, "its targets are classes"),
        ({"data": "digits", "task": "segment"}, "did you mean segmentation"),
        ({"data": "digits", "allow_bad": 0.1}, "allow_bad is set"),
        ({"data": "digits", "mean": (0.5,)}, "of mean and std only one"),
        ({"data": "digits", "input_shape": "1,16,16"}, "input_shape is 1,16,16, but the images of 'digits' are 1,8,8"),
    ],
)
def test_no_setting_of_data_is_accepted_and_ignored(how: dict[str, Any], why: str) -> None:
    with pytest.raises((SpecError, DataError), match=why):
        slimkit.compress(load(CHECKPOINT).model, torch.zeros(1, 1, 8, 8), 0.5, **how)


@pytest.mark.long
@pytest.mark.parametrize("how", [{"data": "digits"}, {"dataset": "digits"}, {"dataset": data.open("digits")}])
def test_named_data_is_used_in_the_python_call_too(how: dict[str, Any]) -> None:
    result = slimkit.compress(load(CHECKPOINT).model, torch.zeros(1, 1, 8, 8), 0.3, epochs=0, **how)
    assert result.report.after.accuracy.test_images == 359


def _uint8(darker: bool) -> Any:
    """Return digits as people hold them; the training images may be darker, so that their statistics are others."""
    opened = data.open("digits", own=Provenance(normalisation={"mean": [0.0], "std": [1.0]})).normalised(
        {"mean": [0.0], "std": [1.0]}
    )
    parts = {}
    for part in ("train", "validation", "test"):
        images, labels = next(iter(getattr(opened, part).batches(2000)))
        parts[part] = ((images * (100 if darker and part == "train" else 255)).round().to(torch.uint8), labels)
    return parts


@pytest.mark.parametrize("given", [lambda: data.open("digits"), lambda: _uint8(False), lambda: _uint8(True)])
def test_images_are_normalised_as_the_network_was_trained_however_they_are_given(given: Any) -> None:
    """Objects kept their own statistics: a network of mean 0 and deviation 1 was said to be right in 45 %."""
    trained = slimkit.load(CHECKPOINT)
    scale = provenance.of(trained).normalisation
    assert scale is not None
    mean, std = scale["mean"][0], scale["std"][0]
    net = nn.Sequential(_Scaled(mean, std), trained).eval()
    plain = {"mean": [0.0], "std": [1.0]}
    for one, known in ((trained, scale), (net, plain)):
        provenance.attach(one, replace(provenance.of(trained), arch=None, normalisation=known))
        settings: dict[str, Any] = {"epochs": 0, "onnx": False, "recover": False}
        found = slimkit.compress(one, torch.zeros(1, 1, 8, 8), 0.25, dataset=given(), **settings)
        before = found.report.before.accuracy
        assert before is not None and before.test == pytest.approx(0.997, abs=1e-3)
        assert provenance.of(found.model).normalisation == known


@pytest.mark.parametrize("given", [lambda: data.open("digits"), lambda: _uint8(False)["train"][0]])
def test_so_are_calibration_images(given: Any) -> None:
    """Fitted to images in their own units, the same network was right in 71 %, and in 9 % by uint8."""
    trained = slimkit.load(CHECKPOINT)
    scale = provenance.of(trained).normalisation
    assert scale is not None
    net = nn.Sequential(_Scaled(scale["mean"][0], scale["std"][0]), trained).eval()
    plain = {"mean": [0.0], "std": [1.0]}
    provenance.attach(net, replace(provenance.of(trained), arch=None, normalisation=plain))
    made = slimkit.compress(net, torch.zeros(1, 1, 8, 8), 0.25, calibration=given(), epochs=0, onnx=False)
    assert made.report.fit is not None and not made.report.fit.strange
    images, labels = next(iter(data.open("digits").normalised(plain).test.batches(400)))
    assert float((made.model(images).argmax(1) == labels).float().mean()) > 0.97


class _Scaled(nn.Module):
    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


@pytest.mark.parametrize("size", [8, 12])
def test_how_pictures_are_read_is_kept_where_tensors_say_nothing_of_it(size: int) -> None:
    """A network trained at crop 1.0 was delivered without a word of it, and read at 0.875: half as good."""
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)).eval()
    known = Provenance(input_shape=(3, 8, 8), use=provenance.Use(resize=10))
    provenance.attach(net, known)
    images, labels = torch.rand(40, 3, size, size), torch.arange(40) % 2
    settings: dict[str, Any] = {"epochs": 0, "onnx": False, "recover": False}
    made = slimkit.compress(net, images[:1], 0.5, dataset=((images, labels), (images, labels)), **settings)
    use = provenance.of(made.model).use
    assert (use.resize, use.crop) == ((10, None) if size == 8 else (None, 0.8))  # the same share of a picture


def test_runs_on_other_data_are_not_compared_though_it_has_no_name() -> None:
    """A run on ten digits "got the most right" beside one on two of them; `digits` itself was not in the report."""
    digits = data.open("digits")
    few = [tuple(tensor[:90] for tensor in next(iter(part.batches(90)))) for part in (digits.train, digits.test)]
    runs = []
    for place, given in enumerate(("digits", digits, few)):
        settings: dict[str, Any] = {"epochs": 0, "onnx": False, "recover": False}
        report = slimkit.compress(
            slimkit.load(CHECKPOINT), torch.zeros(1, 1, 8, 8), 0.25, dataset=given, **settings
        ).report
        runs.append(Compared(name=str(place), report=report, place=place))
    assert [run.report.spec["data"] for run in runs] == ["digits", None, None]
    verdict, _ = comparison(runs)
    assert verdict.sentence.startswith("3 runs of 3 kinds: ") and "90 test images" not in verdict.sentence
    assert "1 of resnet8 on digits" in verdict.sentence and "on 359 test images" in verdict.sentence


@pytest.mark.parametrize("shape", [(1, 40), (5, 12, 12), (2, 4, 6, 6), (30,)])
def test_the_shape_may_be_said_beside_ones_own_data_of_any_rank(shape: tuple[int, ...], tmp_path: Path) -> None:
    """As it is found in the data; another one is refused."""
    (tmp_path / "mine.py").write_text(
        "import torch\ndef make():\n"
        f"    both = torch.randn(40, *{shape}), torch.arange(40) % 3\n    return both, both\n"
    )
    how = data.Reading(input_shape=shape)
    assert data.open(f"{tmp_path}/mine.py:make", reading=how).input_shape == shape
    with pytest.raises(DataError, match="Leave `input_shape` out"):
        data.open(f"{tmp_path}/mine.py:make", reading=replace(how, input_shape=(*shape[:-1], 7)))


@pytest.mark.long
def test_pictures_are_read_at_the_size_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "        nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "        nn.Linear(8, 2))\n"
    )
    scope: dict[str, Any] = {}
    exec((tmp_path / "net.py").read_text(), scope)
    torch.save(scope["make"]().state_dict(), tmp_path / "net.pt")
    for label, name in enumerate(("dark", "light")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            colour = (100 * label + number,) * 3
            Image.new("RGB", (30, 24), colour).save(tmp_path / "pictures" / name / f"{number}.png")
    words = ["compress", str(tmp_path / "net.pt"), "--arch", f"{tmp_path / 'net.py'}:make", "--epochs", "1"]
    words += ["--data", f"folder:{tmp_path / 'pictures'}", "--out", str(tmp_path / "out")]
    how = ["--input-shape", "3,20,20", "--resize", "20", *["--mean", "0.4"] * 3, *["--std", "0.5"] * 3]
    assert main([*words, *how]) == 0
    arch = json.loads((tmp_path / "out" / "report.json").read_text())["arch"]
    assert arch["input_shape"] == [3, 20, 20]
    assert arch["normalisation"] == {"mean": [0.4] * 3, "std": [0.5] * 3}
    assert main(["compress", str(tmp_path / "out" / "model.safetensors"), *words[2:-1], str(tmp_path / "twice")]) == 0
    again = json.loads((tmp_path / "twice" / "report.json").read_text())["arch"]
    assert (again["input_shape"], again["normalisation"]) == ([3, 20, 20], {"mean": [0.4] * 3, "std": [0.5] * 3})
    assert any("input_shape from the network" in words for words in again["assumptions"])


def test_a_user_can_mend_every_refusal() -> None:
    assert issubclass(DataError, SlimkitError) and issubclass(SpecError, SlimkitError)


def test_training_takes_loaders_too() -> None:
    images, labels = torch.randn(60, 3, 8, 8), torch.arange(60) % 4
    loader = DataLoader(TensorDataset(images, labels), batch_size=7, shuffle=True)
    for idle in ({"data": "digits"}, {"arch": "resnet18"}, {"crop": 0.5}, {"resume": True}):
        with pytest.raises(SpecError, match=f"{next(iter(idle))} is .*\n.*[Ll]eave `"):
            slimkit.train(net(4), (loader, loader), 0.5, **idle)
    result = slimkit.train(net(4), (loader, loader), 0.5, epochs=2, batch_size=20)
    found = result.report.after.accuracy
    right = (result.model(images).argmax(1) == labels).double().mean()
    assert (found.test_images, found.test) == (60, pytest.approx(float(right)))


@pytest.mark.parametrize("count", [8, 64, 129, 160, 251, 300, 1293])
def test_hardly_an_input_is_left_out_for_the_size_of_batches(count: int) -> None:
    images = torch.arange(count)[:, None].float()
    given = list(data.as_inputs(images).batches(128, at_most=2048, seed=3))
    seen = torch.cat([batch for batch in given if isinstance(batch, torch.Tensor)]).flatten()
    assert len(seen) == len(seen.unique()) >= count - 1 and max(map(len, given)) <= 128
    assert seen.tolist() != sorted(seen.tolist())


def _with_nan() -> torch.Tensor:
    images = torch.randn(64, 1, 8, 8)
    images[::9] = torch.nan
    return images


@pytest.mark.parametrize(
    ("inputs", "settings", "said"),
    [
        (torch.randn(64, 1, 17, 9), {}, "its inputs are 1x17x9, the network is used with 1x8x8.*free_size=True"),
        (torch.randn(7, 1, 8, 8), {}, "has 7 inputs: too few.*recover=False"),
        (torch.ones(64, 1, 8, 8), {}, "holds 64 times the same input"),
        (_with_nan(), {}, "not finite"),
        (
            torch.randn(64, 1, 8, 8),
            {"max_drop": 2.0, "ratio": None},
            "8 images cannot .*728 unlabelled inputs or more, here 64: an eighth",
        ),
    ],
    ids=["shape", "few", "equal", "nan", "drop"],
)
def test_what_is_wrong_with_calibration_inputs_is_said(inputs: torch.Tensor, settings: Any, said: str) -> None:
    net = load(Path(zoo.__file__).parent / "resnet8-digits.safetensors").model
    with pytest.raises(DataError, match=f"(?s){said}"):
        slimkit.compress(net, torch.randn(1, 1, 8, 8), **{"ratio": 0.3, "calibration": inputs, "epochs": 0, **settings})
