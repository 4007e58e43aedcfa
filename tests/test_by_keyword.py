"""Layers that a network calls by keyword are seen as those that it calls by place."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit.recovery.made_images import made_images
from slimkit.recovery.strange import are_strange
from slimkit.surgery import ranks
from slimkit.training import low_precision
from tests.test_folding import with_true_statistics


class Standardised(nn.Conv2d):
    """Computes its weight, as `plain_weights` takes it."""

    keyword = False

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(input=input, weight=weight) if self.keyword else F.conv2d(input, weight)


class Net(nn.Module):
    """Two convolutions with BatchNorms and a linear layer, called one way or the other."""

    def __init__(self, keyword: bool) -> None:
        super().__init__()
        self.keyword = keyword
        self.a, self.b = nn.Conv2d(3, 16, 3), Standardised(16, 16, 3)
        self.b.keyword = keyword
        self.norm_a, self.norm_b, self.out = nn.BatchNorm2d(16), nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in ((self.a, self.norm_a), (self.b, self.norm_b)):
            x = (norm(input=layer(input=x)) if self.keyword else norm(layer(x))).relu()
        return self.out(input=x.mean((2, 3))) if self.keyword else self.out(x.mean((2, 3)))


def lowered(net: nn.Module, x: Tensor) -> Tensor:
    low_precision.lower_(net, "int8-emulated")
    found: Tensor = net.train()(x)
    low_precision.restore_(net)
    return found.detach()


def compressed(net: nn.Module, x: Tensor, **settings: Any) -> list[torch.Size]:
    found = slimkit.compress(net, x[:1], ratio=0.5, recover=False, onnx=False, **settings)
    return [tensor.shape for tensor in found.model.parameters()]


SEEN: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "ranks of factors": lambda net, x: [(one.path, one.macs, one.shape) for one in ranks.layers(net, x[:1])],
    "torch-pruning": lambda net, x: compressed(net, x, tracer="torch-pruning"),
    "weights that are computed": lambda net, x: sorted(slimkit.plain_weights(net, x[:1]).state_dict()),
    "a cut": compressed,
    "images made": lambda net, x: made_images(net, (3, 12, 12), count=4, steps=2).tolist(),
    "strange inputs": lambda net, x: [are_strange(net, [x]), are_strange(net, [100 + 255 * x])],
    "emulated INT8": lambda net, x: lowered(net, x).tolist(),
}


@pytest.mark.parametrize("feature", SEEN)
def test_layers_called_by_keyword(feature: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(64, 3, 12, 12)
    by_place = with_true_statistics(Net(False), images)
    by_keyword = Net(True).eval()
    by_keyword.load_state_dict(by_place.state_dict())
    torch.testing.assert_close(by_keyword(images), by_place(images))
    wanted = SEEN[feature](by_place, images)
    assert SEEN[feature](by_keyword, images) == wanted
    assert wanted != [False, False]
