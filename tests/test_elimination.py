"""Scores that the regression gives: what others can say costs nothing, the rest what least squares say."""

import copy

import pytest
import torch
from torch import Tensor, nn

from slimkit.channels import trace
from slimkit.errors import BudgetError
from slimkit.recovery import elimination, widths
from slimkit.recovery.calibration import Chunk, chunks
from slimkit.recovery.curvature import curvature
from slimkit.recovery.gap import between, divergence
from slimkit.selection import products
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask
from tests.blocks import BLOCKS
from tests.nets import example, random_net
from tests.test_reconstruct import case


@pytest.mark.parametrize("name", BLOCKS)
def test_a_channel_that_repeats_another_costs_nothing(name: str) -> None:
    net, graph, mask = case([(name, 4), ("Chain", 4)], "pool")
    before = copy.deepcopy(net.state_dict())
    scores = elimination.losses(net, graph, [example(net, 64)])
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert all(p.requires_grad for p in net.parameters())
    for group in graph.groups:
        own = scores[group.members].sort().values
        gone = int((~mask.keep[group.members]).sum())
        if len(own) > 1 and not bool(own.isnan().any()):
            assert own[gone - 1] <= max(0.05 * own[-1], 1e-3 * scores.nan_to_num().max(), 1e-15), group.name


class Line(nn.Module):
    """Two linear layers with nothing between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def test_a_score_is_the_error_of_least_squares_on_inputs_held_out_at_the_price_of_the_outputs() -> None:
    net = Line()
    images = torch.randn(256, 5)
    graph = trace(net, images[:1])
    scores = elimination.losses(net, graph, [images])
    first = int(scores.argmin())
    parts = chunks([images])
    price = curvature(net, parts)["b.weight"]
    with torch.no_grad():
        fit, held = (
            net.a(torch.cat([part.example for part in parts if part.held == side])).double() for side in (False, True)
        )
        fit, held = fit - fit.mean(0), held - fit.mean(0)
        weight = net.b.weight.double().T
        errors = []
        for unit in range(5):
            others = [i for i in range(5) if i != unit]
            left = held @ weight - held[:, others] @ torch.linalg.lstsq(fit[:, others], fit @ weight).solution
            errors.append(float((left.square().mean(0) * price).sum()))
    assert first == min(range(5), key=errors.__getitem__)
    assert float(scores[first]) == pytest.approx(min(errors), rel=0.05)


def test_curvature_is_the_fisher_information_of_the_scores() -> None:
    """For a linear layer that makes the scores: p (1 - p) / 2 of each class."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4))
    images = torch.randn(20_000, 3)
    found = curvature(net, [Chunk(images, held=False)])["1.weight"]
    p = net(images).softmax(1).detach()
    torch.testing.assert_close(found.float(), (p * (1 - p)).mean(0) / 2, rtol=0.03, atol=0)


def test_small_errors_diverge_as_curvature_says() -> None:
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).eval()
    images = torch.randn(400, 2, 6, 6)
    price = curvature(net, [Chunk(images, held=False)])["4.weight"]
    errors = torch.randn(400, 5) * 0.05
    with torch.no_grad():
        scores = net(images)
    expected = float((price * errors.square().mean(0)).sum())
    assert divergence(scores, scores + errors) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("name", ["Residual", "Dense", "Grouped", "Depthwise", "C2f", "Shuffle"])
def test_costs_by_widths_are_those_of_the_graph(name: str, kind: str) -> None:
    net = random_net([(name, 6), ("Chain", 5)], "flatten", seed=0)
    graph = trace(net, example(net, 1))
    cost, counted = widths.COSTS[kind]
    found = cost(graph)
    for seed in range(5):
        keep = torch.rand(graph.units, generator=torch.Generator().manual_seed(seed)) < 0.6
        for group in graph.groups:
            keep[group.members[0]] = True
        assert found.total(_counts(Mask(keep).counts(graph))) == counted(graph, keep)
    assert isinstance(found, products.Products)


def _counts(counts: list[int]) -> products.Counts:
    import numpy as np

    return np.array(counts)


def test_least_loss_meets_the_budget_and_loses_no_more_than_even_widths() -> None:
    net = random_net([("Residual", 8), ("Depthwise", 8), ("Dense", 6)], "pool", seed=2)
    graph = trace(net, example(net, 1))
    scores = elimination.losses(net, graph, [example(net, 64)])
    limit = 0.5 * graph.macs(Mask.full(graph).keep)
    least, even = widths.candidates(graph, scores, "macs", limit, Widths(1))
    for mask in (least, even):
        assert graph.macs(mask.keep) <= limit
    lost = [float(scores[~mask.keep].nansum()) for mask in (least, even)]
    assert lost[0] <= lost[1]


def test_a_budget_out_of_reach_says_what_can_be_reached() -> None:
    net = random_net([("Chain", 8)], "pool", seed=2)
    graph = trace(net, example(net, 1))
    with pytest.raises(BudgetError, match="the smallest that the allowed widths reach"):
        widths.least_loss(graph, torch.ones(graph.units), "macs", 10, Widths(1))


def test_the_better_of_two_masks_is_taken() -> None:
    net, graph, mask = case([("Residual", 4), ("Chain", 4)], "pool")  # this mask loses nothing
    other = Mask(torch.zeros_like(mask.keep))
    for group in graph.groups:
        other.keep[group.members[0]] = True
    images = example(net, 64)
    for masks in ([mask, other], [other, mask]):
        found, made = widths.best(net, graph, masks, [images])
        assert found is mask
        assert between(net, made.model, [Chunk(images, held=True)]) < 1e-6
