"""Inputs without a batch, as one number a colour for all images: they stay as they are, whatever their length."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import slimkit
from slimkit.example import batch_size, of_batch, own_batch, tensors
from slimkit.export.check import SEVERAL, references
from slimkit.recovery.calibration import chunks, some
from slimkit.surgery.trials import trials, wilder


class Weighted(nn.Module):
    """An image [N, k, 6, 6] whose colours are mixed by a matrix [k, k] and scaled by a gain [k]."""

    def __init__(self, colours: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(colours, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor, gain: Tensor, mix: Tensor) -> Tensor:
        image = torch.einsum("nchw,cd->ndhw", image, mix) * gain.view(1, -1, 1, 1)
        made: Tensor = self.head(self.body(image).mean((2, 3)))
        return made


def called_with(colours: int, images: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "image": torch.randn(images, colours, 6, 6),
        "gain": torch.rand(colours),
        "mix": torch.rand(colours, colours),
    }


@given(st.lists(st.integers(1, 140), max_size=5), st.integers(1, 5), st.integers(1, 130))
def test_a_batch_is_told_from_what_has_none(lengths: list[int], images: int, least: int) -> None:
    example = (torch.randn(images, 2), *(torch.randn(length) for length in lengths))
    count = own_batch(example, least)
    other = of_batch(example, count)
    assert count >= least and batch_size(other) == count
    still = [one for one in lengths if one != images]
    assert [len(t) for t in tensors(other)[1:] if len(t) != count] == still
    assert [len(t) for t in tensors(of_batch(other, 1))[1:] if len(t) != 1] == [one for one in still if one != 1]


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("colours", [3, 4, 5, 128])
def test_what_two_networks_are_held_against_each_other_on_has_them_whole(colours: int, images: int) -> None:
    example = called_with(colours, images)
    net = Weighted(colours).eval()
    given = [found.example for found in references(net, example, False, lambda one: one)]
    assert [batch_size(one) for one in given] == [1, SEVERAL + (colours == SEVERAL)]
    for one in (*given, *(trial.example for trial in (*trials(example), wilder(example, 0)))):
        assert isinstance(one, dict) and one["gain"].shape == (colours,) and one["mix"].shape == (colours, colours)
        assert of_batch(one, 1)["gain"].shape == (colours,)  # type: ignore[call-overload, index]


@pytest.mark.parametrize("colours", [2, 3, 4])
def test_a_file_takes_them_as_the_network_does(colours: int, tmp_path: Path) -> None:
    net, example = Weighted(colours).eval(), called_with(colours)
    slimkit.export_onnx(net, tmp_path / "net.onnx", example)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    found: Any = session.run(None, {name: tensor.numpy() for name, tensor in example.items()})[0]
    torch.testing.assert_close(torch.from_numpy(found), net(**example), rtol=1e-4, atol=1e-5)
    more = {**example, "image": torch.randn(7, colours, 6, 6)}
    found = session.run(None, {name: tensor.numpy() for name, tensor in more.items()})[0]
    torch.testing.assert_close(torch.from_numpy(found), net(**more), rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("images", [1, 2, 4])
def test_a_network_that_takes_them_is_made_smaller(images: int, tmp_path: Path) -> None:
    found = slimkit.compress(Weighted(3).eval(), called_with(3, images), ratio=0.5, recover=False, out=tmp_path / "out")
    assert found.report.proof.error <= found.report.proof.tolerance


@pytest.mark.parametrize("sizes", [[210], [64, 64, 3, 79], [8] * 26])
def test_inputs_beside_them_are_counted_cut_and_fitted_to(sizes: list[int]) -> None:
    shared = called_with(3)
    batches = [{**shared, "image": torch.randn(size, 3, 6, 6)} for size in sizes]
    parts = chunks(batches, model=Weighted(3).eval())
    assert sum(batch_size(part.example) for part in parts) == sum(sizes) and len(parts) >= 14
    assert torch.equal(
        torch.cat([part.example["image"] for part in parts]),  # type: ignore[call-overload, index]
        torch.cat([batch["image"] for batch in batches]),
    )
    assert all(torch.equal(part.example["mix"], shared["mix"]) for part in parts)  # type: ignore[call-overload, index]
    slim = slimkit.compress(Weighted(3).eval(), called_with(3), ratio=0.5, calibration=batches, onnx=False)
    assert slim.report.fit is not None and slim.report.fit.after < 0.5 * slim.report.fit.before


def test_what_differs_from_batch_to_batch_makes_each_one_input() -> None:
    """As words of several texts in a row, and where each begins."""
    batches = [(torch.randn(40 + number, 5), torch.arange(3) * number) for number in range(9)]
    assert len(chunks(batches)) == 9


def test_what_says_where_images_begin_is_for_its_batch_alone() -> None:
    """Also where it is the same in all of them."""
    batches = [(torch.randn(32, 3), torch.full((4,), 8)) for _ in range(12)]
    found = chunks(batches)
    assert len(found) == 12 and all(len(part.example[0]) == 32 for part in found)  # type: ignore[index, arg-type]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 90))
def test_some_images_are_spread_over_all_of_them(sizes: list[int], most: int) -> None:
    whole, gain = torch.arange(sum(sizes)), torch.rand(41)
    batches = [{"x": part, "gain": gain} for part in whole.split(sizes)]
    found = some(batches, most)
    picked = torch.cat([batch["x"] for batch in found])  # type: ignore[call-overload, index]
    assert len(picked) == min(most, len(whole)) and (found is batches) == (most >= len(whole))
    assert all(torch.equal(batch["gain"], gain) for batch in found)  # type: ignore[call-overload, index]
    steps = picked.diff()
    assert picked[0] == 0 and (not len(steps) or int(steps.max() - steps.min()) <= 1)
