"""Images made from a network's own statistics: they meet them, and are enough to recover a cut."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import model_zoo
from slimkit import data, models, provenance
from slimkit.channels import trace
from slimkit.errors import DataError
from slimkit.measure.quality import quality as accuracy
from slimkit.recovery.made_images import made_images
from slimkit.recovery.reconstruct import reconstruct
from slimkit.surgery.remove import remove
from tests.test_reconstruct import half


def test_the_statistics_of_made_images_are_those_that_batch_norm_keeps() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        for _ in range(200):
            net(torch.randn(16, 2, 8, 8) * 0.5 + 1)
    net[0].weight.requires_grad_(False)
    state = copy.deepcopy(net.state_dict())
    images = made_images(net, (2, 8, 8), count=64, steps=80)
    assert images.shape == (64, 2, 8, 8)
    assert net.training and not net[0].weight.requires_grad and net[3].weight.requires_grad
    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
    net.eval()
    with torch.no_grad():
        read = net[:4](images)
    torch.testing.assert_close(read.mean((0, 2, 3)), net[4].running_mean, rtol=0.1, atol=0.1)
    torch.testing.assert_close(read.std((0, 2, 3)), net[4].running_var.sqrt(), rtol=0.2, atol=0.05)


def test_made_images_depend_on_nothing_but_network_and_seed() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    net(torch.randn(8, 1, 6, 6))
    first, again, other = (made_images(net, (1, 6, 6), count=10, steps=3, seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "net", [nn.Sequential(nn.Conv2d(1, 3, 3)), nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))]
)
def test_without_learned_statistics_nothing_can_be_made(net: nn.Module) -> None:
    with pytest.raises(DataError, match="no BatchNorm with learned statistics"):
        made_images(net, (1, 6, 6), count=8, steps=1)


def test_a_network_is_halved_with_nothing_but_its_checkpoint() -> None:
    net = models.load_slim(Path(model_zoo.__file__).parent / "resnet8-digits.safetensors").eval()
    digits = data.open("digits").normalised(provenance.of(net).normalisation)
    images = made_images(net, digits.input_shape, count=128, steps=40)
    graph = trace(net, images[:1])
    mask = half(graph)
    slim = remove(net, graph, mask)
    found = reconstruct(net, slim, graph, mask, [images])
    assert accuracy(slim, digits.validation) < 0.3
    assert accuracy(found.model, digits.validation) > 0.7
