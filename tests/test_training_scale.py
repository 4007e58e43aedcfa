"""The scale of weights before a BatchNorm: outputs stay, the speed of learning is kept."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from slimkit import training
from slimkit.channels import Graph, trace
from slimkit.mask import Mask
from slimkit.surgery import kept_indices, remove

X = torch.randn(8, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolutions with and without a bias, grouped, read twice, and a linear layer before a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.an = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.b, self.bn = nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24)
        self.c, self.cn = nn.Conv2d(24, 24, 3, groups=4, bias=False), nn.BatchNorm2d(24)
        self.d, self.dn = nn.Conv2d(24, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.e, self.en = nn.Linear(16, 20), nn.BatchNorm1d(20)
        self.f = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.an(self.a(x)).relu()
        x = self.bn(self.b(x)).relu()
        x = self.cn(self.c(x)).relu()
        y = self.d(x)
        y = self.dn(y) + y  # read by more than its BatchNorm
        return self.f(self.en(self.e(y.mean((2, 3)))).relu())


@pytest.fixture
def cut() -> tuple[nn.Module, nn.Module, Graph, Mask]:
    """A network after some steps, smaller, with true statistics."""
    torch.manual_seed(0)
    net = Net().double().train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eps = 1e-12  # what is added to the variance is all that scale changes
    for _ in range(20):
        net(X)
    graph = trace(net.eval(), X[:1])
    keep = torch.rand(graph.units) < 0.4
    for group in graph.groups:
        keep[group.units[0]] = True
    small = remove(net, graph, Mask(keep))
    return net, small, graph, Mask(keep)


@pytest.mark.parametrize("train", [False, True])
def test_outputs_stay_as_they_are(cut: tuple[nn.Module, nn.Module, Graph, Mask], train: bool) -> None:
    net, small, graph, mask = cut
    before = copy.deepcopy(small).train(train)(X)
    training.restore_norms_(small, net, graph.folds, kept_indices(graph, mask))
    torch.testing.assert_close(small.train(train)(X), before, rtol=1e-6, atol=1e-6)


def test_rows_before_a_batch_norm_are_as_long_as_before(cut: tuple[nn.Module, nn.Module, Graph, Mask]) -> None:
    net, small, graph, mask = cut
    kept = kept_indices(graph, mask)
    short = copy.deepcopy(small)
    training.restore_norms_(small, net, graph.folds, kept)
    for name in "bcdef":
        old, cut_off, new = (m.get_submodule(name).weight.detach() for m in (net, short, small))
        rows = kept[f"{name}.weight"].get(0, torch.arange(len(old)))
        if name in "df":  # read by something else than a BatchNorm too
            assert torch.equal(new, cut_off)
        else:
            assert float(new.norm()) == pytest.approx(float(old[rows].norm()), rel=1e-5)
            assert float(cut_off.norm()) < 0.95 * float(new.norm()) or name == "c"  # conv groups keep their inputs


def test_momentum_and_gradient_keep_their_proportion(cut: tuple[nn.Module, nn.Module, Graph, Mask]) -> None:
    """A weight that is twice as large has half the gradient, and so half the momentum."""
    net, small, graph, mask = cut
    optimizer = training.build(small.train(), 0.01, 0.9, 0.0)
    cross_entropy(small(X), torch.arange(8) % 5).backward()
    optimizer.step()
    for parameter in small.parameters():
        optimizer.state[parameter]["momentum_buffer"].copy_(parameter.grad)
    optimizer.zero_grad()
    cross_entropy(small(X), torch.arange(8) % 5).backward()
    wanted = {n: p.grad / optimizer.state[p]["momentum_buffer"] for n, p in small.named_parameters()}
    training.restore_norms_(small, net, graph.folds, kept_indices(graph, mask), optimizer)
    optimizer.zero_grad()
    cross_entropy(small(X), torch.arange(8) % 5).backward()
    for name, parameter in small.named_parameters():
        if parameter.ndim > 1:  # the gradient of a bias that BatchNorm takes out again is nothing but noise
            found = parameter.grad / optimizer.state[parameter]["momentum_buffer"]
            assert float((found - wanted[name]).abs().median()) < 0.02, name


def test_a_weight_of_zeros_is_left_alone(cut: tuple[nn.Module, nn.Module, Graph, Mask]) -> None:
    net, small, graph, mask = cut
    nn.init.zeros_(small.get_parameter("b.weight"))
    training.restore_norms_(small, net, graph.folds, kept_indices(graph, mask))
    assert all(bool(tensor.isfinite().all()) for tensor in small.state_dict().values())
