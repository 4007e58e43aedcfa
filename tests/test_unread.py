"""A choice of channels by what reads them: gradients against losses with and without the channel."""

import pytest
import torch
from torch import Tensor, nn

from slimkit.channels import Graph, trace
from slimkit.selection.mask import Mask
from slimkit.selection.unread import read_only_by, readers, straight_through, unread
from slimkit.surgery.remove import remove

X = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual stream that a depthwise convolution and a gate follow: what a channel passes before it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.gate = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Sigmoid())
        self.back = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.stem(x)).relu()
        y = self.norms[1](self.deep(x)).relu()
        x = self.norms[2](x + self.back(y * self.gate(y.mean((2, 3), keepdim=True)))).relu()
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def halved(model: nn.Module, graph: Graph) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """Scores, the groups that compete, and what reads them, masked."""
    scores = torch.randn(graph.units, generator=torch.Generator().manual_seed(1)).requires_grad_()
    tensors = dict(model.named_parameters())
    groups = read_only_by(graph, tensors)
    mask = straight_through(scores, groups, 0.5)
    return scores, groups, {name: unread(tensors[name], axes, mask) for name, axes in readers(graph).items()}


@pytest.mark.parametrize("training", [False, True])
def test_the_gradient_of_a_score_is_what_the_loss_gains_from_the_channel_chosen_or_not(training: bool) -> None:
    """To the digit, since the loss is linear in what the last layer reads."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    graph = trace(net.eval(), X)
    net.train(training)
    weights = torch.randn(8, 3)
    scores, _, masked = halved(net, graph)
    (torch.func.functional_call(net, masked, (X,)) * weights).sum().backward()
    kept = straight_through(scores.detach(), [torch.arange(6)], 0.5)
    assert kept.tolist().count(1.0) == 4  # with the one for what must stay

    def loss(unit: int, read: float) -> float:
        with torch.no_grad():
            mask = kept.clone()
            mask[unit] = read
            last = unread(net.get_parameter("4.weight"), graph.by_tensor["4.weight"], mask)
            return float((torch.func.functional_call(net, {"4.weight": last}, (X,)) * weights).sum())

    gains = torch.tensor([loss(unit, 1.0) - loss(unit, 0.0) for unit in range(6)])
    assert gains.abs().min() > 0.01
    torch.testing.assert_close(scores.grad, gains * scores.detach().sign(), rtol=1e-4, atol=1e-4)


def test_what_is_computed_is_what_is_left_when_the_channels_are_removed() -> None:
    torch.manual_seed(0)
    net = Block()
    net(X)
    graph = trace(net.eval(), X)
    assert [len(group.members) for group in graph.groups] == [8, 4]
    scores, groups, masked = halved(net, graph)
    out = torch.func.functional_call(net, masked, (X,))
    keep = straight_through(scores.detach(), groups, 0.5)[:-1] > 0.5
    assert Mask(keep).counts(graph) == [4, 2]
    torch.testing.assert_close(remove(net, graph, Mask(keep))(X), out)
    out.square().sum().backward()
    assert scores.grad is not None
    assert scores.grad[graph.groups[0].members].abs().min() > 1e-3  # a ReLU of the gate is off for good


def test_groups_that_other_parameters_read_too_are_not_chosen_from() -> None:
    graph = trace(Block().eval(), X)
    every = list(readers(graph))
    assert sorted(every) == ["back.weight", "gate.0.weight", "gate.2.weight", "head.weight"]
    assert [len(members) for members in read_only_by(graph, every)] == [8, 4]
    assert [len(members) for members in read_only_by(graph, [n for n in every if n != "back.weight"])] == [4]
    assert not read_only_by(graph, [])
