"""The zoo: every network runs on the shape it names, at any width, and has the published size."""

import json
import tomllib
from pathlib import Path

import pytest
import torch

from slimkit import data, models, provenance, zoo
from slimkit.measure.quality import quality as accuracy


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_runs_on_its_own_shape_and_trains(name: str) -> None:
    shape = zoo.INPUT_SHAPES[name]
    model = zoo.ARCHITECTURES[name](num_classes=7, in_channels=shape[0]).train()
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", [n for n in zoo.ARCHITECTURES if n != "lenet-300-100"])
def test_width_and_channels_follow_the_keywords(name: str) -> None:
    model = zoo.ARCHITECTURES[name](num_classes=3, in_channels=2, width=4).eval()
    size = zoo.INPUT_SHAPES[name][1]
    assert model(torch.randn(1, 2, size, size)).shape == (1, 3)
    assert next(model.parameters()).shape[:2] == (4, 2)


def test_sizes_are_those_of_the_papers() -> None:
    def convolutions(name: str) -> int:
        return sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in made[name].modules())

    made = {name: factory() for name, factory in zoo.ARCHITECTURES.items()}
    assert [convolutions(n) for n in ("resnet8", "resnet20", "resnet56", "vgg16_bn")] == [7, 19, 55, 13]
    # LeNet-300-100: 784*300 + 300*100 + 100*10 weights and 410 biases.
    assert sum(p.numel() for p in made["lenet-300-100"].parameters()) == 266_200 + 410
    # ResNet-20 has 0.27 M parameters in the paper (table 6); the two projections and their BNs add 2,752.
    resnet20 = sum(p.numel() for p in made["resnet20"].parameters())
    assert resnet20 - (16 * 32 + 2 * 32 + 32 * 64 + 2 * 64) == 269_722


def test_lenet_has_batch_norm_only_when_asked() -> None:
    plain, normed = (zoo.lenet_300_100(batch_norm=flag) for flag in (False, True))
    counts = [sum(isinstance(m, torch.nn.BatchNorm1d) for m in net.modules()) for net in (plain, normed)]
    assert counts == [0, 2]


@pytest.mark.parametrize("name", zoo.CHECKPOINTS)
def test_a_checkpoint_is_what_its_card_says(name: str) -> None:
    folder = Path(zoo.__file__).parent
    card = json.loads((folder / "cards" / f"{name}.json").read_text())
    recipe = tomllib.loads((folder / "recipes" / f"{name}.toml").read_text())
    assert card["recipe"] == recipe  # written by the recipe that is there
    seeds = [run["seed"] for run in card["runs"]]
    assert seeds and seeds == recipe["seeds"][: len(seeds)]
    assert zoo.CHECKPOINTS[name].stat().st_size < 2 * 2**20
    model = models.load_slim(zoo.CHECKPOINTS[name])
    known = provenance.of(model)
    assert (known.arch, known.arguments) == (card["arch"], card["arguments"])
    assert known.normalisation == card["normalisation"]
    if recipe["data"] == "digits":  # the one data set that is always there
        digits = data.open("digits").normalised(card["normalisation"])
        found = [accuracy(model, split) for split in (digits.test, digits.validation)]
        wanted = [card["runs"][0]["test_accuracy"], card["runs"][0]["validation_accuracy"]]
        assert found == pytest.approx(wanted, abs=0.01)
