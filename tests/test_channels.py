"""Rules of single operators: which channels are units, what is kept and why, what is followed."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit.channels import Graph, trace
from slimkit.selection.mask import Mask
from slimkit.surgery.proof import evidence_for
from slimkit.surgery.remove import remove
from tests.blocks import conv_bn
from tests.test_channels_property import random_mask


class Between(nn.Module):
    """A convolution 3 -> 8, a function, a convolution 8 -> 4, a mean: what becomes of the channels?"""

    def __init__(self, function: Callable[..., Tensor], **attributes: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        wants_self = self.function.__code__.co_argcount == 2
        return self.b(self.function(self, y) if wants_self else self.function(y)).mean((2, 3))


X = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def graph_of(net: nn.Module, x: Any = X) -> Graph:
    net.double().eval()
    return trace(net, x)


def proven(net: nn.Module, graph: Graph, x: Any = X) -> bool:
    found = [evidence_for(net, graph, random_mask(graph, seed), [x]) for seed in range(3)]
    # Where an output varies by rounding alone, other inputs are tried: a last bit is 1e-7 of what counts as one.
    return all((one.shown[0].error or 0.0) <= 1e-9 and one.error <= 1e-6 for one in found)


PASSES: dict[str, tuple[Callable[..., Tensor], int]] = {  # function, units of the first convolution's 8 channels
    "relu": (lambda x: F.relu(x), 8),
    "in place": (lambda x: F.relu_(x), 8),
    "out-of-place twin": (lambda x: torch.add(x, x, alpha=2), 8),
    "hardtanh": (lambda x: F.hardtanh(x, -1, 1), 8),
    "gelu of a half": (lambda x: F.gelu(x) * 0.5, 8),
    "comparison": (lambda x: torch.where(x > 0, x, 0.1 * x), 8),
    "scaled by its sigmoid": (lambda x: x * torch.sigmoid(x), 8),
    "exp minus one": (lambda x: torch.expm1(x), 8),
    "norm over space": (lambda x: x / (1 + x.norm(dim=(2, 3), keepdim=True)), 8),
    "softmax over space, gating": (lambda x: x * x.flatten(2).softmax(-1).view_as(x), 8),
    "attention over places": (lambda x: (x.flatten(2).mT @ x.flatten(2) @ x.flatten(2).mT).mT.view_as(x), 8),
    "a table of places": (lambda x: x.flatten(2)[:, :, torch.arange(36).reshape(6, 6)], 8),
    "topk over space": (lambda x: x.flatten(2).topk(9, -1).values.reshape(2, -1, 3, 3), 8),
    "flip over space": (lambda x: x.flip(3).roll(1, 2), 8),
    "cumulative sum over space": (lambda x: x.cumsum(3), 8),
    "pads": (lambda x: F.pad(F.pad(x, (1, 1, 1, 1)), (1, 1, 1, 1), mode="reflect"), 8),
    "padding below zero, max pool": (lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-1e9), 2), 8),
    "pools": (lambda x: F.adaptive_max_pool2d(F.avg_pool2d(F.max_pool2d(x, 2), 2), 1), 8),
    "resizing": (lambda x: F.interpolate(F.interpolate(x, scale_factor=2), size=(5, 5), mode="bilinear"), 8),
    "grid sample": (lambda x: F.grid_sample(x, torch.zeros(2, 4, 4, 2).double(), align_corners=False), 8),
    "unfold windows": (lambda x: x.unfold(2, 2, 1).mean(-1), 8),
    "flatten and back": (lambda x: x.flatten(1).view(2, -1, 6, 6), 8),
    "channels last and back": (lambda x: x.permute(0, 2, 3, 1).contiguous().movedim(-1, 1), 8),
    "einsum with itself": (lambda x: torch.einsum("nchw,nchw->nchw", x, x), 8),
    "repeat over space": (lambda x: x.repeat(1, 1, 2, 1), 8),
    "expand": (lambda x: x[:, :, :1].expand(-1, -1, 6, -1), 8),
    "space written in place": (lambda x: _write_in_place(x), 8),
    "index over space": (lambda x: x[:, :, torch.tensor([0, 2])], 8),
    "batch first": (lambda x: torch.stack([x[0], x[1]]), 8),
    "unbind over space": (lambda x: torch.stack(x.unbind(3), 3), 8),
    "halves added": (lambda x: sum(x.chunk(2, 1)).repeat(1, 2, 1, 1), 4),  # type: ignore[union-attr]
    "channel shuffle": (lambda x: F.channel_shuffle(x, 2), 4),
    "shuffle by views": (lambda x: x.view(2, 2, -1, 6, 6).transpose(1, 2).flatten(1, 2), 4),
    "glu twice": (lambda x: torch.cat([F.glu(x, 1), F.glu(x, 1)], 1), 4),
    "patches": (lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 6), 3, padding=1), 8),
    "sigmoid": (lambda x: torch.sigmoid(x), 8),
    "exp": (lambda x: x.exp(), 8),
    "plus one": (lambda x: x + 1, 8),
    "clamp": (lambda x: x.clamp(min=0.1), 8),
    "plus a map": (lambda x: x + x.new_ones(6, 6), 8),
    "padding with one": (lambda x: F.pad(x, (1, 1), value=1.0), 8),
    "softmax over space": (lambda x: x.softmax(3), 8),
    "not zero in a view": (lambda x: _sigmoid_in_view(x), 8),
    "pixels and back": (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), 2),
}


def _write_in_place(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, 1:] = x[:, :, :-1]
    y[:, :, 0].add_(x[:, :, 0])
    return y


def _sigmoid_in_view(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, :3].sigmoid_()
    return x


@pytest.mark.parametrize("case", PASSES)
def test_channels_pass(case: str) -> None:
    function, units = PASSES[case]
    net = Between(function)
    graph = graph_of(net)
    assert graph.units == units
    assert [(g.name, g.layers) for g in graph.groups] == [("a", ("a",))]
    assert proven(net, graph)


KEPT: dict[str, tuple[Callable[..., Tensor], str]] = {
    "which channel": (lambda x: x * x.argmax(1, keepdim=True), "is reduced over (argmax)"),
    "product of channels": (lambda x: x * x.prod(1, keepdim=True), "is reduced over (prod)"),
    "softmax over channels, logarithm": (lambda x: x.log_softmax(1), "is mixed along its dimension (log_softmax)"),
    "flipped channels": (lambda x: x.flip(1), "is mixed along its dimension (flip)"),
    "rolled without dimensions": (lambda x: x.roll(1), "is mixed along its dimension (roll)"),
    "group norm, written": (lambda x: F.group_norm(x, 8), "is normalised in 8 groups, a number written in the code"),
    "attention to a fixed tensor": (
        lambda x: x * (torch.ones(2, 2, 8).double() @ x.flatten(2)).mean(),
        "enters a product with a tensor that is no parameter",
    ),
    "fixed width": (lambda x: x * torch.ones(8, 1, 1).double(), "is combined with a tensor of fixed width"),
    "a cut": (lambda x: torch.cat([x[:, 3:], x[:, :3]], 1), "is cut at a place written in the code (slice)"),
    "one channel": (lambda x: x + x[:, :1], "is cut at a place written in the code (slice)"),
    "a pick": (lambda x: x + x[:, 0].unsqueeze(1), "is taken by its index (select)"),
    "a list of picks": (lambda x: x[:, torch.arange(8)], "is picked by index"),
    "index_select": (
        lambda x: x.index_select(1, torch.arange(8)),
        "is mixed along its dimension (index_select)",
    ),
    "uneven split": (
        lambda x: torch.cat(x.split([3, 5], 1), 1),
        "is split into [3, 5]: sizes written in the code",
    ),
    "no rule": (lambda x: x + torch.linalg.svdvals(x)[..., :1, None], "passes through _linalg_svd"),
    "computed weight": (
        lambda x: F.conv2d(x, torch.ones(8, 8, 1, 1).double()),
        "is read by a weight that is computed, not stored",
    ),
    "convolved channels": (
        lambda x: (
            F.conv1d(x.mean((2, 3))[:, None], torch.ones(1, 1, 3).double(), padding=1)[0, 0].view(1, -1, 1, 1) * x
        ),
        "lies along a dimension that a convolution runs over",
    ),
    "resized channels": (
        lambda x: F.interpolate(x.mT.movedim(1, 2), (8, 6)).movedim(1, 2).mT,
        "is pooled, resized",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_channels_are_kept_with_operator_and_module(case: str) -> None:
    function, reason = KEPT[case]
    net = Between(function)
    graph = graph_of(net)
    assert graph.units == 0
    kept = {k.layer: k for k in graph.kept}
    assert kept["a"].channels == 8
    assert reason in kept["a"].reason
    assert " (in " in kept["a"].reason
    assert kept["b"].reason == "reaches the output of the network"
    assert graph.total == 12


@pytest.mark.parametrize("loud, units", [(lambda w: w.sigmoid(), 0), (lambda w: w.tanh(), 8)])
def test_a_weight_that_is_not_zero_where_it_was_removed_must_read_zeros(
    loud: Callable[[Tensor], Tensor], units: int
) -> None:
    """sigmoid(0) * sigmoid(0) is no zero, and no weight can be set to make it one."""
    net = Between(lambda m, x: F.conv2d(x.sigmoid(), loud(m.w)), w=nn.Parameter(torch.randn(8, 8, 1, 1)))
    graph = graph_of(net)
    first = [group for group in graph.groups if group.name == "a"]
    assert sum(len(group.members) for group in first) == units
    assert proven(net, graph)
    if not units:
        (reason,) = {kept.reason for kept in graph.kept if kept.layer == "a"}
        assert "is not zero where it is removed (sigmoid in 'Between'), nor is the weight that reads it" in reason


def test_the_module_of_a_reason_is_the_innermost_one() -> None:
    inner = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 5, 1), norm=nn.LogSoftmax(1)))
    net = nn.Sequential(OrderedDict(body=inner, head=nn.Conv2d(5, 2, 1)))
    (first, second) = graph_of(net).kept
    assert (first.layer, first.channels) == ("body.conv", 5)
    assert first.reason == "is mixed along its dimension (log_softmax) (in body.norm)"
    assert (second.layer, second.channels) == ("head", 2)


FOLLOWED: dict[str, tuple[Callable[..., Tensor], dict[str, Any], dict[str, Any]]] = {
    "sizes of a split": (
        lambda m, x: torch.cat(x.split(m.sizes, 1)[::-1], 1),
        {"sizes": [3, 5]},
        {"sizes": [2, 4]},
    ),
    "a tuple": (lambda m, x: torch.cat(x.split(m.sizes, 1)[::-1], 1), {"sizes": (3, 5)}, {"sizes": (2, 4)}),
    "one size": (lambda m, x: torch.cat(x.split([3, m.rest], 1)[::-1], 1), {"rest": 5}, {"rest": 4}),
    "half of a width": (
        lambda m, x: torch.cat(x.split(m.width // 2, 1)[::-1], 1),
        {"width": 8},
        {"width": 6},
    ),
    "a cut": (lambda m, x: torch.cat([x[:, m.cut :], x[:, : m.cut]], 1), {"cut": 3}, {"cut": 2}),
    "a view": (lambda m, x: x.reshape(-1, m.width, 36).view(2, m.width, 6, 6), {"width": 8}, {"width": 6}),
    "no width: the code leaves open what is as many": (
        lambda m, x: x.view(2, 2, -1, 6, 6).transpose(1, 2).flatten(1, 2) * (m.factor / 4),
        {"factor": 4},
        {"factor": 4},
    ),
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_attributes_that_repeat_a_width_follow(case: str) -> None:
    function, before, after = FOLLOWED[case]
    net = Between(function, **before)
    graph = graph_of(net)
    keep = torch.ones(graph.units, dtype=torch.bool)
    group = next(g for g in graph.groups if "a" in g.layers)
    axis = next(axis for axis in graph.axes if axis.tensor == "a.weight" and axis.dim == 0)
    gone = {"one size": (7,), "half of a width": (0, 4), "a view": (0, 7)}.get(case, (0, 7))
    keep[[int(axis.unit_of[index]) for index in gone]] = False
    assert group.members.numel() < 9
    slim = remove(net, graph, Mask(keep))
    assert {name: getattr(slim, name) for name in before} == after
    assert {name: getattr(net, name) for name in before} == before
    assert evidence_for(net, graph, Mask(keep), [X]).error <= 1e-9
    assert proven(net, graph)


class Flat(nn.Module):
    """Two streams multiplied out with each other, laid flat and read by a linear layer."""

    def __init__(self, product: Callable[..., Tensor], width: int) -> None:
        super().__init__()
        self.a, self.b = conv_bn(3, 8), conv_bn(3, 4)
        self.norm, self.head, self.product = nn.BatchNorm1d(width), nn.Linear(width, 3), product

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.product(self, self.a(x).flatten(2), self.b(x).flatten(2)))


MULTIPLIED: dict[str, tuple[Callable[..., Tensor], int, int]] = {  # product, its width, units
    "outer": (lambda net, a, b: (a @ b.mT).flatten(1), 32, 8),
    "einsum": (lambda net, a, b: torch.einsum("bcs,bds->bcd", b, a).flatten(1), 32, 4),
    "halved": (lambda net, a, b: (a @ b.mT).flatten(1) * torch.tensor(0.5), 32, 8),
    "normalised": (lambda net, a, b: net.norm((a @ b.mT).flatten(1)), 32, 8),
    "with itself": (lambda net, a, b: (a @ a.mT).flatten(1), 64, 4),  # those of b, which nothing reads
    "three": (lambda net, a, b: ((a @ b.mT).flatten(1)[:, :, None] * b.mean(2)[:, None]).flatten(1), 128, 8),
}


@pytest.mark.parametrize("case", MULTIPLIED)
def test_of_channels_each_with_each_those_of_one_factor_may_go(case: str) -> None:
    product, width, units = MULTIPLIED[case]
    net = Flat(product, width)
    graph = graph_of(net)
    assert graph.units == units and proven(net, graph)
    assert {kept.reason.split(" (in")[0] for kept in graph.kept if not kept.output} == {
        "shares a dimension with other channels, each with each"
    }


def test_one_attribute_that_counts_two_things_ties_them() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 4
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 5, 1)
            self.out = nn.Conv2d(11, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x), self.b(x)
            return self.out(
                torch.cat([a[:, self.width :], a[:, : self.width], b[:, self.width :], b[:, : self.width]], 1)
            )

    net = Net()
    graph = graph_of(net)
    rows = {
        axis.tensor: axis.unit_of.tolist()
        for axis in graph.axes
        if axis.tensor in ("a.weight", "b.weight") and not axis.dim
    }
    assert rows["a.weight"][:4] == rows["b.weight"][:4]
    assert rows["a.weight"][4:] != rows["b.weight"][4:]
    assert proven(net, graph)


def test_literal_ones_beside_followed_sizes() -> None:
    net = Between(lambda m, x: torch.cat(x.split([1, m.width, 3], 1), 1), width=4)
    graph = graph_of(net)
    assert graph.units == 4
    assert {k.reason.split(":")[0] for k in graph.kept if k.layer == "a"} == {"is split into [1, 4, 3]"}
    assert proven(net, graph)


def test_zero_padding_of_channels_as_in_a_parameter_free_shortcut() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = conv_bn(3, 4), conv_bn(4, 8), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(self.b(x) + F.pad(x, (0, 0, 0, 0, 2, 2)))

    net = Net()
    graph = graph_of(net)
    assert [(g.layers, len(g.members)) for g in graph.groups] == [(("a.0", "b.0"), 4)]
    assert [(k.channels, "zero padding" in k.reason) for k in graph.kept if k.layer == "b.0"] == [(4, True)]
    assert proven(net, graph)


class Blurred(nn.Module):
    """Blurs with one kernel for all channels, however many there are or as many as `fixed` says."""

    def __init__(self, fixed: int | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.head, self.fixed = nn.Conv2d(16, 4, 1), fixed
        self.register_buffer("kernel", torch.full((1, 1, 3, 3), 1 / 9))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        count = self.fixed or y.shape[1]
        return self.head(F.conv2d(y, self.kernel.expand(count, -1, -1, -1), groups=count)).mean((2, 3))


def test_channels_under_one_kernel_for_all_can_go_where_the_code_follows() -> None:
    x = torch.randn(1, 3, 12, 12)
    found = slimkit.compress(Blurred().eval(), x, 0.5, epochs=0, onnx=False)
    assert found.model.body[0].out_channels < 16 and not found.report.proof.kept_after_failing
    bound = trace(Blurred(16).eval(), x)
    assert [group.name for group in bound.groups] == ["body.0"]  # which only a run tells


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line, self.places = nn.Linear(3, 16), nn.Parameter(torch.randn(5, 16))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(self.line(x), self.places)


def test_what_is_kept_of_the_network_itself_has_a_name() -> None:
    kept = trace(Distances(), torch.randn(2, 3)).kept
    assert {one.layer for one in kept} == {"line", "Distances"}
