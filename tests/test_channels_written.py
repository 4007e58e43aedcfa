"""Widths written into the nodes of an fx network follow the mask."""

from collections.abc import Callable
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from slimkit.channels import trace
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.remove import remove
from tests.test_channels_property import macs, random_mask

aten = torch.ops.aten
X = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def network(body: Callable[[fx.Graph, fx.Node], fx.Node], width: int = 8) -> fx.GraphModule:
    """Return a convolution 3 -> width, some nodes, and a convolution width -> 2, as an fx network."""
    torch.manual_seed(0)
    root = nn.ModuleDict({"a": nn.Conv2d(3, width, 1), "b": nn.Conv2d(width, 2, 1)})
    graph = fx.Graph()
    graph.output(graph.call_module("b", (body(graph, graph.call_module("a", (graph.placeholder("x"),))),)))
    return fx.GraphModule(root, graph).double().eval()


def split(graph: fx.Graph, x: fx.Node, target: Any, *args: Any, parts: int) -> fx.Node:
    pieces = graph.call_function(target, (x, *args))
    taken = [graph.call_function(getitem, (pieces, i)) for i in range(parts)]
    return graph.call_function(aten.cat.default, (taken[::-1], 1))


def shuffle(graph: fx.Graph, x: fx.Node) -> fx.Node:
    x = graph.call_function(aten.view.default, (x, [2, 2, 4, 4, 4]))
    x = graph.call_function(aten.transpose.int, (x, 1, 2))
    x = graph.call_function(aten.clone.default, (x,), {"memory_format": torch.contiguous_format})
    return graph.call_function(aten.view.default, (x, [2, 8, 4, 4]))


def cuts(graph: fx.Graph, x: fx.Node) -> fx.Node:
    parts = [graph.call_function(aten.slice.Tensor, (x, 1, *cut)) for cut in ((5, 9223372036854775807), (2, 5), (0, 2))]
    return graph.call_function(aten.cat.default, (parts, 1))


def gate(graph: fx.Graph, x: fx.Node) -> fx.Node:
    mean = graph.call_function(aten.mean.dim, (x, [2, 3], True))
    return graph.call_function(aten.mul.Tensor, (x, graph.call_function(aten.expand.default, (mean, [2, 8, 4, 4]))))


BODIES: dict[str, tuple[Callable[[fx.Graph, fx.Node], fx.Node], int]] = {
    "equal parts": (lambda g, x: split(g, x, aten.split.Tensor, 4, 1, parts=2), 4),
    "unequal parts": (lambda g, x: split(g, x, aten.split_with_sizes.default, [3, 5], 1, parts=2), 8),
    "shuffle": (shuffle, 4),
    "cuts": (cuts, 8),
    "expansion": (gate, 8),
}


@pytest.mark.parametrize("case", BODIES)
def test_numbers_in_nodes_follow(case: str) -> None:
    body, units = BODIES[case]
    net = network(body)
    code, expected = net.code, net(X)
    graph = trace(net, X)
    assert graph.units == units and [k.layer for k in graph.kept] == ["b"]
    for seed in range(4):
        mask = random_mask(graph, seed)
        assert proof.evidence_for(net, graph, mask, [X]).error <= 1e-9
        slim = remove(net, graph, mask)
        one = macs(slim, X[:1]) if case == "expansion" else macs(slim, X) // 2  # which makes two images of one
        assert graph.macs(mask.keep) == one
        assert trace(slim, X).units > 0
    assert net.code == code and "forward" not in vars(net)
    torch.testing.assert_close(net(X), expected, rtol=0, atol=0)


def test_a_network_inside_another_one() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = network(BODIES["unequal parts"][0]), nn.Conv2d(2, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.inner(x))
            return y

    net = Outer().double().eval()
    graph = trace(net, X)
    assert [(g.name, len(g.members)) for g in graph.groups] == [("inner.a", 8), ("inner.b", 2)]
    assert {width.node for width in graph.widths} == {"split_with_sizes_default"}
    assert proof.evidence_for(net, graph, random_mask(graph, 0), [X]).error <= 1e-9


def test_a_wrong_number_fails_the_proof_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    net = network(BODIES["equal parts"][0])
    graph = trace(net, X)
    mask = Mask(torch.tensor([False, True, True, True]))
    expected = proof.outputs(proof.masked(net, graph, mask), [X])
    slim: Any = remove(net, graph, mask)
    node = next(node for node in slim.graph.nodes if node.name == "split_tensor")
    assert node.args[1] == 3
    node.args = (node.args[0], 8, 1)
    slim.recompile()
    with pytest.raises(IndexError):
        slim(X)
    assert "IndexError" in capfd.readouterr().err  # an fx network prints the code that raised
    assert proof.compare(expected, slim, [X]) == float("inf")
    assert capfd.readouterr().err == ""
