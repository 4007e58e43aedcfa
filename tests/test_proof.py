"""The proof: what counts as equal, and who is to blame where two networks are not."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimkit.channels import trace
from slimkit.errors import ProofError
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.remove import remove
from tests.blocks import conv_bn
from tests.nets import randomise_


def test_relative_error_is_the_largest_gap_over_the_deviation() -> None:
    a = torch.tensor([[1.0, 3.0], [5.0, 7.0]])  # standard deviation sqrt(20 / 3)
    b = a + torch.tensor([[0.0, 0.1], [0.0, -0.2]])
    assert proof.relative_error(a, b) == pytest.approx(0.2 / (20 / 3) ** 0.5, rel=1e-6)
    assert proof.relative_error(a, a.clone()) == 0
    assert proof.relative_error({"x": a, "y": [a]}, {"x": a, "y": [b]}) == proof.relative_error(a, b)
    assert proof.relative_error(torch.tensor(4.0), torch.tensor(5.0)) == 0.25  # one number: over its size
    assert proof.relative_error(a + 1j, a + 1.1j) == pytest.approx(0.1 / (20 / 3) ** 0.5, rel=1e-6)
    half = proof.relative_error(a.half(), a.half() + 0.5)
    assert half == pytest.approx(0.5 / (20 / 3) ** 0.5, rel=1e-6)


@dataclass
class Answer:
    scores: Tensor


NOT_EQUAL: dict[str, tuple[Any, Any]] = {
    "shape": (torch.ones(2, 3), torch.ones(3, 2)),
    "number": ([torch.ones(2)], [torch.ones(2), torch.ones(2)]),
    "a constant": (torch.ones(4), torch.full((4,), 1.1)),
    "not a number": (torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])),
    "not a number in both": (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")])),
    "infinite": (torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("inf")])),
    "whole numbers": (torch.tensor([1, 2]), torch.tensor([1, 3])),
    "truth": (torch.tensor([True]), torch.tensor([False])),
    "in an object": (Answer(torch.ones(2)), Answer(torch.zeros(2))),
    "nothing to compare": ("text", "text"),
}


@pytest.mark.parametrize("case", NOT_EQUAL)
def test_what_is_never_equal(case: str) -> None:
    assert proof.relative_error(*NOT_EQUAL[case]) == float("inf")


def test_equal_without_a_spread() -> None:
    assert proof.relative_error(torch.ones(4), torch.ones(4)) == 0
    assert proof.relative_error((torch.zeros(0), torch.tensor([3])), (torch.zeros(0), torch.tensor([3]))) == 0


def test_require() -> None:
    assert proof.require(1e-5, "slim against ONNX") == 1e-5
    for error in (2e-4, float("inf"), float("nan")):
        with pytest.raises(ProofError, match="slim against ONNX: the outputs differ by .* more than 1e-04.\n  Nothing"):
            proof.require(error, "slim against ONNX")


def test_a_file_may_be_off_by_what_float32_is_and_by_no_more() -> None:
    """Numbers that are large beside their spread, and steps that enlarge what they are given."""
    plain, large = nn.Linear(4, 6), nn.Linear(4, 6)
    with torch.no_grad():
        large.bias.fill_(1e4)
    steep = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, eps=0.0), nn.Linear(6, 3))
    with torch.no_grad():
        steep[0].bias.fill_(100.0)
        steep[1].running_mean.fill_(100.0)
        steep[1].running_var.fill_(1e-4)
    inputs = [torch.randn(8, 4, generator=torch.Generator().manual_seed(0))]
    for net, rounded in ((plain, 1e-6), (large, 2e-7), (steep, 1e-5)):
        (expected,) = proof.outputs(net.eval(), inputs)
        ways = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).sign()
        error, allowed = proof.of_file(net, inputs, [expected + ways * rounded * expected.abs().max()])
        assert error <= allowed
        error, allowed = proof.of_file(net, inputs, [expected + 0.02 * ways * expected.std()])
        assert error > allowed
    assert proof.of_file(plain, inputs, proof.outputs(plain, inputs)) == (0, proof.TOLERANCE)


class Two(nn.Module):
    """An output that is large beside its spread, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.plain = nn.Linear(4, 6), nn.Linear(4, 6)
        nn.init.constant_(self.large.bias, 1e4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.large(x), self.plain(x)


@pytest.mark.parametrize("wrong", [0, 1, None])
def test_what_one_output_may_be_off_is_not_allowed_to_another(wrong: int | None) -> None:
    net, inputs = Two().eval(), [torch.randn(8, 4, generator=torch.Generator().manual_seed(0))]
    ((large, plain),) = proof.outputs(net, inputs)
    ways = torch.randn(large.shape, generator=torch.Generator().manual_seed(1)).sign()
    found = [large + ways * 2e-7 * 1e4, plain.clone()]  # the first is rounded
    if wrong is not None:
        found[wrong] = found[wrong] + (0.02, 5e-3)[wrong] * ways * (large, plain)[wrong].std()
    error, allowed = proof.of_file(net, inputs, [tuple(found)])
    assert (error <= allowed) is (wrong is None)


def test_random_inputs_are_seeded() -> None:
    first, again, other = (proof.random_inputs((3, 4, 4), 2, seed) for seed in (0, 0, 1))
    assert [tuple(x.shape) for x in first] == [(1, 3, 4, 4)] * 2
    assert torch.equal(torch.cat(first), torch.cat(again)) and not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])


def test_outputs_leave_the_mode() -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    net[0].eval()
    x = torch.randn(4, 3)
    assert torch.equal(proof.outputs(net, [x])[0], proof.outputs(net, [x])[0])
    assert (net.training, net[0].training, net[1].training) == (True, False, True)


class Literal(nn.Module):
    """Five groups; two of them pass through a width that is written into the code and cannot be followed."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b, self.c = conv_bn(3, 8), conv_bn(8, 32), conv_bn(32, 8)
        self.d, self.e, self.out = conv_bn(8, 16), conv_bn(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        n, _, h, w = x.shape
        if self.how == "view":
            x = x.view(n, 2, 16, h, w).flatten(1, 2)
        elif self.how == "split":
            x = torch.cat(torch.split(x, 16, 1)[::-1], 1)
        x = self.d(self.c(x))
        x = x.reshape(n, 16, h * w).view(n, 16, h, w) if self.how != "clean" else x
        return self.out(self.e(x))


def halved(net: nn.Module) -> tuple[Any, Mask]:
    graph = trace(net, torch.zeros(1, 3, 4, 4, dtype=next(net.parameters()).dtype))
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.groups:
        keep[group.members[::2]] = False
    return graph, Mask(keep)


@pytest.mark.parametrize("how", ["view", "split"])
def test_widths_written_into_the_code_are_found_by_bisection(how: str) -> None:
    net = Literal(how).eval()
    randomise_(net)
    graph, mask = halved(net)
    inputs = proof.random_inputs((3, 4, 4), 1)
    assert proof.evidence_for(net, graph, mask, inputs).error == float("inf")
    failing = proof.failing_groups(net, graph, mask, inputs)
    assert [graph.groups[i].name for i in failing] == ["b.0", "d.0"]
    for i in failing:
        mask.keep[graph.groups[i].members] = True
    assert mask.removed > 0
    assert proof.evidence_for(net, graph, mask, inputs).error <= proof.TOLERANCE
    assert proof.failing_groups(net, graph, mask, inputs) == []


def test_nothing_fails_where_all_is_right() -> None:
    net = Literal("clean").double().eval()
    randomise_(net)
    graph, mask = halved(net)
    inputs = [x.double() for x in proof.random_inputs((3, 4, 4), 2)]
    assert proof.evidence_for(net, graph, mask, inputs).error <= 1e-6
    assert proof.failing_groups(net, graph, mask, inputs) == []


def test_a_network_that_is_wrong_is_disproved() -> None:
    net = Literal("clean").double().eval()
    randomise_(net)
    graph, mask = halved(net)
    inputs = [x.double() for x in proof.random_inputs((3, 4, 4), 2)]
    expected = proof.outputs(proof.masked(net, graph, mask), inputs)
    slim = remove(net, graph, mask)
    assert proof.compare(expected, slim, inputs) <= 1e-6
    slim.b[1].running_mean[0] += 1
    assert proof.compare(expected, slim, inputs) > 1e-3
    slim.b[0].weight.data = slim.b[0].weight.data[:-1]
    assert proof.compare(expected, slim, inputs) == float("inf")
