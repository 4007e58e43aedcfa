"""Scores that the regression gives: what others can say costs nothing, the rest what least squares say."""

import copy
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slimkit import provenance
from slimkit.channels import Graph, trace
from slimkit.errors import BudgetError, MaskError, OutOfReachError
from slimkit.recovery import elimination, widths
from slimkit.recovery.calibration import Chunk, chunks
from slimkit.recovery.curvature import curvature
from slimkit.recovery.gap import divergence, gaps
from slimkit.recovery.rounds import half_way, look_again
from slimkit.recovery.sensitivity import Sensitivity
from slimkit.selection import ranking
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask
from slimkit.selection.products import Products
from tests.blocks import ACROSS, BLOCKS
from tests.nets import example, random_net
from tests.test_reconstruct import case


@pytest.mark.parametrize("name", [*BLOCKS, *ACROSS])
def test_a_channel_that_repeats_another_costs_nothing(name: str) -> None:
    net, graph, mask = case([(name, 4), ("Chain", 4)], "pool", seed=4)  # alive, or all that is lost is rounding
    before = copy.deepcopy(net.state_dict())
    found = elimination.losses(net, graph, [example(net, 64)])
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert all(p.requires_grad for p in net.parameters())
    for scores in (found.estimated, found.measured):
        for group in graph.groups:
            own = scores[group.members].sort().values
            gone = int((~mask.keep[group.members]).sum())
            if len(own) > 1 and not bool(own.isnan().any()):
                assert own[gone - 1] <= max(0.05 * own[-1], 1e-3 * scores.nan_to_num().max(), 1e-20), group.name


class Line(nn.Module):
    """Two linear layers with nothing between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


CLASSIFIES = provenance.Provenance(use=provenance.Use(task="classification"))  # chance weights do not say so


def line() -> tuple[Line, elimination.Losses, list[Chunk]]:
    """Return the network, its losses, and the inputs that these are of: fitted to some, judged on those held out."""
    net, images = Line(), torch.randn(256, 5)
    provenance.attach(net, CLASSIFIES)
    return net, elimination.losses(net, trace(net, images[:1]), [images]), chunks([images])


def test_an_estimated_score_is_the_error_of_least_squares_at_the_price_of_the_outputs() -> None:
    net, losses, parts = line()
    scores = losses.estimated
    price = curvature(net, parts)["b.weight"]
    with torch.no_grad():
        fit, held = (
            net.a(torch.cat([part.example for part in parts if part.held == side])).double() for side in (False, True)
        )
        mean, weight = fit.mean(0), net.b.weight.double().T
        errors = []
        for unit in range(5):
            others = [i for i in range(5) if i != unit]
            made = torch.linalg.lstsq((fit - mean)[:, others], (fit - mean) @ weight).solution
            left = (held - mean) @ weight - (held - mean)[:, others] @ made
            errors.append(float((left.square().mean(0) * price).sum()))
    first = int(scores.argmin())
    assert first == min(range(5), key=errors.__getitem__)
    assert float(scores[first]) == pytest.approx(min(errors), rel=0.05)


def test_half_of_a_group_loses_what_predictions_lose_with_the_others_fitted() -> None:
    net, losses, parts = line()
    scores = losses.measured
    others = scores.argsort()[3:].tolist()
    with torch.no_grad():
        fit, held = (net.a(torch.cat([part.example for part in parts if part.held == side])) for side in (False, True))
        mean, weight = fit.mean(0), net.b.weight.T
        found = (held - mean)[:, others] @ torch.linalg.lstsq((fit - mean)[:, others], (fit - mean) @ weight).solution
        wanted, found = net.b(held).log_softmax(1), (found + mean @ weight + net.b.bias).log_softmax(1)
        lost = float((wanted.exp() * (wanted - found)).sum(1).mean())
    assert float(scores.sort().values[:3].sum()) == pytest.approx(lost, rel=0.02)


def test_sensitivity_is_the_divergence_with_other_weights() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    before = copy.deepcopy(net.state_dict())
    images = torch.randn(10, 2, 4, 4)
    measure = Sensitivity(net, [Chunk(images[:7], held=True), Chunk(images[7:], held=True)])
    assert measure({}, {}) == 0.0
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[0].weight *= 0.5
        other[0].bias += torch.arange(4.0)  # type: ignore[union-attr]
    [expected] = gaps(net, [other], [Chunk(images, held=True)])
    found = measure({"0.weight": 0.5 * net[0].weight}, {("0.weight", "0.bias"): torch.arange(4.0)})
    assert found == pytest.approx(expected, rel=1e-4) and expected > 0
    assert measure({}, {}) == 0.0  # all weights are back
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_curvature_is_the_fisher_information_of_the_scores() -> None:
    """For a linear layer that makes the scores: p (1 - p) / 2 of each class."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4))
    provenance.attach(net, CLASSIFIES)
    images = torch.randn(20_000, 3)
    found = curvature(net, [Chunk(images, held=False)])["1.weight"]
    p = net(images).softmax(1).detach()
    torch.testing.assert_close(found.float(), (p * (1 - p)).mean(0) / 2, rtol=0.03, atol=0)


class Spread(nn.Module):
    """Pools means and deviations, whose gradient is not finite where a channel never varies."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.head = (
            nn.Conv2d(1, 6, 3),
            nn.Conv2d(6, 6, 3),
            nn.BatchNorm2d(6),
            nn.Linear(12, 4),
        )
        with torch.no_grad():
            self.norm.weight[0] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.b(self.a(x).relu()))
        return cast(Tensor, self.head(torch.cat([x.mean((2, 3)), x.var((2, 3)).sqrt()], 1)))


def test_a_gradient_that_is_not_finite_weighs_as_others_do() -> None:
    net, images = Spread().eval(), torch.randn(64, 1, 8, 8)
    assert net(images).isfinite().all()
    graph = trace(net, images[:1])
    costs = curvature(net, [Chunk(images, held=False)])
    assert set(costs) == {"a.weight", "b.weight", "head.weight"}
    assert all(one.isfinite().all() and (one > 0).all() for one in costs.values())
    known = torch.cat([costs["b.weight"][1:], costs["head.weight"]])
    assert torch.equal(costs["a.weight"], known.median().expand(6))
    found = elimination.losses(net, graph, [images])
    assert found.estimated.isfinite().all() and len(found.estimated.unique()) > graph.units // 2
    context = ranking.Context(batches=[(images, torch.randint(4, (64,)))])
    for name in ("taylor", "popup"):
        with pytest.raises(MaskError, match="is not finite"):
            ranking.scores(name, net, graph, context)


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
    assert isinstance(found, Products)


def _counts(counts: list[int]) -> np.ndarray:
    return np.array(counts)


def test_least_loss_meets_the_budget_and_loses_no_more_than_even_widths() -> None:
    net = random_net([("Residual", 8), ("Depthwise", 8), ("Dense", 6)], "pool", seed=2)
    graph = trace(net, example(net, 1))
    losses = elimination.losses(net, graph, [example(net, 64)])
    limit = 0.5 * graph.macs(Mask.full(graph).keep)
    *least, even = widths.candidates(graph, losses, "macs", limit, Widths(1))
    for mask in (*least, even):
        assert graph.macs(mask.keep) <= limit
    for scores, mine in zip((losses.measured, losses.estimated), least, strict=True):
        lost = [float(scores[~mask.keep].nansum()) for mask in (mine, *least, even)]
        assert lost[0] <= min(lost) + 1e-12


def test_a_budget_out_of_reach_says_what_can_be_reached() -> None:
    net = random_net([("Chain", 8)], "pool", seed=2)
    graph = trace(net, example(net, 1))
    with pytest.raises(BudgetError, match="the smallest that the allowed widths reach"):
        widths.least_loss(graph, torch.ones(graph.units), "macs", 10, Widths(1))


@dataclass
class Reaches:
    """A solver that reaches the budget by some of what can be wanted of a mask."""

    shares: dict[str, float]
    aim: str = "importance"

    def __call__(self, graph: Graph, scores: Tensor, widths: Widths, fixed: Tensor) -> Mask:
        share = self.shares[self.aim]
        if share > 0.5:
            raise OutOfReachError(f"{self.aim} reaches {share}", share)
        return Mask.full(graph)

    def record(self) -> str:
        return self.aim


def test_a_time_that_one_of_several_masks_keeps_is_kept() -> None:
    net = random_net([("Chain", 8)], "pool", seed=2)
    graph = trace(net, example(net, 1))
    losses = elimination.Losses(*torch.rand(2, graph.units))
    rest = torch.ones(graph.units), Widths(1), torch.zeros(graph.units, dtype=torch.bool)
    one: Any = Reaches({"losses": 0.52, "importance": 0.6, "even": 0.5})
    assert [aim for _, aim in widths.timed(graph, losses, one, *rest)] == ["even"]
    none: Any = Reaches({"losses": 0.52, "importance": 0.6, "even": 0.51})
    with pytest.raises(OutOfReachError, match=r"even reaches 0\.51"):
        widths.timed(graph, losses, none, *rest)


def test_the_better_of_two_masks_is_taken() -> None:
    net, graph, mask = case([("Residual", 4), ("Chain", 4)], "pool")  # this mask loses nothing
    other = Mask(torch.zeros_like(mask.keep))
    for group in graph.groups:
        other.keep[group.members[0]] = True
    images = example(net, 64)
    for masks in ([mask, other], [other, mask]):
        found, made = widths.best(net, graph, masks, [images])
        assert found is mask
        assert gaps(net, [made.model], [Chunk(images, held=True)])[0] < 1e-6


def test_steps_that_engines_like_are_given_up_where_they_cost_much() -> None:
    net = random_net([("Chain", 16), ("Residual", 16)], "pool", seed=2)
    graph = trace(net, example(net, 1))
    limit = 0.6 * graph.macs(Mask.full(graph).keep)
    asked = Widths(8)

    def step(scores: Tensor) -> int:
        losses = elimination.Losses(scores, scores)
        return widths.affordable(graph, losses, "macs", limit, asked).fitted(graph).step

    assert asked.fitted(graph).step > 1
    assert step(torch.full((graph.units,), 1e-6)) == asked.fitted(graph).step  # all cost nothing: as the engine likes
    steep = torch.zeros(graph.units)
    for group in graph.groups:  # the last channels of a group cost far more than the first
        steep[group.members] = torch.logspace(-4, 1, len(group.members))
    assert step(steep) < asked.fitted(graph).step
    assert widths.affordable(graph, elimination.Losses(steep, steep), "macs", limit, Widths(1)).step == 1


@pytest.mark.parametrize("rounds", [2, 3])
def test_channels_are_looked_at_again_from_half_way(rounds: int) -> None:
    net = random_net([("Residual", 8), ("Depthwise", 8), ("Chain", 8)], "pool", seed=2)
    graph = trace(net, example(net, 1))
    before, images = copy.deepcopy(net.state_dict()), example(net, 64)
    first = elimination.losses(net, graph, [images])
    again = first
    for number in range(1, rounds):
        mask = half_way(graph, again, 0.3 ** (number / rounds))
        assert graph.macs(mask.keep) <= 0.3 ** (number / rounds) * graph.macs(Mask.full(graph).keep)
        again = look_again(net, graph, again, mask, [images], example(net, 1))
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    for a, b in ((first.estimated, again.estimated), (first.measured, again.measured)):
        assert torch.equal(a.isnan(), b.isnan()) and not torch.equal(a.nan_to_num(), b.nan_to_num())
        assert bool((a.nan_to_num() == b.nan_to_num()).any())  # those that were gone half way
        for group in graph.groups:  # those that go first still do
            gone = (a == b)[group.members]
            own = b[group.members].nan_to_num()
            assert not bool(gone.any()) or bool(gone.all()) or own[gone].max() <= own[~gone].min()
