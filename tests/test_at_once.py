"""Fewer inputs are computed at a time where they are large, and figures do not depend on it."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit import data
from slimkit.measure import quality
from slimkit.methods.weight_agnostic import identical
from slimkit.recovery import reestimate
from slimkit.tasks import CLASSIFICATION

SIDE, COUNT, FEW = 700, 40, 11  # 11 x 3 x 700 x 700 are 2^24 numbers


class Coarse(nn.Module):
    """Looks at every hundredth place, and notes how many images it is given."""

    seen: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=100), nn.BatchNorm2d(8), nn.ReLU())
        self.scores = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        return self.scores(self.features(images).mean((2, 3)))


@pytest.fixture(scope="module")
def large() -> data.Dataset:
    images = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    images = images * torch.rand(COUNT, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    return data.as_dataset(((images, torch.arange(COUNT) % 3),) * 2)


def network() -> nn.Module:
    torch.manual_seed(0)
    net = Coarse().eval()
    Coarse.seen.clear()
    return net


USES: dict[str, Callable[[nn.Module, Any], Any]] = {
    "evaluate": quality.evaluate,
    "quality": quality.quality,
    "drop": lambda net, split: quality.drop_from(net, split, CLASSIFICATION)(net),
    "identical": identical,
    "reestimate": reestimate,
}


@pytest.mark.parametrize("use", USES)
def test_large_images_are_computed_a_few_at_a_time(use: str, large: data.Dataset) -> None:
    """250 were, whatever their size: 786 MB of inputs alone at 512 x 512."""
    USES[use](network(), large.validation)
    assert max(Coarse.seen) <= FEW and sum(Coarse.seen) % COUNT == 0


def test_small_images_are_computed_many_at_a_time() -> None:
    small = data.as_dataset(((torch.rand(300, 3, 110, 110), torch.arange(300) % 3),) * 2)
    quality.evaluate(network(), small.validation)
    assert Coarse.seen == [250, 50]


def test_figures_do_not_depend_on_how_many_are_computed_at_a_time(large: data.Dataset) -> None:
    net = network()
    assert quality.evaluate(net, large.validation) == quality.evaluate(net, large.validation, batch_size=COUNT)


@pytest.mark.long
@pytest.mark.parametrize("labels", [True, False])
def test_a_run_computes_large_images_a_few_at_a_time(labels: bool, large: data.Dataset) -> None:
    images = torch.cat([inputs for inputs, _ in large.train.batches(COUNT)])
    given: Any = {"dataset": large} if labels else {"calibration": images}
    slimkit.compress(network(), images[:1], 0.5, round_to=1, epochs=0, onnx=False, **given)
    assert max(Coarse.seen) <= FEW
