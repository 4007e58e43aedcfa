"""The law: the smaller network computes what the masked one computes; random networks, random masks."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from slimkit.channels import Graph, trace
from slimkit.example import call, tensors
from slimkit.methods.rounds import composed
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.proof import evidence_for
from slimkit.surgery.remove import remove
from tests.blocks import ACROSS, BLOCKS
from tests.nets import HEADS, RandomNet, example, random_net

CHECKED = 1e-9


def random_mask(graph: Graph, seed: int, share: float = 0.5) -> Mask:
    """Return a mask that removes about a share of every group, and never all of one."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(graph.units, generator=generator) >= share
    for group in graph.groups:
        if not bool(keep[group.members].any()):
            keep[group.members[int(torch.randint(len(group.members), (1,), generator=generator))]] = True
    return Mask(keep)


def macs(net: nn.Module, inputs: Any) -> int:
    """Return the multiply-adds that torch's own counter sees."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(net, inputs)
    return counter.get_total_flops() // 2


def check_law(net: RandomNet, graph: Graph, mask: Mask, inputs: Any) -> None:
    slim = remove(net, graph, mask)
    outputs = (tensors(proof.outputs(model, [inputs])) for model in (proof.masked(net, graph, mask), slim))
    for a, b in zip(*outputs, strict=True):  # over the spread of all: one channel may be all but constant
        assert float((a - b).abs().max()) <= CHECKED * float(a.std() if a.numel() > 1 else a.abs().max())
    assert evidence_for(net, graph, mask, [inputs]).error <= proof.TOLERANCE
    assert graph.params(mask.keep) == sum(p.numel() for p in slim.parameters())
    one = inputs[:1] if isinstance(inputs, Tensor) else tuple(t[:1] for t in inputs)
    assert graph.macs(mask.keep) == macs(slim, one)


@st.composite
def cases(draw: Any) -> tuple[RandomNet, int, int]:
    blocks = draw(st.lists(st.tuples(st.sampled_from(sorted(BLOCKS)), st.integers(1, 7)), min_size=1, max_size=4))
    net = random_net(blocks, draw(st.sampled_from(HEADS)), seed=draw(st.integers(0, 999)))
    return net, draw(st.integers(1, 2)), draw(st.integers(0, 999))


@st.composite
def cases_across(draw: Any) -> tuple[RandomNet, int, int]:
    """Draw networks that take statistics across channels, among other blocks."""
    others = ("Chain", "Residual", "Dense", "ChunkEqual", "Shuffle", "Grouped", "Depthwise", "SqueezeExcite", "C2f")
    blocks = st.lists(st.tuples(st.sampled_from((*ACROSS, *others)), st.integers(2, 7)), min_size=1, max_size=3)
    chain = [*draw(blocks), (draw(st.sampled_from(sorted(ACROSS))), draw(st.integers(2, 7)))]
    return random_net(chain, draw(st.sampled_from(HEADS)), draw(st.integers(0, 999))), 2, draw(st.integers(0, 999))


@given(cases_across())
@settings(max_examples=40)
def test_statistics_are_those_of_the_channels_that_stay(case: tuple[RandomNet, int, int]) -> None:
    net, batch, seed = case
    inputs = example(net, batch)
    graph = trace(net, inputs)
    check_law(net, graph, random_mask(graph, seed), inputs)


@pytest.mark.long
@given(cases())
@settings(max_examples=80)
def test_smaller_network_computes_the_masked_network(case: tuple[RandomNet, int, int]) -> None:
    net, batch, seed = case
    inputs = example(net, batch)
    graph = trace(net, inputs)
    check_law(net, graph, random_mask(graph, seed), inputs)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(BLOCKS | ACROSS))
def test_law_holds_for_every_block(name: str) -> None:
    for width, batch in ((1, 1), (4, 2), (6, 1)):
        net = random_net([(name, width), ("Chain", 3)], "pool", seed=width)
        inputs = example(net, batch)
        graph = trace(net, inputs)
        for seed in range(2):
            check_law(net, graph, random_mask(graph, seed), inputs)


@pytest.mark.parametrize("head", HEADS)
def test_input_network_is_untouched(head: str) -> None:
    net = random_net([("Shared", 3), ("C2f", 4), ("SplitUnequal", 4)], head, seed=0)
    net.blocks[0].train()  # mixed modes, a frozen parameter and a hook are left as they were
    net.fc[0].weight.requires_grad = False
    calls: list[str] = []
    net.stem.register_forward_hook(lambda *_: calls.append("hook"))
    state = copy.deepcopy(net.state_dict())
    modes = [m.training for m in net.modules()]
    flags = [p.requires_grad for p in net.parameters()]
    attributes = {path: sorted(vars(m)) for path, m in net.named_modules()}
    inputs = example(net, 1)

    graph = trace(net, inputs)
    mask = random_mask(graph, 0)
    slim = remove(net, graph, mask)
    evidence_for(net, graph, mask, [inputs])

    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
    assert [m.training for m in net.modules()] == modes == [m.training for m in slim.modules()]
    assert [p.requires_grad for p in net.parameters()] == flags == [p.requires_grad for p in slim.parameters()]
    assert {path: sorted(vars(m)) for path, m in net.named_modules()} == attributes
    assert not any(vars(p) for p in net.parameters())
    assert not any(vars(t) for t in ([inputs] if isinstance(inputs, Tensor) else inputs))
    before = len(calls)
    call(slim, inputs)
    assert len(calls) == before + 1  # the hook came along, once


def test_slim_network_can_be_traced_and_slimmed_again() -> None:
    net = random_net([("Grouped", 4), ("Depthwise", 5), ("C2f", 6)], "flatten", seed=1)
    inputs = example(net, 1)
    for seed in range(3):
        graph = trace(net, inputs)
        check_law(net, graph, random_mask(graph, seed, share=0.3), inputs)
        net = remove(net, graph, random_mask(graph, seed, share=0.3))  # type: ignore[assignment]


@given(cases())
@settings(max_examples=60)
def test_two_cuts_are_one(case: tuple[RandomNet, int, int]) -> None:
    """Whatever the groups of the smaller network are called, and though those of one channel are none any more."""
    net, _, seed = case
    inputs = example(net, 1)
    graph = trace(net, inputs)
    first = random_mask(graph, seed)
    small = remove(net, graph, first)
    later = trace(small, inputs)
    places = graph.places(first.keep, later)
    if not later.units or sorted(places[places >= 0].tolist()) != list(range(later.units)):
        return  # channels that go one by one now, and did not before: no mask of the first network says that
    second = random_mask(later, seed + 1)
    at_once = composed(graph, first, later, second)
    assert sum(map(int, at_once.keep)) < sum(map(int, first.keep)) or bool(second.keep.all())
    twice, once = remove(small, later, second), remove(net, graph, at_once)
    torch.testing.assert_close(once.state_dict(), twice.state_dict(), rtol=0, atol=0)
