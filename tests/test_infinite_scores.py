"""Scores of minus infinity: classes that are masked, logarithms that underflow. They say 0, and cost nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit import zoo
from slimkit.example import log_probabilities
from slimkit.recovery.gap import divergence
from slimkit.tasks import classification

WANTED, FOUND = torch.randn(2, 6, 5, 3, 3, generator=torch.Generator().manual_seed(0))


def masked(scores: Tensor, value: float, number: int = 2) -> Tensor:
    return scores.index_fill(1, torch.tensor([number]), value)


@pytest.mark.parametrize("maps", [False, True])
def test_what_is_masked_in_both_costs_nothing(maps: bool) -> None:
    wanted, found = (one if maps else one[:, :, 0, 0] for one in (WANTED, FOUND))
    assert divergence(masked(wanted, -torch.inf), masked(found, -torch.inf), {}) == pytest.approx(
        divergence(masked(wanted, -1e4), masked(found, -1e4), {}), rel=1e-6
    )


def test_what_is_masked_in_one_is_far_and_can_be_told_from_farther() -> None:
    wanted, found = WANTED[:, :, 0, 0], FOUND[:, :, 0, 0]
    one = divergence(wanted, masked(found, -torch.inf), {})
    two = divergence(wanted, masked(masked(found, -torch.inf), -torch.inf, 1), {})
    assert 10 < one < two < torch.inf
    assert divergence(masked(wanted, -torch.inf), found, {}) < 3


def test_a_teacher_that_masks_a_class_teaches_the_others() -> None:
    given = FOUND.clone().requires_grad_(True)
    loss = classification.divergence(masked(given, -torch.inf), masked(WANTED, -torch.inf), 2.0)
    loss.backward()  # type: ignore[no-untyped-call]
    gradient, given.grad = given.grad, None
    others = classification.divergence(masked(given, -1e4), masked(WANTED, -1e4), 2.0)
    others.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, others)
    assert gradient is not None and given.grad is not None
    torch.testing.assert_close(gradient, given.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_logarithms_are_as_they_are(dtype: torch.dtype) -> None:
    scores = (30 * WANTED).to(dtype)
    assert torch.equal(log_probabilities(scores), scores.log_softmax(1))


class Masks(nn.Module):
    """A classifier one of whose classes cannot be."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.net, self.value = slimkit.load(str(zoo.CHECKPOINTS["resnet8-digits"])), value

    def forward(self, x: Any) -> Any:
        return masked(self.net(x), self.value)


def test_a_network_that_masks_a_class_is_fitted_as_others_are() -> None:
    dataset = slimkit.data.open("digits")
    images, _ = next(iter(dataset.test.batches(256)))
    right = []
    for value in (-30.0, -torch.inf):
        net = Masks(value).eval()
        slim = slimkit.compress(net, images[:1], ratio=0.5, calibration=images, onnx=False)
        with torch.no_grad():
            right.append(float((net(images).argmax(1) == slim.model(images).argmax(1)).float().mean()))
        fit = slim.report.fit
        assert fit is not None and fit.after < 0.1 * fit.before
    assert right[1] > 0.9 and right[1] == pytest.approx(right[0], abs=0.02)


def test_where_all_is_masked_nothing_is_lost() -> None:
    wanted = WANTED.clone()
    wanted[:, :, 0, 0] = -torch.inf
    assert divergence(wanted, wanted.clone(), {}) == 0
    assert 0 < divergence(wanted, FOUND, {}) < torch.inf
