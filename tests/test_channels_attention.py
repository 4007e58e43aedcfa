"""Attention: channels of queries and keys go together; a width that is taken from the input follows."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import slimkit
from slimkit.channels import trace
from slimkit.recovery import elimination, widths
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.prove import prove
from slimkit.surgery.remove import remove
from slimkit.surgery.traced import BREAKS, DIFFERS
from tests.nets import randomise_
from tests.test_channels import X, graph_of, proven
from tests.test_channels_property import macs, random_mask

C, HEADS = 12, 3


class Attention(nn.Module):
    """Heads over pixels; what is asked for at the end is the width that the module came with, or that of its input."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.heads, self.head_dim, self.inner = (
            kind,
            HEADS,
            C // HEADS,
            C if "input" not in kind and kind != "literal" else 0,
        )
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.norm = nn.LayerNorm(C // HEADS)
        self.heat = nn.Parameter(torch.rand(HEADS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, places, width = x.shape
        parts = self.qkv(x).reshape(n, places, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)  # [N, heads, places, channels]
        if self.kind == "fused":
            x = F.scaled_dot_product_attention(q, k, v)
        elif self.kind == "fused, another layout":  # torch has no fast kernel for it
            q, k, v = (t.mT.contiguous().mT for t in (q, k, v))
            x = F.scaled_dot_product_attention(q, k, v)
        elif self.kind == "fused, scaled":
            x = F.scaled_dot_product_attention(q, k, v, scale=0.3)
        elif self.kind.startswith("over channels"):
            q, k = F.normalize(q.mT, dim=-1), F.normalize(k.mT, dim=-1)
            x = ((q @ k.mT * self.heat).softmax(-1) @ v.mT).mT
        elif self.kind == "normed":
            x = (self.norm(q) @ self.norm(k).mT).softmax(-1) @ v
        elif self.kind == "linear":
            x = F.relu(q) @ (F.relu(k).mT @ v)
        else:
            scale = q.shape[-1] ** -0.5 if self.kind == "root of what is there" else 0.5
            x = (scale * q @ k.mT).softmax(-1) @ v
        asked = {"of its input": width, "over channels, of its input": width, "literal": 12}.get(self.kind, self.inner)
        return self.proj(x.transpose(1, 2).reshape(n, places, asked))


KINDS = (
    "written",
    "fused",
    "fused, another layout",
    "fused, scaled",
    "over channels",
    "normed",
    "linear",
    "of its input",
    "over channels, of its input",
)


class Attending(nn.Module):
    """A stem, attention beside a stream, a head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem, self.attention, self.head = nn.Conv2d(3, C, 3, 2, 1), Attention(kind), nn.Linear(C, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        return self.head((x + self.attention(x)).mean(1))


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    net = Attending(kind)
    randomise_(net)
    return net


@pytest.mark.parametrize("kind", KINDS[:-2])
def test_channels_of_queries_and_keys_go_together(kind: str) -> None:
    net = made(kind)
    graph = graph_of(net)
    assert {g.name: len(g.members) for g in graph.groups} == {"stem": C, "attention.qkv": C // HEADS}
    assert not [kept for kept in graph.kept if not kept.output]
    assert bool(graph.products.any())
    assert proven(net, graph)
    mask = random_mask(graph, 3)
    slim = remove(net, graph, mask)
    with sdpa_kernel(SDPBackend.MATH):  # torch counts nothing for the kernel of the CPU
        assert graph.macs(torch.ones(graph.units, dtype=torch.bool)) == macs(net, X[:1])
        assert graph.macs(mask.keep) == macs(slim, X[:1])


def test_fused_attention_is_divided_by_the_root_of_the_width_that_is_left() -> None:
    net = made("fused").double().eval()
    graph = trace(net, X)
    mask = random_mask(graph, 3)
    found = proof.outputs(proof.masked(net, graph, mask), [X])[0]
    kept = int(mask.keep[graph.groups[1].members].sum())
    twin = made("fused, scaled").double().eval()
    twin.load_state_dict(net.state_dict())
    silent = proof.masked(twin, trace(twin, X), mask)
    original = F.scaled_dot_product_attention
    try:
        F.scaled_dot_product_attention = lambda q, k, v, scale: original(q, k, v, scale=kept**-0.5)
        wanted = proof.outputs(silent, [X])[0]
    finally:
        F.scaled_dot_product_attention = original
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", KINDS[-2:])
def test_a_width_that_is_taken_from_the_input_goes_with_it(kind: str) -> None:
    """Queries, keys, values and the stream are narrowed alike: the code asks for as many as it was given."""
    net = made(kind).double().eval()
    apart = trace(net, X)
    assert len(apart.groups) == 2
    graph = slimkit.trace(net, X)
    assert [(g.name, len(g.members), g.per_unit) for g in graph.groups] == [("stem", C // HEADS, HEADS)]
    assert not [kept for kept in graph.kept if not kept.output]
    assert proven(net, graph)
    assert prove(net, graph, lambda fixed: random_mask(graph, 1), [X]).failing == ()


def test_a_width_that_is_written_is_kept() -> None:
    net = made("literal").double().eval()
    graph = slimkit.trace(net, X)
    assert {kept.reason for kept in graph.kept if not kept.output} == {BREAKS}
    assert graph.units == 0


def test_what_computes_something_else_when_narrower_is_kept_at_once() -> None:
    net = made("root of what is there").double().eval()
    graph = slimkit.trace(net, X)
    assert [g.name for g in graph.groups] == ["stem"]
    assert [(k.layer, k.channels, k.reason) for k in graph.kept if not k.output] == [
        ("attention.qkv", C // HEADS, DIFFERS)
    ]
    assert proven(net, graph)


def test_what_is_not_silent_on_both_sides_is_kept() -> None:
    class Loud(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.proj((q.sigmoid() @ k.sigmoid().mT).softmax(-1) @ v)

    net = made("written")
    net.attention.__class__ = Loud
    graph = graph_of(net)
    reasons = [kept.reason for kept in graph.kept if kept.layer == "attention.qkv"]
    assert reasons and all("where it is not zero when it is removed (sigmoid" in reason for reason in reasons)
    assert proven(net, graph)


@pytest.mark.parametrize("kind", KINDS)
def test_compress_narrows_attention(kind: str) -> None:
    net = made(kind).eval()
    result = slimkit.compress(net, X[:1].float(), ratio=0.5, round_to=1)
    assert result.model.attention.qkv.out_features < 3 * C


@pytest.mark.parametrize("kind", ["fused, scaled", "written"])
def test_widths_are_tried_that_leave_attention_alone(kind: str) -> None:
    """Least squares of what reads a channel say nothing of products of queries and keys."""
    net = made(kind).eval()
    graph = trace(net, X.float())
    losses = elimination.losses(net, graph, [torch.randn(64, *X.shape[1:])])
    whole = graph.macs(Mask.full(graph).keep)
    *_, even, aside = widths.candidates(graph, losses, "macs", 0.5 * whole, Widths(1))
    assert not bool(even.keep[graph.products].all())
    assert bool(aside.keep[graph.products].all()) and graph.macs(aside.keep) <= 0.5 * whole
