"""A network in one state dict with other things: its moving average, a teacher, losses; by prefix."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimkit import models
from slimkit.errors import ArchitectureError, CheckpointError
from slimkit.models import Network

State = dict[str, Tensor]
OWN = """
from torch import nn

def make(width=4):
    block = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))
    return nn.Sequential(block, nn.ReLU(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)))

def wide():
    return make(8)
"""
EXTRAS = {
    "criterion.weight": torch.ones(3), "train_metric.total": torch.tensor(4), "loss.queue": torch.zeros(5, 2),
    "val_acc.correct": torch.tensor([1.0]), "temperature": torch.tensor(0.1),
}  # fmt: skip
PREFIXES = (
    "model.", "net.", "network.", "backbone.", "student.", "generator.", "module.", "ema.module.",
    "ema_model.module.", "averaged_model.module.", "model_ema.module.", "swa_model.module.", "teacher.",
    "model._orig_mod.", "model.backbone.", "module.model.net.",
)  # fmt: skip
AVERAGES = tuple(prefix for prefix in PREFIXES if "ema" in prefix or "averaged" in prefix or "swa" in prefix)


@pytest.fixture(params=["named", "found"])
def kind(request: Any, tmp_path: Path) -> dict[str, str]:
    """How the architecture is told: in a file of the user's, or not at all."""
    (tmp_path / "own.py").write_text(OWN)
    return {"arch": f"{tmp_path / 'own.py'}:make"} if request.param == "named" else {}


def fresh(kind: dict[str, str], seed: int) -> State:
    torch.manual_seed(seed)
    made = models.build(kind["arch"]) if kind else models.build("zoo:resnet8", classes=3)
    for module in made.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.normal_()
    return dict(made.model.state_dict())


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def loaded(folder: Path, state: State, kind: dict[str, str], wrapped: bool = True) -> Network:
    torch.save({"state_dict": state, "global_step": 3} if wrapped else state, folder / "net.ckpt")
    return models.load(folder / "net.ckpt", **kind)


def same(network: Network, state: State) -> bool:
    own = network.model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_lies_beside_a_network_does_not_stand_in_its_way(prefix: str, kind: Any, tmp_path: Path) -> None:
    state = fresh(kind, 0)
    found = loaded(tmp_path, {**EXTRAS, **under(prefix, state)}, kind)
    assert same(found, state)
    bare = prefix.replace("_orig_mod.", "")
    assert any(f"those under {bare!r}" in line and "criterion.weight" in line for line in found.assumptions)
    alone = loaded(tmp_path, under(prefix, state), kind, wrapped=False)
    assert same(alone, state) and not any("ignored" in line for line in alone.assumptions)


@pytest.mark.parametrize("plain", ["model.", "net.", "student.", "model._orig_mod."])
@pytest.mark.parametrize("average", AVERAGES)
def test_the_moving_average_in_a_state_dict_comes_first(plain: str, average: str, kind: Any, tmp_path: Path) -> None:
    raw, state = fresh(kind, 0), fresh(kind, 1)
    count = {average.replace("module.", "n_averaged"): torch.tensor(5)}
    both = [under(plain, raw), {**under(average, state), **count}]
    for order in (both, both[::-1]):
        found = loaded(tmp_path, {**order[0], **EXTRAS, **order[1]}, kind)
        assert same(found, state)
        assert any(f"the moving average, {average!r}, was taken" in line for line in found.assumptions)


def test_an_average_beside_names_without_a_prefix_comes_first(kind: Any, tmp_path: Path) -> None:
    raw, state = fresh(kind, 0), fresh(kind, 1)
    found = loaded(tmp_path, {**raw, **under("ema_model.module.", state)}, kind)
    assert same(found, state)
    assert any("the moving average, 'ema_model.module.', was taken" in line for line in found.assumptions)
    found = loaded(tmp_path, {**raw, **EXTRAS}, {"arch": kind.get("arch", "zoo:resnet8")})
    assert same(found, raw)


def test_an_average_of_parameters_alone_takes_statistics_from_its_weights(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    kind = {"arch": f"{tmp_path / 'own.py'}:make"}
    raw, state = fresh(kind, 0), fresh(kind, 1)
    lean = {name: tensor for name, tensor in state.items() if "running" not in name and "num_b" not in name}
    found = loaded(tmp_path, {**under("model.", raw), **under("ema_model.", lean)}, kind)
    assert same(found, {**raw, **lean})
    assert any("what it lacks is that of 'model.'" in line for line in found.assumptions)


@pytest.mark.parametrize(
    "pair", [("student.", "teacher."), ("model.", "teacher."), ("ema.", "swa_model.module."), ("model.net.", "net.")]
)
def test_two_networks_of_which_none_is_the_average_are_refused(
    pair: tuple[str, str], kind: Any, tmp_path: Path
) -> None:
    one, two = fresh(kind, 0), fresh(kind, 1)
    with pytest.raises(CheckpointError, match=f"2 times, under '{pair[0]}', '{pair[1]}'.*\n  Save one alone"):
        loaded(tmp_path, {**under(pair[0], one), **under(pair[1], two)}, kind)
    twice = loaded(tmp_path, {**under(pair[0], one), **under(pair[1], one)}, kind)
    assert same(twice, one)


@pytest.mark.parametrize("own", ["student.", "teacher."])
def test_of_a_student_and_a_teacher_the_one_that_fits_is_taken(own: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    kinds = {name: {"arch": f"{tmp_path / 'own.py'}:{name}"} for name in ("make", "wide")}
    other = "teacher." if own == "student." else "student."
    for one, two in (("make", "wide"), ("wide", "make")):
        state = fresh(kinds[one], 0)
        both = {**under(other, fresh(kinds[two], 1)), **under(own, state)}
        assert same(loaded(tmp_path, both, kinds[one]), state)
        resnet = {**under(other, fresh({}, 1)), **under(own, state)}
        found = loaded(tmp_path, resnet, kinds[one])
        assert same(found, state) and any(f"those under {own!r}" in line for line in found.assumptions)


def test_a_network_within_another_one_is_not_taken_for_it(tmp_path: Path) -> None:
    body = fresh({}, 0)
    others = {f"decoder.{i}.weight": torch.ones(1) for i in range(len(body))}
    with pytest.raises(ArchitectureError, match="like none of the"):
        loaded(tmp_path, {**under("backbone.", body), **others}, {})
