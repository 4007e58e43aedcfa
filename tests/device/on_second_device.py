"""What slimkit does on a second device is what it does on the CPU; run by `test_device.py`, in a process of its own."""

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import second
import torch
from torch import nn

import slimkit
from slimkit import data, training
from slimkit.data.tensor_split import TensorSplit
from slimkit.measure import quality
from slimkit.progress import Moment
from slimkit.recovery import elimination, fold, statistics
from slimkit.recovery.made_images import made_images
from slimkit.recovery.reconstruct import MODES, reconstruct
from slimkit.recovery.rounds import half_way, look_again
from slimkit.recovery.widths import best, candidates
from slimkit.selection.budget import Widths
from slimkit.selection.choose import choose
from slimkit.selection.ranking import CRITERIA, Context, rank
from slimkit.settings import Budget
from slimkit.surgery.prove import prove
from slimkit.tasks import CLASSIFICATION
from slimkit.training import follow, penalise_gamma_, penalise_groups_
from slimkit.training.watch import watch

# A GPU, or the path of what `second.build` has made
WHERE = os.environ["SECOND_DEVICE"]
DEVICE = torch.device(WHERE) if WHERE == "cuda" else second.load(Path(WHERE))
torch.backends.cudnn.allow_tf32 = False  # as `slimkit.compress` has it: numbers are compared with those of a CPU
IMAGES, LABELS = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 10


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    torch.manual_seed(0)
    digits = data.as_dataset("digits")
    recipe = training.Recipe(epochs=2, batch_size=64, device="cpu")
    return training.train(slimkit.zoo.resnet8(10, in_channels=1), digits.train, recipe).model


class Pair:
    """A network here and there, its channels, and a mask."""

    def __init__(self, model: nn.Module) -> None:
        self.here, self.there = model, copy.deepcopy(model).to(DEVICE)
        self.graph = slimkit.trace(self.there, IMAGES[:1].to(DEVICE))
        self.mask = choose(self.graph, rank("group-norm", model, self.graph), Budget("ratio", 0.4), Widths(4))
        self.sides = ((self.here, IMAGES), (self.there, IMAGES.to(DEVICE)))

    def slim(self, model: nn.Module) -> nn.Module:
        return slimkit.remove(model, self.graph, self.mask)


@pytest.fixture
def pair(dense: nn.Module) -> Pair:
    return Pair(dense)


def assert_same(one: Any, other: Any) -> None:
    """Compare numbers, or networks, wherever they are."""
    if isinstance(one, nn.Module):
        one, other = one.state_dict(), other.state_dict()
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, equal_nan=True, check_device=False)


def test_tensors_of_two_devices_do_not_mix() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device=DEVICE) + torch.ones(3)


def test_channels_are_the_same(pair: Pair) -> None:
    graph = slimkit.trace(pair.here, IMAGES[:1])
    assert [group.members.tolist() for group in graph.groups] == [g.members.tolist() for g in pair.graph.groups]


@pytest.mark.parametrize("name", CRITERIA)
def test_rankings(name: str, pair: Pair) -> None:
    here, there = (rank(name, m, pair.graph, context=Context(batches=[(x, LABELS)])) for m, x in pair.sides)
    assert_same(here, there)


def test_removal_and_its_proof(pair: Pair) -> None:
    here, there = (prove(m, pair.graph, lambda fixed: pair.mask, [x[:2]]).model for m, x in pair.sides)
    assert_same(here, there)


@pytest.mark.parametrize("mode", MODES)
def test_reconstruction(mode: str, pair: Pair) -> None:
    here, there = (reconstruct(m, pair.slim(m), pair.graph, pair.mask, [x], mode=mode) for m, x in pair.sides)
    assert_same(here.model, there.model)
    assert here.after == pytest.approx(there.after, rel=1e-3)


def test_widths_and_a_second_look(pair: Pair) -> None:
    found, nearer = [], None
    for model, images in pair.sides:
        losses = elimination.losses(model, pair.graph, [images])
        limit = 0.5 * pair.graph.macs(slimkit.Mask.full(pair.graph).keep)
        mask, made = best(model, pair.graph, candidates(pair.graph, losses, "macs", limit, Widths(4)), [images])
        if nearer is None or WHERE != "cuda":  # on which losses that are nearly even may swap
            nearer = half_way(pair.graph, losses, 0.7)
        again = look_again(model, pair.graph, losses, nearer, [images], images[:1])
        found.append((losses.measured, losses.estimated, again.measured, mask.keep, made.model.state_dict()))
    assert_same(found[0], found[1])


@pytest.mark.parametrize("measured", [True, False])
def test_folded_constants(measured: bool, pair: Pair) -> None:
    found = []
    for model, images in pair.sides:
        means = fold.input_means(model, pair.graph, pair.mask, [images], measured=measured)
        slim = pair.slim(pair.here)  # constants of there for a network here
        fold.fold_(slim, model, pair.graph, pair.mask, means)
        found.append(slim)
    assert_same(found[0], found[1])


def test_made_images(pair: Pair) -> None:
    here, there = (made_images(model, (1, 8, 8), 8, 2, seed=0) for model in (pair.here, pair.there))
    assert_same(here, there)


def test_penalties_and_an_optimizer_that_follows(pair: Pair) -> None:
    found = []
    for model, images in pair.sides:
        twin = copy.deepcopy(model)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
        twin(images).square().mean().backward()
        penalise_gamma_(twin, 1e-3)
        penalise_groups_(twin, pair.graph, 1e-3)
        optimizer.step()
        slim = pair.slim(twin)
        later = follow(optimizer, twin, slim, slimkit.kept_indices(pair.graph, pair.mask))
        slim(images).square().mean().backward()
        later.step()
        found.append(slim)
    assert_same(found[0], found[1])


def test_statistics_and_accuracy_of_a_network_that_is_elsewhere(dense: nn.Module) -> None:
    digits = data.as_dataset("digits")
    here, there = copy.deepcopy(dense), copy.deepcopy(dense)
    statistics.reestimate(here, digits.train, batches=2)
    statistics.reestimate(there, digits.train, batches=2, device=DEVICE)
    assert_same(here, there)
    assert quality.quality(here, digits.test) == quality.quality(here, digits.test, device=DEVICE)
    assert {tensor.device.type for tensor in here.state_dict().values()} == {"cpu"}


def test_a_file_is_written_of_a_network_that_is_elsewhere(pair: Pair, tmp_path: Path) -> None:
    slimkit.export_onnx(pair.slim(pair.there), tmp_path / "slim.onnx", IMAGES[:1].to(DEVICE))
    assert (tmp_path / "slim.onnx").stat().st_size > 0


@pytest.mark.parametrize(
    "asked",
    [
        {"max_macs": 0.3, "epochs": 0, "dataset": "digits"},
        {"ratio": 0.3, "epochs": 1, "dataset": "digits"},
        {"ratio": 0.3, "constants": "fold", "epochs": 0, "dataset": "digits"},
        {"ratio": 0.3, "ranking": "taylor", "epochs": 0, "dataset": "digits"},
        {"ratio": 0.3, "epochs": 1, "calibration": IMAGES},
        {"max_drop": 3.0, "epochs": 0, "dataset": "digits"},
        {"max_macs": 0.5},
    ],
)
def test_compress(asked: dict[str, Any], dense: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimkit.training.loop.pick_precision", lambda name, device: torch.float32)
    here, there = (slimkit.compress(dense, IMAGES[:1], device=name, **asked) for name in ("cpu", "auto"))
    assert {tensor.device.type for tensor in there.model.state_dict().values()} == {"cpu"}
    if asked.get("epochs") == 1:  # rounding grows in training
        assert here.report.after.macs == there.report.after.macs
    else:
        assert torch.equal(here.mask.keep, there.mask.keep)
        assert_same(here.model, there.model)


def there_already() -> dict[str, Any]:
    """Give data that lies on the device, in each form that is taken: settings by what they show."""
    digits = data.as_dataset("digits")
    assert isinstance(digits.train, TensorSplit) and isinstance(digits.test, TensorSplit)
    images, labels = (torch.cat(parts) for parts in zip(*digits.validation.batches(64), strict=True))
    x, y = images.to(DEVICE), labels.to(DEVICE)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 96, 32)]
    return {
        "tensors": {"dataset": ((x, y), (x, y)), "epochs": 1},
        "a loader": {"dataset": (batches, batches), "epochs": 1},
        "a loader, for a ranking": {"dataset": (batches, batches), "ranking": "taylor", "epochs": 0},
        "splits of our own": {"dataset": replace(digits, train=digits.train.to(DEVICE), test=digits.test.to(DEVICE))},
        "calibration": {"calibration": x},
        "calibration in batches": {"calibration": [x[:32], x[32:64]]},
        "a loader, for a file in int8": {"dataset": (batches, batches), "epochs": 0, "int8": True},
    }


@pytest.mark.parametrize("device", ["cpu", "auto"])
@pytest.mark.parametrize("name", there_already())
def test_data_that_is_there_already(name: str, device: str, dense: nn.Module, tmp_path: Path) -> None:
    asked = {"epochs": 0} | there_already()[name]
    found = slimkit.compress(dense, IMAGES[:1], ratio=0.3, device=device, out=tmp_path / "slim", **asked)
    assert found.report.proof.error <= found.report.proof.tolerance


def test_files_judge_data_that_is_there(dense: nn.Module, tmp_path: Path) -> None:
    test = data.as_dataset("digits").test
    assert isinstance(test, TensorSplit)
    slimkit.export_onnx(dense, tmp_path / "net.onnx", IMAGES[:1])
    found = [quality.quality(tmp_path / "net.onnx", split) for split in (test, test.to(DEVICE))]
    assert found[0] == found[1]


def test_each_step_is_told_with_its_own_loss_after_a_rewind_too(dense: nn.Module) -> None:
    digits, found = data.as_dataset("digits"), []
    for device in ("cpu", "auto"):
        told: list[Moment] = []
        rewound: list[int] = []

        def once(run: training.Run, rewound: list[int] = rewound) -> None:
            if run.step == 7 and not rewound:
                rewound.append(run.step)
                run.rewind(3)

        recipe = training.Recipe(epochs=2, batch_size=64, device=device, precision="fp32")
        hooks = [watch("it", CLASSIFICATION, [told.append]), training.Hook(after_step=once)]
        trained = training.train(dense, digits.train, recipe, hooks=hooks)
        found.append([(one.step, one.steps, one.loss) for one in told] + [epoch.loss for epoch in trained.history])
    rounded = {"rtol": 1e-2, "atol": 1e-4} if WHERE == "cuda" else {"rtol": 1e-3, "atol": 1e-5}  # grows in training
    torch.testing.assert_close(*found, **rounded)


@pytest.mark.parametrize("where", ["cpu", DEVICE.type])
def test_compress_takes_a_network_that_is_there(where: str, dense: nn.Module) -> None:
    found = slimkit.compress(copy.deepcopy(dense).to(DEVICE), IMAGES[:1].to(where), max_macs=0.5)
    assert found.report.proof.error <= found.report.proof.tolerance


CHANNELS = ("scratch", "network-slimming", "progressive", "lottery-ticket")


@pytest.mark.parametrize("method", [*CHANNELS, "edge-popup", "weight-agnostic", "factorised"])
def test_methods(method: str) -> None:
    how: Any = {"method": method, "epochs": 1, "batch_size": 256} | ({"ratio": 0.3} if method in CHANNELS else {})
    found = slimkit.train(slimkit.zoo.resnet8(10, in_channels=1), "digits", **how)
    assert found.report.recovery is None or found.report.recovery.device == DEVICE.type


def test_edge_popup_chooses_channels() -> None:
    how: Any = {"method": "edge-popup", "choose": "channels", "epochs": 1, "batch_size": 256}
    found = slimkit.train(slimkit.zoo.resnet8(10, in_channels=1), "digits", **how)
    assert not found.model.get_parameter("fc.weight").any(0).all()
