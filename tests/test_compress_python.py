"""`slimkit.compress` in Python: whatever runs is taken, whatever is given is used, whatever is refused says why."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

import slimkit
from slimkit import models, zoo
from slimkit.cli import main
from slimkit.data import as_dataset
from slimkit.data import open as open_data
from slimkit.errors import (
    ArchitectureError,
    DataError,
    OutOfReachError,
    ProofError,
    SlimkitError,
    SpecError,
    TraceError,
    TrainingError,
)
from slimkit.measure import latency
from slimkit.measure.node_times import NodeTime
from slimkit.measure.quality import quality
from slimkit.report.verdict import verdict
from slimkit.tasks import Task

IMAGE = torch.randn(1, 3, 8, 8)


def block(kind: type[nn.Module], *extra: nn.Module) -> nn.Sequential:
    first = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
    return nn.Sequential(*first, *extra, kind(), nn.Conv2d(8, 8, 3), nn.ReLU())


def run(net: Any, inputs: Any) -> Tensor:
    found = net(**inputs) if isinstance(inputs, dict) else net(*inputs) if isinstance(inputs, tuple) else net(inputs)
    return getattr(found, "logits", found)


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "measure", partial(latency.measure, seconds=0.02))


def headed(body: nn.Module) -> nn.Sequential:
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 3))
        self.mixer, self.head = kind(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mixer(self.stem(x).flatten(2).transpose(1, 2))[0][:, -1])


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = block(nn.ReLU), block(nn.ReLU), nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head((self.a(left) + self.b(right)).mean((2, 3)))


class Named(Pair):
    def forward(self, left: Tensor, right: Tensor) -> Any:  # type: ignore[override]
        return SimpleNamespace(logits=super().forward(left, right))


def convolutions(rank: int) -> nn.Sequential:
    conv, norm = (getattr(nn, f"{kind}{rank}d") for kind in ("Conv", "BatchNorm"))
    return nn.Sequential(conv(2, 8, 3), norm(8), nn.ReLU(), conv(8, 6, 3), nn.Flatten(), nn.LazyLinear(3))


LIVE: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "LSTM": (lambda: Recurrent(nn.LSTM), IMAGE),
    "GRU": (lambda: Recurrent(nn.GRU), IMAGE),
    "in-place Dropout2d": (lambda: headed(block(nn.ReLU, nn.Dropout2d(inplace=True))), IMAGE),
    "FeatureAlphaDropout": (lambda: headed(block(nn.ReLU, nn.FeatureAlphaDropout())), IMAGE),
    "RReLU": (lambda: headed(block(nn.RReLU)), IMAGE),
    "a vector": (lambda: nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(1, 20)),
    "1-D": (lambda: convolutions(1), torch.randn(1, 2, 16)),
    "3-D": (lambda: convolutions(3), torch.randn(1, 2, 6, 6, 6)),
    "a tuple of inputs": (Pair, (IMAGE, IMAGE)),
    "a dict of inputs": (Pair, {"left": IMAGE, "right": IMAGE}),
    "an object as output": (Named, (IMAGE, IMAGE)),
    "float64": (lambda: headed(block(nn.ReLU)).double(), IMAGE.double()),
    "half": (lambda: headed(block(nn.ReLU)).half(), IMAGE.half()),
    "bfloat16": (lambda: headed(block(nn.ReLU)).bfloat16(), IMAGE.bfloat16()),
    "DataParallel": (lambda: nn.DataParallel(headed(block(nn.ReLU))), IMAGE),
    "compiled": (lambda: torch.compile(headed(block(nn.ReLU)), backend="eager"), IMAGE),
}


@pytest.mark.long
@pytest.mark.parametrize("name", LIVE)
def test_whatever_runs_is_taken(name: str) -> None:
    make, example = LIVE[name]
    torch.manual_seed(0)
    net = make().eval()
    with torch.no_grad():
        run(net, example)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}

    result = slimkit.compress(net, example, 0.5, round_to=1)

    assert result.report.channels.removed > 0
    assert result.report.after.params < result.report.before.params
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
    assert {p.dtype for p in result.model.parameters()} == {p.dtype for p in net.parameters()}
    run(result.model.train(), example).float().sum().backward()  # it trains
    again = slimkit.compress(result.model.eval(), example, 0.3, round_to=1, onnx=False)  # files once
    assert again.report.after.params < result.report.after.params


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return slimkit.load(zoo.CHECKPOINTS["resnet8-digits"])


@pytest.fixture(scope="module")
def digits() -> Any:
    return open_data("digits")


@pytest.fixture(scope="module")
def few(digits: Any) -> Any:
    """A fifth of the digits to train on, all of them to validate."""
    train, validation = (next(iter(split.batches(256))) for split in (digits.train, digits.validation))
    return as_dataset((train, validation))


# What is about neither the recovery nor the files does without them; channels by the sizes of weights cost nothing.
CUT = {"recover": False, "onnx": False}
PLAIN = {"ranking": "group-norm", "onnx": False}
FEW = {"epochs": 0, "round_to": 1}
DIGIT = torch.randn(1, 1, 8, 8)


def test_a_data_set_from_python_is_data(resnet: nn.Module, digits: Any) -> None:
    result = slimkit.compress(resnet, DIGIT, 0.5, dataset=digits, ranking="taylor", int8=True, **FEW)
    assert result.report.after.accuracy is not None and result.report.int8.bytes > 0


def test_data_by_name_is_used(resnet: nn.Module) -> None:
    assert slimkit.compress(resnet, DIGIT, 0.5, data="digits", **FEW, **CUT).report.after.accuracy is not None
    assert slimkit.compress(resnet, DIGIT, 0.5, dataset="digits", **FEW, **CUT).report.after.accuracy is not None


def test_loaders_are_data(resnet: nn.Module) -> None:
    images, labels = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)
    report = slimkit.compress(resnet, DIGIT, 0.5, dataset=(loader, loader), epochs=1, round_to=1, batch_size=16).report
    assert report.recovery.images == 64 and report.after.accuracy is not None


def test_own_retraining_and_own_figures(resnet: nn.Module) -> None:
    seen = []

    def retrain(model: nn.Module, teacher: nn.Module) -> nn.Module:
        seen.append((sum(p.numel() for p in model.parameters()), sum(p.numel() for p in teacher.parameters())))
        with torch.no_grad():
            model.fc.bias.fill_(7.0)  # type: ignore[union-attr,operator]
        return model

    weights: Any = lambda net: {"weights": sum(p.numel() for p in net.parameters())}  # noqa: E731
    result = slimkit.compress(resnet, DIGIT, 0.5, retrain=retrain, evaluate=weights, **CUT)
    assert seen[0][0] < seen[0][1]
    assert bool((result.model.fc.bias == 7.0).all())  # type: ignore[union-attr,operator]
    assert (result.report.own.after["weights"], result.report.own.before["weights"]) == seen[0]


@pytest.mark.parametrize(
    "wrap",
    [
        partial(torch.compile, backend="eager"),
        nn.DataParallel,
        AveragedModel,
        lambda net: nn.DataParallel(AveragedModel(net)),
    ],
    ids=["compiled", "parallel", "averaged", "both"],
)
def test_networks_may_be_wrapped_and_come_back_wrapped(
    resnet: nn.Module, wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    result = slimkit.compress(wrap(resnet), DIGIT, 0.5, retrain=lambda slim, _: wrap(slim), out=tmp_path / "out", **CUT)
    assert type(result.model) is type(resnet)
    assert (tmp_path / "out" / "model.safetensors").exists()


def diverged(model: nn.Module, teacher: nn.Module) -> nn.Module:
    model.get_parameter("conv1.weight").data.fill_(float("nan"))
    return model


LOADERS = ([(torch.randn(8, 1, 8, 8), torch.arange(8))] * 4,) * 2
REFUSED: dict[str, tuple[dict[str, Any], type[SlimkitError], str]] = {
    "unknown data": ({"data": "nowhere"}, DataError, "nowhere"),
    "misspelt setting": ({"rato": 0.5}, SpecError, "Did you mean ratio"),
    "taylor without data": ({"ranking": "taylor"}, DataError, "needs data.*\n.*`data='digits'`"),
    "int8 without data": ({"int8": True}, DataError, "needs data"),
    "two data sets": ({"data": "digits", "dataset": "digits"}, SpecError, "Give one of them"),
    "no data set": ({"dataset": 3}, DataError, "int"),
    "how data is read, which is there": (
        {"dataset": LOADERS, "crop": 0.5},
        SpecError,
        "crop is 0.5: the data is given",
    ),
    "a shape beside the example": ({"input_shape": "3,4,4"}, SpecError, "input_shape is '3,4,4': example_input has it"),
    "what a file is read by": ({"arch": "resnet18"}, SpecError, "arch is 'resnet18': the network is given"),
    "what is made small is measured of no file": (
        {"max_drop": 2.0, "minimise": "energy", "onnx": False},
        SpecError,
        "minimise is 'energy'.*\n.*Leave out `onnx=False`",
    ),
    "where channels compete for a ratio": (
        {"ratio": 0.5, "scope": "global"},
        SpecError,
        "scope is 'global': every group loses the same share.*\n.*`ranking='group-norm'`",
    ),
    "where channels compete for a budget of work": (
        {"max_macs": 0.5, "scope": "global"},
        SpecError,
        "scope is 'global': the budget is shared out between all groups",
    ),
    "what max_drop makes small": ({"minimise": "macs"}, SpecError, "minimise is 'macs'.*\n.*Add `max_drop`"),
    "a pace of nothing": ({"batch_size": 8}, SpecError, "batch_size is 8: there is nothing to retrain on"),
    "epochs of nothing": ({"epochs": 3}, SpecError, "epochs is 3: there is nothing to retrain on"),
    "no teacher without labels": ({"calibration": "digits", "distill": False}, SpecError, "distill is False: without"),
    "a pace of one's own": ({"retrain": lambda *_: None, "learning_rate": 0.1}, SpecError, "`retrain` takes the place"),
    "a folder that is not": ({"resume": True}, SpecError, "resume is True: without `out` nothing is written"),
    "an optimizer without data": (
        {"optimizer": "adamw"},
        SpecError,
        "(?s)nothing to retrain on.*leave `optimizer` out",
    ),
    "batches without epochs": (
        {"data": "digits", "epochs": 0, "batch_size": 4},
        SpecError,
        "batch_size is 4: `epochs`",
    ),
    "watchers of nothing": ({"watchers": [lambda *_: None]}, SpecError, "watchers are given: nothing is retrained"),
    "a device for nothing": ({"device": "cpu", "recover": False}, SpecError, "device is 'cpu': nothing is fitted"),
    "figures without names": (
        {"evaluate": lambda net: 3, **CUT},
        SpecError,
        "evaluate returned 3: it must return numbers",
    ),
    "figures that are words": (
        {"evaluate": lambda net: {"a": "x"}, **CUT},
        SpecError,
        "(?s)it must return numbers.*return {",
    ),
    "retraining that diverged": (
        {"retrain": diverged, **CUT},
        TrainingError,
        "conv1.weight holds NaN.*\n.*lower",
    ),
    "a layer that is not there": ({"keep": ("nowhere.*",)}, SlimkitError, "keep is 'nowhere"),
    "retraining that gives nothing back": ({"retrain": lambda *_: None, **CUT}, TrainingError, "NoneType"),
    "retraining that gives another network": (
        {"retrain": lambda *_: nn.Linear(2, 2), **CUT},
        TrainingError,
        "other weights",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_says_why(resnet: nn.Module, name: str) -> None:
    settings, kind, says = REFUSED[name]
    with pytest.raises(kind, match=says):
        slimkit.compress(resnet, DIGIT, **settings)


def test_networks_and_examples_that_are_not_there_yet(resnet: nn.Module) -> None:
    with pytest.raises(ArchitectureError, match="(?s)'0.weight'.*Call it once on an input"):
        slimkit.compress(nn.Sequential(nn.LazyConv2d(8, 3)), DIGIT, 0.5)
    with pytest.raises(DataError, match="example_input is .0, 1, 8, 8.: it is empty"):
        slimkit.compress(resnet, DIGIT[:0], 0.5)
    with pytest.raises(SpecError, match="ratio is 'a'"):
        slimkit.EarlyBird(slimkit.trace(resnet, DIGIT), ratio="a")  # type: ignore[arg-type]


def test_numbers_as_numpy_makes_them_are_taken(resnet: nn.Module) -> None:
    images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
    figures = {"a tensor": torch.tensor(0.5), "numpy's": np.float32(0.25), "none": float("nan")}
    settings: dict[str, Any] = {"epochs": 1, "evaluate": lambda net: figures, **PLAIN}
    doubled = [slimkit.compress(resnet, DIGIT, 0.5, dataset=part, **settings) for part in (
        ((images.double(), labels), (images, labels)),
        ([(images.double(), labels)], [(images.double(), labels)]),
    )]  # fmt: skip
    plain = slimkit.compress(resnet, DIGIT, 0.5, dataset=((images, labels), (images, labels)), **settings)
    assert doubled[0].report.own == plain.report.own
    assert plain.report.own is not None and plain.report.own.after == {"a tensor": 0.5, "numpy's": 0.25, "none": None}
    for made, wanted in zip(doubled[0].model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(made, wanted)


@pytest.mark.long
@pytest.mark.parametrize("around", ["float64", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_callers_precision_is_not_the_runs(around: str, dtype: torch.dtype, tmp_path: Path) -> None:
    net = headed(block(nn.ReLU)).to(dtype).eval()
    nn.init.normal_(net[0][1].running_mean)  # type: ignore[index, arg-type]
    inputs = torch.randn(64, 3, 8, 8, dtype=dtype)
    wanted = slimkit.compress(net, inputs[:1], ratio=0.4, calibration=inputs, epochs=0)
    torch.set_default_dtype(torch.float64 if around == "float64" else torch.float32)
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=around == "autocast"):
            found = slimkit.compress(net, inputs[:1], ratio=0.4, calibration=inputs, epochs=0)
            slimkit.compress(net, inputs[:1], ratio=0.4, onnx=False)
            slimkit.export_onnx(copy.deepcopy(net).float(), tmp_path / "net.onnx", inputs[:1].float())
            assert torch.is_autocast_enabled("cpu") == (around == "autocast")
        assert torch.get_default_dtype() == (torch.float64 if around == "float64" else torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.mask.keep, wanted.mask.keep)
    torch.testing.assert_close(found.model.state_dict(), wanted.model.state_dict())
    assert found.report.proof == wanted.report.proof


def test_torchscript_is_refused_by_its_name() -> None:
    with warnings.catch_warnings(action="ignore"):
        scripted = torch.jit.script(headed(block(nn.ReLU)))
    with pytest.raises(ArchitectureError, match="TorchScript"):
        slimkit.compress(scripted, IMAGE)


def test_layers_to_keep_are_kept(resnet: nn.Module) -> None:
    asked: dict[str, Any] = {"calibration": IMAGES, "onnx": False, **FEW}
    report = slimkit.compress(resnet, DIGIT, 0.4, keep=("layer2.*", "conv1"), **asked).report
    whole = [g for g in report.groups if any(n.startswith("layer2.") for n in g.layers)]
    assert whole and all(g.before == g.after for g in whole)
    assert report.channels.removed > 0


@pytest.mark.long
@pytest.mark.parametrize("ranking", ["auto", "group-norm"])
@pytest.mark.parametrize("budget", [{"max_macs": 0.03}, {"max_params": 0.03}, {"max_bytes": 0.05}, {"ratio": 0.9}])
def test_widths_that_an_engine_likes_are_no_reason_to_refuse(budget: dict[str, float], ranking: str) -> None:
    wide = [nn.Sequential(nn.Conv2d(i, o, 3), nn.BatchNorm2d(o), nn.ReLU()) for i, o in ((3, 64), (64, 64), (64, 8))]
    net = headed(nn.Sequential(*wide))
    asked: dict[str, Any] = {"calibration": torch.randn(64, 3, 8, 8), "ranking": ranking, **budget}
    report = slimkit.compress(net, IMAGE, **asked).report
    assert any("Widths are multiples of" in note for note in report.warnings)
    with pytest.raises(OutOfReachError, match="Raise|Lower"):
        slimkit.compress(net, IMAGE, round_to=32, **asked)


def test_what_calls_give_is_shown_on_a_line(resnet: nn.Module, digits: Any) -> None:
    graph = slimkit.trace(resnet, DIGIT)
    result = slimkit.compress(resnet, DIGIT, 0.5, **CUT)
    given = {"Graph(224": graph, "Mask(112": result.mask, "Report('compress'": result.report, "Result(ResNet": result}
    for begins, found in {
        **given,
        "EarlyBird(ratio=0.5": slimkit.EarlyBird(graph),
        "Dataset(name='digits'": digits,
    }.items():
        assert repr(found).startswith(begins) and len(repr(found)) < 400 and "\n" not in repr(found)


IMAGES = torch.randn(32, 1, 8, 8)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (IMAGES.expand(32, 3, 8, 8), "does not run on its inputs of shape"),
        (IMAGES.long(), "does not run on its inputs of shape"),
        ([IMAGES[:16], torch.randn(16, 1, 12, 12)], r"different shapes, \[1, 8, 8\] and \[1, 12, 12\]"),
        (IMAGES[:7], "has 7 inputs: too few"),
        (torch.ones(32, 1, 8, 8), "32 times the same input"),
        (torch.cat([IMAGES, torch.full((1, 1, 8, 8), float("inf"))]), "not finite"),
    ],
)
def test_poor_calibration_ends_the_run(resnet: nn.Module, given: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^calibration.*{says}"):
        slimkit.compress(resnet, DIGIT, 0.5, calibration=given, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_inputs_that_span_little_are_fitted_to_all_the_same(resnet: nn.Module) -> None:
    """All are multiples of one, so that every system is singular."""
    few = torch.linspace(0, 1, 32).reshape(-1, 1, 1, 1) * IMAGES[0]
    result = slimkit.compress(resnet, DIGIT, 0.5, calibration=few, epochs=0)
    fit = result.report.fit
    assert fit is not None and fit.after <= fit.before
    assert all(bool(tensor.isfinite().all()) for tensor in result.model.state_dict().values())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_drop": -1.0}, "max_drop is -1"),
        ({"max_drop": 2.0}, "there is nothing to measure it on"),
        ({"max_drop": 0.5, "data": "digits"}, "144 images cannot tell so small a drop, it takes 363 or more"),
        ({"max_drop": 2.0, "ratio": 0.5}, "a run has one budget"),
    ],
)
def test_a_drop_that_cannot_be_told_is_refused(resnet: nn.Module, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SlimkitError, match=says):
        slimkit.compress(resnet, DIGIT, **settings)


@pytest.mark.long
@pytest.mark.parametrize("budget", [{"max_macs": 0.3}, {"max_params": 0.3}, {"max_latency": 0.93}])
def test_a_second_look_leaves_the_network_no_further_off(resnet: nn.Module, digits: Any, budget: Any) -> None:
    """Within the budget, and as near to the original as the first look: both are tried."""
    asked: dict[str, Any] = {"calibration": next(iter(digits.train.batches(192)))[0], "epochs": 0, **budget}
    twice = slimkit.compress(resnet, DIGIT, rounds=2, **asked)
    if "max_latency" not in budget:  # times differ, and with them what is within
        once = slimkit.compress(resnet, DIGIT, rounds=1, **asked)
        assert twice.report.fit.after <= once.report.fit.after * (1 + 1e-6)
    for kind in ("macs", "params"):
        share = getattr(twice.report.after, kind) / getattr(twice.report.before, kind)
        assert share <= budget.get(f"max_{kind}", 1.0)
    assert twice.report.proof.masked_vs_slim <= twice.report.proof.tolerance


@pytest.mark.parametrize(
    "settings", [{"ratio": 0.3}, {"max_macs": 0.3, "ranking": "group-norm"}, {"max_macs": 0.3, "recover": False}]
)
def test_a_second_look_that_would_not_be_taken_is_refused(resnet: nn.Module, digits: Any, settings: Any) -> None:
    with pytest.raises(SpecError, match=r"rounds is 2: channels are looked at again where `ranking='auto'`"):
        slimkit.compress(resnet, DIGIT, calibration=digits, epochs=0, rounds=2, **settings)


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is within a drop is looked for three times, not six: one that is, and one that is not."""
    monkeypatch.setattr("slimkit.runs.cut.drop._QUICK", 2)
    monkeypatch.setattr("slimkit.runs.cut.drop._LOOKS", 1)


@pytest.mark.usefixtures("short_search")
def test_the_smallest_network_within_a_drop_keeps_it(resnet: nn.Module, few: Any) -> None:
    result = slimkit.compress(resnet, DIGIT, dataset=few, max_drop=4.0, epochs=0, **PLAIN)
    found = result.report.drop
    before, after = (quality(net, few.validation, few.task) for net in (resnet, result.model))
    assert found.drop == pytest.approx(100 * (before - after), abs=1e-6)
    assert found.drop + found.margin <= 4.0 and result.report.after.macs < 0.5 * result.report.before.macs
    within = [one.share for one in found.tried if one.within]
    assert 0 < len(within) < len(found.tried)
    assert min(within) * result.report.before.macs >= result.report.after.macs
    assert all(one.drop + one.margin > 4.0 for one in found.tried if not one.within)


@pytest.mark.usefixtures("short_search")
def test_without_labels_a_drop_is_one_of_agreement(resnet: nn.Module, digits: Any) -> None:
    result = slimkit.compress(resnet, DIGIT, calibration=digits, max_drop=6.0, epochs=0, **PLAIN)
    assert result.report.after.accuracy is None and result.report.drop.images >= 128
    assert result.report.drop.drop + result.report.drop.margin <= 6.0
    assert result.report.fit.agreement > 0.94


def test_agreement_on_inputs_that_were_fitted_to_is_no_proof_of_recovery(resnet: nn.Module) -> None:
    """A network that was right on 72 in place of 80 % had been told by 100 % of 8 inputs, and a divergence of 207."""
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    report = slimkit.compress(resnet, DIGIT, 0.3, task="classification", calibration=images, epochs=0).report
    assert report.fit is not None and not report.fit.apart
    assert "8 inputs, to which it was fitted, are too few to tell" in report.verdict and "100" not in report.verdict
    ruined = replace(report, fit=replace(report.fit, agreement=1.0, after=207.5))
    assert verdict(ruined).sentence.startswith("Not recovered")
    fine = replace(report, fit=replace(report.fit, agreement=1.0, after=0.01))
    assert verdict(fine).sentence.startswith("Not retrained")


@pytest.mark.parametrize(("count", "held", "apart"), [(128, 16, True), (40, 40, False)])
def test_agreement_is_told_of_inputs_that_nothing_was_fitted_to(
    resnet: nn.Module, count: int, held: int, apart: bool
) -> None:
    """An eighth of them; where there are too few to spare any, it is said that they are not others."""
    inputs = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    result = slimkit.compress(resnet, DIGIT, 0.5, calibration=inputs, epochs=0)
    fit = result.report.fit
    assert (fit.held, fit.apart, fit.on.split()[0]) == (held, apart, str(count - held if apart else count))
    said = "inputs held out" if apart else "of the inputs it was fitted to"
    assert f"on {held} {said} it agrees" in result.report.verdict
    assert ("less often on others" in result.report.verdict) is not apart
    assert (" % to " in result.report.verdict) is apart  # its interval


@pytest.mark.long
def test_a_network_is_recovered_from_nothing_but_its_weights(resnet: nn.Module, digits: Any) -> None:
    ruined = slimkit.compress(resnet, DIGIT, 0.5, recover=False).model
    result = slimkit.compress(resnet, DIGIT, 0.5)
    assert quality(ruined, digits.test, digits.task) < 0.6 < 0.9 < quality(result.model, digits.test, digits.task)
    assert result.report.fit.made and "made from noise" in result.report.fit.on
    assert "agrees with the original" in result.report.verdict


@pytest.mark.long
@pytest.mark.parametrize(("optimizer", "rate"), [("auto", 0.02), ("sgd", 0.02), ("adamw", 0.001)])
def test_a_retraining_steps_by_the_optimizer_that_was_asked_for(
    resnet: nn.Module, digits: Any, optimizer: str, rate: float
) -> None:
    asked: dict[str, Any] = {"dataset": digits, "epochs": 1, "device": "cpu", "optimizer": optimizer, **CUT}
    result = slimkit.compress(resnet, DIGIT, 0.5, **asked)
    assert result.report.recovery is not None
    assert 0 < result.report.recovery.history[-1].learning_rate <= rate  # of a cosine's last step
    faster = slimkit.compress(resnet, DIGIT, 0.5, learning_rate=2 * rate, **asked).report.recovery
    ratio = faster.history[-1].learning_rate / result.report.recovery.history[-1].learning_rate
    assert ratio == pytest.approx(2)


def test_a_retraining_by_an_own_loss_is_by_adamw_in_smaller_batches(resnet: nn.Module, digits: Any) -> None:
    """How far SGD steps hangs on the scale of the loss; and of few images large batches make few steps."""
    inputs, labels = next(iter(digits.train.batches(600)))
    task = Task.of(
        loss=lambda outputs, targets: nn.functional.mse_loss(outputs, targets) / 1000,
        metrics={"error": lambda outputs, targets: (outputs - targets).square().mean(1)},
        better="lower",
    )
    targets = nn.functional.one_hot(labels, 10).float()
    own = as_dataset({"train": (inputs, targets), "validation": (inputs[:100], targets[:100])}, task=task)
    asked: dict[str, Any] = {"dataset": own, "device": "cpu", **PLAIN}
    start = slimkit.compress(resnet, DIGIT, 0.5, epochs=0, **asked).report
    found = slimkit.compress(resnet, DIGIT, 0.5, epochs=2, **asked).report
    assert found.recovery is not None and found.recovery.images == 2 * 592  # in batches of 16
    assert found.recovery.history[0].learning_rate <= 0.001
    by_128 = slimkit.compress(resnet, DIGIT, 0.5, epochs=2, batch_size=128, **asked).report
    assert by_128.recovery is not None and by_128.recovery.images == 2 * 512
    errors = [report.after.accuracy.validation for report in (found, by_128, start)]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.long
def test_a_retraining_that_does_harm_is_not_delivered(resnet: nn.Module, digits: Any) -> None:
    asked: dict[str, Any] = {"dataset": digits, **PLAIN}
    start = slimkit.compress(resnet, DIGIT, 0.5, epochs=0, **asked)
    result = slimkit.compress(resnet, DIGIT, 0.5, epochs=1, learning_rate=1.0, **asked)
    report = result.report
    assert report.recovery is not None and not report.recovery.delivered
    assert report.recovery.history[-1].validation_accuracy < report.after_cut[-1].accuracy
    assert any("did worse on validation than before" in said for said in report.warnings)
    torch.testing.assert_close(result.model.state_dict(), start.model.state_dict(), rtol=0, atol=0)
    assert slimkit.compress(resnet, DIGIT, 0.8, epochs=4, **asked).report.recovery.delivered


def test_a_seed_draws_the_calibration_inputs(resnet: nn.Module, digits: Any) -> None:
    images = next(iter(digits.train.batches(1294)))[0].repeat(4, 1, 1, 1) + torch.rand(4 * 1294, 1, 8, 8)
    asked: dict[str, Any] = {"calibration": images, "epochs": 0, **PLAIN}  # more images than are taken

    def fitted(seed: int) -> torch.Tensor:
        return slimkit.compress(resnet, DIGIT, 0.5, seed=seed, **asked).model.get_parameter("fc.weight")

    first = fitted(3)
    assert torch.equal(fitted(3), first)
    assert not torch.allclose(first, fitted(4), rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_short_retrainings_do_no_harm(resnet: nn.Module, digits: Any) -> None:
    cut = slimkit.compress(resnet, DIGIT, 0.5, dataset=digits, epochs=0, **PLAIN).model
    start = quality(cut, digits.validation, digits.task)
    for epochs in (0.25, 1, 2):
        model = slimkit.compress(resnet, DIGIT, 0.5, dataset=digits, epochs=epochs, **PLAIN).model
        assert quality(model, digits.validation, digits.task) > start - 0.015


def tripled(net: nn.Module) -> None:
    net.bn1.register_forward_hook(lambda module, inputs, out: 3 * out)  # type: ignore[union-attr]


def smooth(net: nn.Module) -> None:
    net.fc = nn.Sequential(net.fc, nn.Softmax(1))  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.parametrize("change", [tripled, smooth])
def test_a_network_that_was_changed_since_it_was_loaded_is_the_one_that_is_cut(
    change: Callable[[nn.Module], None], resnet: nn.Module, tmp_path: Path
) -> None:
    net = copy.deepcopy(resnet)
    change(net)
    result = slimkit.compress(net, DIGIT, 0.3, out=tmp_path / "out", recover=False)
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        again = slimkit.load(tmp_path / "out" / "model.pt2")(x)
        torch.testing.assert_close(again, result.model(x), rtol=1e-4, atol=1e-5)


def test_a_file_that_gives_another_network_back_is_a_fault_of_ours(
    resnet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimkit.models.load_slim", lambda *_, **__: copy.deepcopy(resnet))  # not the small one
    with pytest.raises(ProofError, match="(?s)against its file, read again.*report"):
        slimkit.compress(resnet, DIGIT, 0.5, out=tmp_path / "out", recover=False)
    assert not (tmp_path / "out").exists()


def test_what_evaluate_does_to_a_network_it_does_to_a_copy(resnet: nn.Module) -> None:
    def ruin(net: nn.Module) -> dict[str, float]:
        for parameter in net.parameters():
            parameter.data.zero_()
        return {"zeros": 1.0}

    kept = slimkit.compress(resnet, DIGIT, 0.3, evaluate=ruin, recover=False)
    wanted = slimkit.compress(resnet, DIGIT, 0.3, recover=False)
    torch.testing.assert_close(dict(kept.model.state_dict()), dict(wanted.model.state_dict()), rtol=0, atol=0)


def test_calibration_inputs_may_be_a_numpy_array(resnet: nn.Module) -> None:
    images = torch.randn(32, 1, 8, 8)
    found, wanted = (
        slimkit.compress(resnet, DIGIT, 0.3, calibration=given, **PLAIN) for given in (images.numpy(), images)
    )
    torch.testing.assert_close(dict(found.model.state_dict()), dict(wanted.model.state_dict()), rtol=0, atol=0)


def test_labels_beyond_the_classes_are_said_to_be_that(resnet: nn.Module) -> None:
    images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
    train, validation = [(images, labels + 5)], [(images, labels)]
    with pytest.raises(DataError, match=r"(?s)targets of training do not fit.*out of bounds.*labels from 0"):
        slimkit.compress(resnet, DIGIT, 0.3, dataset=(train, validation), epochs=1, batch_size=16)


NO_CALLS = {"nothing": None, "a number": 3, "a text": "x.pt", "no arguments": [], "a list of numbers": [1, 3, 8, 8]}


@pytest.mark.parametrize("kind", NO_CALLS)
def test_what_no_network_is_called_with_is_refused(kind):
    with pytest.raises(TraceError, match="example_input is .*: nothing to trace.\n  Give a tensor"):
        slimkit.compress(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), NO_CALLS[kind], 0.5)


def test_a_list_is_of_arguments_as_a_tuple_is():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    example = torch.randn(1, 3, 8, 8)
    masks = [
        slimkit.compress(model, given, 0.5, onnx=False, recover=False).mask.keep for given in ([example], (example,))
    ]
    assert torch.equal(*masks) and not masks[0].all()


@pytest.mark.parametrize("shape", ["1,999999999,8", "1,99999999999,99999999999", "3,4000000,4000000"])
def test_a_shape_that_there_is_no_memory_for_is_refused(shape, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    slimkit.save(models.build("zoo:resnet8").model, "net.safetensors")
    assert main(["compress", "net.safetensors", "--input-shape", shape, "--ratio", "0.5"]) == 2
    said = capsys.readouterr().err
    assert shape in said and "no memory" in said and "Traceback" not in said


def test_a_machine_that_was_busy_makes_no_layer_faster(resnet: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files were timed one after the other: layers of which nothing was removed took half of the time."""
    calls: list[Path] = []

    def timed(path: Path, *_: Any, **__: Any) -> list[NodeTime]:
        calls.append(path)
        busy = 3.0 if len(calls) == 1 else 1.0
        named = [name for name, layer in resnet.named_modules() if isinstance(layer, nn.Conv2d)]
        return [NodeTime(layer=name, operator="Conv", fastest_ms=0.0, turn_ms=1e-6 * busy) for name in named]

    monkeypatch.setattr("slimkit.runs.figures.latency_by_node", timed)
    report = slimkit.compress(resnet, DIGIT, 0.3, epochs=0, recover=False).report
    found = [(layer.ms_before, layer.ms_after) for layer in report.layers if layer.ms_before]
    assert len(found) > 5 and all(before == after for before, after in found)
