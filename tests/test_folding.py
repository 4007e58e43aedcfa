"""Constants of removed channels: exact without borders, never worse than nothing where statistics are true."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit.channels import trace
from slimkit.recovery import fold
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.remove import remove


class Chain(nn.Module):
    """conv, BN, activation, conv (no padding), BN, pool, linear."""

    def __init__(self, activation: nn.Module, bias: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation, nn.Conv2d(8, 6, 3, bias=bias), nn.BatchNorm2d(6),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def with_true_statistics(model: nn.Module, images: Tensor) -> nn.Module:
    """Give every BatchNorm random scales and the statistics of these images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 1.0)
            nn.init.normal_(module.bias, 0.0, 0.5)
            module.momentum = None
    model.train()
    with torch.no_grad():
        model(images)
    return model.eval()


def silent(model: nn.Module, gone: int) -> Mask:
    """Make the first `gone` channels of the first BatchNorm constant (gamma 0, beta kept) and mask them."""
    graph = trace(model, torch.randn(1, 3, 12, 12))
    keep = torch.ones(graph.units, dtype=torch.bool)
    keep[graph.groups[0].members[:gone]] = False
    return Mask(keep)


class Affine(nn.Module):
    """A number times the rectified input, plus a number, both learned: HGNetV2's, and StarReLU's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor([1.3])), nn.Parameter(torch.tensor(0.4))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.relu() + self.bias


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(), nn.Hardswish(), nn.Sigmoid(), Affine()])
@pytest.mark.parametrize("bias", [True, False])
def test_a_constant_channel_folds_exactly_without_borders(activation: nn.Module, bias: bool) -> None:
    images = torch.randn(16, 3, 12, 12)
    model = with_true_statistics(Chain(activation, bias), images)
    with torch.no_grad():
        model.body[1].weight[:3] = 0.0  # what is left of these channels is act(beta)
    mask = silent(model, 3)
    graph = trace(model, images[:1])
    slim = remove(model, graph, mask)
    means = fold.input_means(model, graph, mask, [images[:1]], measured=False)
    done, readers = fold.fold_(slim, model, graph, mask, means)
    assert (done, readers) == (1, 1)
    torch.testing.assert_close(slim(images), model(images), rtol=1e-4, atol=1e-5)
    unfolded = remove(model, graph, mask)
    assert proof.relative_error(model(images), unfolded(images)) > 1e-3


@pytest.mark.parametrize("measured", [True, False])
def test_folding_brings_the_outputs_nearer(measured: bool) -> None:
    images = torch.randn(64, 3, 12, 12)
    model = with_true_statistics(Chain(nn.ReLU(), False), images)
    mask = silent(model, 4)
    graph = trace(model, images[:1])
    slim = remove(model, graph, mask)
    folded = copy.deepcopy(slim)
    fold.fold_(folded, model, graph, mask, fold.input_means(model, graph, mask, [images], measured))
    wanted = model(images)
    before, after = ((wanted - net(images)).square().mean() for net in (slim, folded))
    assert after < 0.6 * before


def test_gauss_hermite_gives_the_mean_of_a_rectified_normal() -> None:
    """E[relu(gamma z + beta)] = gamma phi(b) + beta Phi(b), b = beta / gamma."""
    images = torch.randn(64, 3, 12, 12)
    model = with_true_statistics(Chain(nn.ReLU(), False), images)
    mask = silent(model, 2)
    graph = trace(model, images[:1])
    found = fold.input_means(model, graph, mask, [images[:1]], measured=False)["body.3.weight"]
    norm = model.body[1]
    for gamma, beta, mean in zip(norm.weight.tolist(), norm.bias.tolist(), found.tolist(), strict=True):
        b = beta / gamma
        density = math.exp(-b * b / 2) / math.sqrt(2 * math.pi)
        below = (1 + math.erf(b / math.sqrt(2))) / 2
        assert mean == pytest.approx(gamma * density + beta * below, abs=0.03)


@pytest.mark.parametrize("lacks", [("bias",), ("weight",), ("weight", "bias")], ids="-".join)
def test_a_batch_norm_promises_as_much_without_scale_or_shift(lacks: tuple[str, ...]) -> None:
    images = torch.randn(64, 3, 12, 12)
    model = with_true_statistics(Chain(nn.ReLU(), False), images)
    with torch.no_grad():
        for name in lacks:
            getattr(model.body[1], name).fill_(float(name == "weight"))
    mask = silent(model, 2)
    graph = trace(model, images[:1])
    wanted = fold.input_means(model, graph, mask, [images[:1]], measured=False)["body.3.weight"]
    for name in lacks:
        setattr(model.body[1], name, None)
    found = slimkit.compress(model, images[:1], ratio=0.25, onnx=False, constants="fold", recover=False)
    assert found.report.proof
    graph = trace(model, images[:1])
    means = fold.input_means(model, graph, mask, [images[:1]], measured=False)
    torch.testing.assert_close(means["body.3.weight"], wanted)


def test_measured_means_are_the_means_of_what_arrives() -> None:
    images = torch.randn(8, 3, 12, 12)
    model = with_true_statistics(Chain(nn.ReLU(), False), images)
    mask = silent(model, 2)
    graph = trace(model, images[:1])
    found = fold.input_means(model, graph, mask, [images[:4], images[4:]], measured=True)["body.3.weight"]
    arrives = model.body[:3](images)
    torch.testing.assert_close(found, arrives.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_statistics_never_estimated_promise_nothing() -> None:
    model = Chain(nn.ReLU(), False).eval()  # fresh: mean 0, variance 1
    mask = silent(model, 2)
    graph = trace(model, torch.randn(1, 3, 12, 12))
    assert fold.input_means(model, graph, mask, [torch.randn(1, 3, 12, 12)], measured=False) == {}


class Reads(nn.Module):
    """conv, BN, and a reader with a bias of its own that `read` may leave alone."""

    def __init__(self, reader: nn.Module, read: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.reader, self.read = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), reader, read
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.read(self.reader, self.norm(self.conv(x)).relu()).mean((2, 3)))


def last(reader: nn.Module, x: Tensor) -> Tensor:
    return reader(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def both(layers: nn.Module, x: Tensor) -> Tensor:
    """Let the second layer read a constant, under the bias of the first."""
    first, second = layers.children()
    second.bias = first.bias
    return torch.add(first(x), second(torch.ones(1, 8, 1, 1)).relu())


READS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor], int]] = {
    "a convolution": (lambda: nn.Conv2d(8, 6, 1), lambda conv, x: conv(x), 1),
    "called twice": (lambda: nn.Conv2d(8, 6, 1), lambda conv, x: conv(x) + conv(x).relu(), 1),
    "a linear layer on channels last": (lambda: nn.Linear(8, 6), last, 1),
    "its bias left alone": (lambda: nn.Conv2d(8, 6, 1), lambda conv, x: F.conv2d(x, conv.weight), 0),
    "its bias added by hand, twice": (
        lambda: nn.Conv2d(8, 6, 1),
        lambda conv, x: F.conv2d(x, conv.weight) + 2 * conv.bias[None, :, None, None],
        0,
    ),
    "once with its bias, once without": (
        lambda: nn.Conv2d(8, 6, 1),
        lambda conv, x: conv(x) + F.conv2d(x, conv.weight).relu(),
        0,
    ),
    "a bias that another layer has too": (lambda: nn.ModuleList([nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)]), both, 0),
    "the bias of another": (
        lambda: nn.ModuleList([nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)]),
        lambda both, x: F.conv2d(x, both[0].weight, both[1].bias),
        1,
    ),
}


@pytest.mark.parametrize("name", READS)
def test_a_constant_goes_into_the_bias_that_is_added(name: str) -> None:
    torch.manual_seed(0)
    make, read, folded = READS[name]
    images = torch.randn(16, 3, 12, 12)
    model = with_true_statistics(Reads(make(), read), images)
    with torch.no_grad():
        model.norm.weight[:3] = 0.0
    mask, graph = silent(model, 3), trace(model, images[:1])
    slim = remove(model, graph, mask)
    means = fold.input_means(model, graph, mask, [images[:1]], measured=True)
    assert fold.fold_(slim, model, graph, mask, means) == (folded, 1)
    if folded:
        torch.testing.assert_close(slim(images), model(images), rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(slim(images), remove(model, graph, mask)(images), rtol=0, atol=0)


class Joins(nn.Module):
    """Two branches of conv and BN, brought together by `join`, and what reads them."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3) for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(2)])
        self.join, self.read, self.out = join, nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        one, other = (norm(conv(x)) for conv, norm in zip(self.convs, self.norms, strict=True))
        return self.out(self.read(self.join(one, other).relu()).relu().mean((2, 3)))


def written_out(share: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: x + share * y


# each with how to write it by operators that take no settings
JOINS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "a sum, one by a factor": (lambda x, y: torch.add(x, y, alpha=0.1), written_out(0.1)),
    "a sum in place, one by a factor": (lambda x, y: x.add_(y, alpha=-2), written_out(-2)),
    "a sum, written elsewhere": (lambda x, y: torch.add(x, y, alpha=3, out=torch.empty_like(x)), written_out(3)),
    "a difference": (lambda x, y: x - y, written_out(-1)),
    "a difference, one by a factor": (lambda x, y: torch.sub(x, y, alpha=0.5), written_out(-0.5)),
    "a difference in place": (lambda x, y: x.sub_(y), written_out(-1)),
    "a difference from the other": (lambda x, y: torch.rsub(y, x, alpha=0.5), written_out(-0.5)),
    "one twice": (lambda x, y: torch.add(x, x, alpha=2), lambda x, y: 3 * x),
    "a number by a factor": (lambda x, y: torch.add(x, 2, alpha=3), lambda x, y: x + 6),
    "bounds, written elsewhere": (
        lambda x, y: torch.clamp(x, -0.1, 0.2, out=torch.empty_like(x)),
        lambda x, y: x.clamp(-0.1, 0.2),
    ),
}


@pytest.mark.parametrize("name", JOINS)
def test_a_join_is_carried_with_its_settings(name: str) -> None:
    join, plain = JOINS[name]
    images = torch.randn(16, 3, 12, 12)
    model = with_true_statistics(Joins(plain), images)
    graph = trace(model, images[:1])
    keep = torch.ones(graph.units, dtype=torch.bool)
    keep[graph.groups[0].members[:3]] = False
    wanted = fold.input_means(model, graph, Mask(keep), [images[:1]], measured=False)
    assert "read.weight" in wanted
    model.join = join
    graph = trace(model, images[:1])
    torch.testing.assert_close(fold.input_means(model, graph, Mask(keep), [images[:1]], measured=False), wanted)
    folded = slimkit.compress(model, images[:1], ratio=0.25, onnx=False, constants="fold", recover=False)
    assert folded.report.proof


@pytest.mark.parametrize("turn", [lambda x: x.transpose_(2, 3), lambda x: x.cumsum_(3)], ids=["axes", "running sum"])
def test_what_goes_along_an_axis_in_place_is_not_carried(turn: Callable[[Tensor], Tensor]) -> None:
    images = torch.randn(16, 3, 12, 12)
    model = with_true_statistics(Joins(lambda x, y: turn(x)), images)
    mask = silent(model, 3)
    graph = trace(model, images[:1])
    assert fold.input_means(model, graph, mask, [images[:1]], measured=False) == {}
