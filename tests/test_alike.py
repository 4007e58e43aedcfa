"""Inputs that resemble each other: found, held out together, and counted as one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit import data, zoo
from slimkit.errors import DataError
from slimkit.intervals import wilson
from slimkit.measure.agreement import agreement, disagreement_with
from slimkit.report.numbers import percent

DIGITS = next(iter(data.open("digits").train.batches(1024, seed=0)))[0]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def frames(scenes: int, each: int, strength: float = 0.05) -> Tensor:
    """Return frames of so many scenes in turn, which differ by noise of so many deviations."""
    still = DIGITS[:scenes].repeat(each, 1, 1, 1)
    return still + strength * DIGITS.std() * drawn(*still.shape)


def lit(images: Tensor) -> Tensor:
    return images.min() + (images - images.min()) * (1 + 0.1 * drawn(len(images), 1, 1, 1))


def moved(images: Tensor) -> Tensor:
    """Return larger images, every second of which is moved by a pixel."""
    images = nn.functional.interpolate(images, scale_factor=8, mode="bilinear")
    return torch.stack([one.roll(number // 32 % 2, 2) for number, one in enumerate(images)])


@pytest.mark.parametrize("made", [lambda one: one, lit, moved], ids=["noise", "brightness", "a pixel"])
def test_frames_of_a_scene_resemble_each_other(made: Callable[[Tensor], Tensor]) -> None:
    images = made(frames(32, 8))
    expected = torch.arange(32).repeat(8)
    for batches in (
        [images],
        images.split(50),
        [(images, images)],
        [{"image": images, "time": torch.rand(256), "token": torch.arange(256)}],
    ):
        found = data.alike(batches)
        assert found is not None and torch.equal(found, expected)


@pytest.mark.parametrize("scene", range(6))
@pytest.mark.parametrize("made", [lambda one: one, lit], ids=["noise", "brightness"])
def test_so_do_all_frames_of_one(made: Callable[[Tensor], Tensor], scene: int) -> None:
    """Their mean is the scene, beside which only noise was seen: they were all distinct."""
    images = made(frames(scene + 1, 256)[scene :: scene + 1])
    for larger in (1, 4):
        found = data.alike([nn.functional.interpolate(images, scale_factor=larger, mode="bilinear")])
        assert found is not None and torch.equal(found, torch.zeros(256).long())


CLOTHES = next(iter(data.open("fashion-mnist").train.batches(4096, seed=0)))


@pytest.mark.parametrize(
    "batches",
    [
        [DIGITS],
        *[[CLOTHES[0][CLOTHES[1] == kind]] for kind in range(10)],
        [nn.functional.interpolate(drawn(1024, 3, 3, 3), size=(64, 64), mode="bicubic")],  # smooth
        [drawn(1024, 2, 200) + torch.tensor([[100.0], [0.0]])],  # sensors, one of which has an offset
        [drawn(1024, 3, 32, 32)],
        [drawn(1024, 1, 8, 8).sigmoid() * torch.rand(1024, 1, 1, 1)],
        [drawn(1024, 1, 200)],
        [torch.arange(64).repeat(4, 1)],  # tokens
        [torch.rand(1024, 4)],  # of which one is always near by
        [drawn(8, 1, 8, 8), drawn(8, 1, 9, 9)],
        [torch.ones(64, 1, 8, 8)],  # as is said elsewhere
        [torch.full((64, 1, 8, 8), torch.nan)],
        [],
    ],
)
def test_others_do_not(batches: list[Tensor]) -> None:
    assert data.alike(batches) is None


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return slimkit.load(str(zoo.CHECKPOINTS["resnet8-digits"]))


def told(net: nn.Module, inputs: Any, **settings: Any) -> Any:
    return slimkit.compress(net, DIGITS[:1], calibration=inputs, epochs=0, onnx=False, **settings).report


def test_agreement_is_told_of_scenes_of_which_nothing_was_fitted_to(net: nn.Module) -> None:
    """Of 32 scenes of 16 frames 100 % were told, 94 to 100, by frames of the same; of other images it was 86."""
    report = told(net, frames(32, 2), ratio=0.5)
    fit = report.fit
    assert (fit.apart, fit.held, fit.groups, fit.on) == (True, 8, 4, "56 inputs of calibration")
    low, high = (percent(side, 0) for side in wilson(fit.agreement, 4))
    said = "on 8 inputs held out, of 4 groups that resemble each other, it agrees with the original on"
    assert f"{said} {percent(fit.agreement, 1)} ({low} to {high})" in report.verdict


def test_each_scene_counts_once() -> None:
    """Of a scene of five frames and one of one, which is wrong, half is right."""
    scores, same = torch.eye(4)[[0, 1, 2, 3, 0, 1]], nn.Identity()

    class Wrong(nn.Module):
        def forward(self, scores: Tensor) -> Tensor:
            return scores * torch.tensor([1.0, 1.0, 1.0, -1.0])

    groups = torch.tensor([0, 0, 0, 1, 0, 0])
    found = agreement(same, Wrong(), [scores], task="classification", groups=groups)
    assert found is not None and (found.value, found.images, found.interval) == (0.5, 2, wilson(0.5, 2))
    lost = disagreement_with(same, [scores], task="classification", groups=groups)(Wrong())
    assert (lost.value, lost.images) == (50, 2) and lost.margin == pytest.approx(100 * 1.2816 * 2**0.5 / 2, rel=1e-4)


def test_of_too_few_scenes_it_is_said_that_agreement_on_others_is_not_told(net: nn.Module) -> None:
    report = told(net, frames(8, 8), ratio=0.5)
    assert (report.fit.apart, report.fit.held, report.fit.groups) == (False, 64, 8)
    assert "inputs resemble each other, in 8 groups, which are too few to tell how often" in report.verdict
    assert "%" not in report.verdict.split(";")[1]


def test_of_one_scene_agreement_is_not_told(net: nn.Module) -> None:
    report = told(net, frames(1, 128), ratio=0.5)
    assert (report.fit.apart, report.fit.groups) == (False, 1)
    assert "its inputs all resemble each other, as frames of one scene do, which does not tell how" in report.verdict
    with pytest.raises(DataError, match="(?s)0 groups of inputs that resemble each other cannot .* here 1:"):
        told(net, frames(1, 128), max_drop=40)


def test_a_drop_is_told_by_scenes(net: nn.Module) -> None:
    with pytest.raises(
        DataError, match=r"(?s)5 groups of inputs that .* it takes 19 .*152 such groups .*, here 40: an "
    ):
        told(net, frames(40, 8), max_drop=10)
    with pytest.raises(DataError, match="0 groups of inputs that resemble each other cannot"):
        told(net, frames(3, 16), max_drop=100)
