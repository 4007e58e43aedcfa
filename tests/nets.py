"""Small random networks: blocks put together to a chain by name, between a stem and a head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks import ACROSS, BLOCKS, conv_bn

HEADS = ("pool", "flatten", "maps", "dict", "two inputs")
SIZE = 6
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)


class RandomNet(nn.Module):
    """A stem, a chain of blocks, and a head.

    The heads: `pool` averages, then a linear layer; `flatten` flattens [C, 6, 6] into it, with a BatchNorm
    between; `maps` gives the last maps; `dict` a nest of both; `two inputs` adds a second stem's output.
    """

    def __init__(self, blocks: Sequence[tuple[str, int]], head: str) -> None:
        super().__init__()
        self.head = head
        self.stem = conv_bn(3, 4)
        self.second = nn.Conv2d(2, 4, 1) if head == "two inputs" else None
        c, built = 4, []
        for name, w in blocks:
            block = (BLOCKS | ACROSS)[name](c, w)
            c = int(block.out)  # type: ignore[call-overload]
            built.append(block)
        self.blocks = nn.Sequential(*built)
        if head == "flatten":
            self.fc = nn.Sequential(nn.Linear(c * SIZE * SIZE, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))
        else:
            self.fc = nn.Sequential(nn.Linear(c, 3))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor | dict[str, object]:
        x = self.stem(x)
        if self.second is not None and y is not None:
            x = x + self.second(y)
        x = self.blocks(x)
        if self.head == "maps":
            return x
        if self.head == "flatten":
            return self.fc(x.flatten(1))
        out = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return {"logits": out, "maps": [x]} if self.head == "dict" else out


def random_net(blocks: Sequence[tuple[str, int]], head: str, seed: int) -> RandomNet:
    """Return a network in eval mode and double precision, its BatchNorm statistics random."""
    torch.manual_seed(seed)
    net = RandomNet(blocks, head).double().eval()
    randomise_(net)
    return net


@torch.no_grad()
def randomise_(net: nn.Module) -> None:
    """Give every normalisation scales, shifts and statistics away from their defaults."""
    for module in net.modules():
        if isinstance(module, NORMS) and module.weight is not None:
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)


def example(net: RandomNet, batch: int) -> Tensor | tuple[Tensor, Tensor]:
    """Return an input: a tensor [batch, 3, 6, 6], and [batch, 2, 6, 6] where there are two."""
    x = torch.randn(batch, 3, SIZE, SIZE, dtype=torch.float64)
    return (x, torch.randn(batch, 2, SIZE, SIZE, dtype=torch.float64)) if net.head == "two inputs" else x
