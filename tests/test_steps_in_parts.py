"""A step of channel counts that was asked for holds for every layer that makes or reads the channels."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit.channels import torch_pruning
from slimkit.selection.budget import Widths, to_ratio


class Cell(nn.Module):
    """A convolution makes four gates, of which one state is made; it reads that state, and so does the head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.stem, self.gates = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = k = x.new_zeros(len(x), self.width, *x.shape[2:])
        for _ in range(2):
            i, f, o, g = self.gates(torch.cat([self.stem(x).relu(), h], 1)).chunk(4, 1)
            k = f.sigmoid() * k + i.sigmoid() * g.tanh()
            h = o.sigmoid() * k.tanh()
        found: Tensor = self.head(h)
        return found


class Halves(nn.Module):
    """One half of what a convolution makes goes on, the other is added later, as in ShuffleNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(1, 32, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.stem(x).relu().chunk(2, 1)
        found: Tensor = self.head(torch.cat([one, self.branch(two).relu()], 1))
        return found


def chain(*between: nn.Module, made: int, read: int, groups: int = 1) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(1, made, 3), *between, nn.Conv2d(read, 48, 3, groups=groups), nn.ReLU(), nn.Conv2d(48, 2, 1)
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {  # and the counts of its smallest layer
    "gates": (Cell, {"stem": 16, "gates": 16}),
    "gated": (chain(nn.GLU(1), made=48, read=24), {"0": 24}),
    "pixels": (chain(nn.PixelShuffle(2), made=64, read=16), {"0": 16}),
    "pixels in groups": (chain(nn.PixelShuffle(2), made=64, read=16, groups=2), {"0": 16}),
    "halves": (Halves, {"stem": 16}),
    "groups": (chain(nn.ReLU(), made=24, read=24, groups=4), {"0": 24}),
    "plain": (chain(nn.ReLU(), made=24, read=24), {"0": 24}),
}


@pytest.mark.parametrize("step", [2, 4, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_that_was_asked_for_holds_in_every_layer(name: str, step: int) -> None:
    make, smallest = NETWORKS[name]
    net = make().eval()
    graph = slimkit.trace(net, torch.randn(2, 1, 12, 12))
    widths = Widths(step, adapt=False, cap=0.99)
    for group in graph.groups:
        if group.name in smallest:
            whole = smallest[group.name]
            unit = whole // len(group.members)
            counts = [unit * count for count in widths.of(group)]
            finest = [n for n in range(whole - 1, 0, -1) if n % step == 0 and n % unit == 0]
            assert counts == [whole, *finest] and finest
    for seed in range(4):
        scores = torch.rand(graph.units, generator=torch.Generator().manual_seed(seed))
        small = slimkit.remove(net, graph, to_ratio(graph, scores, 0.5, widths))
        for module in small.modules():
            if isinstance(module, nn.Conv2d):
                assert module.in_channels == 1 or module.in_channels % step == 0
                assert module.out_channels <= 2 or module.out_channels % step == 0


def test_channels_tied_by_convolution_groups_are_counted_together() -> None:
    """Units of four channels go one by one in steps of 4, as they did."""
    net = chain(nn.ReLU(), made=24, read=24, groups=4)().eval()
    for trace in (slimkit.trace, torch_pruning.trace):
        first = trace(net, torch.randn(2, 1, 12, 12)).groups[0]
        assert Widths(4, adapt=False, cap=0.99).of(first) == [6, 5, 4, 3, 2, 1]
