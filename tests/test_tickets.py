"""Early bird: exact invariants of distances, masks, rules and guards."""

import functools

import pytest
import torch
from torch import nn

from slimkit.channels import Graph, trace
from slimkit.errors import BudgetError, MaskError, SpecError
from slimkit.methods import EarlyBird as AnyBird
from slimkit.methods import Rule, pruning_indicator
from slimkit.methods import settled as rules
from slimkit.selection import exact
from slimkit.selection.budget import Widths, to_ratio
from slimkit.selection.choose import fixed_units
from slimkit.selection.mask import Mask, distance
from slimkit.settings import SCOPE, TrainSpec

EarlyBird = functools.partial(AnyBird, scope="global")  # as in the paper, so that distances are those of one pool


class Net(nn.Module):
    """Two wide layers and a residual block, channels enough for statistics."""

    def __init__(self, width: int = 64, norm: bool = True) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, width, 1) for n in (1, width, width))
        self.na, self.nb, self.nc = (nn.BatchNorm2d(width) if norm else nn.Identity() for _ in range(3))
        self.fc = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.na(self.a(x)))
        x = torch.relu(x + self.nc(self.c(torch.relu(self.nb(self.b(x))))))
        return self.fc(x.mean((2, 3)))


def made(width: int = 64, norm: bool = True) -> tuple[Net, Graph]:
    net = Net(width, norm)
    return net, trace(net, torch.randn(1, 1, 4, 4))


@torch.no_grad()
def scatter_(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.1, 1)


@torch.no_grad()
def nudge_(net: nn.Module, size: float) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.add_(size * torch.randn_like(module.weight))


def test_distance_is_a_share():
    keep = torch.rand(1000) < 0.4
    assert distance(Mask(keep), Mask(keep)) == 0
    assert distance(Mask(keep), Mask(~keep)) == 1
    other = keep.clone()
    other[:30] ^= True
    assert distance(Mask(keep), Mask(other)) == pytest.approx(0.03)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7, 0.9, 0.95])
def test_random_masks_lie_at_chance(ratio):
    net, graph = made(1024)
    found = [exact.masks(graph, torch.rand(graph.units), [ratio], cap=0.999)[ratio] for _ in range(8)]
    mean = sum(distance(a, b) for a, b in zip(found, found[1:], strict=False)) / 7
    assert mean == pytest.approx(2 * ratio * (1 - ratio), abs=0.01)
    assert all(mask.removed == round(ratio * graph.units) for mask in found)


@pytest.mark.parametrize("cap", [0.6, 0.9])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.55])
def test_masks_are_those_of_the_budget(ratio, cap):
    _, graph = made(16)
    for seed in range(5):
        torch.manual_seed(seed)
        scores = torch.rand(graph.units).mul(8).round()  # many ties
        fast = exact.masks(graph, scores, [ratio], cap)[ratio]
        slow = to_ratio(graph, scores, ratio, Widths(1, cap=cap))
        assert torch.equal(fast.keep, slow.keep)


def test_no_group_is_emptied():
    net, graph = made(32)
    with torch.no_grad():
        net.nb.weight.mul_(1e-6)
    bird = EarlyBird(graph, 0.5)
    bird.observe(net)
    assert min(bird.latest.counts(graph)) >= 3  # a tenth of 32
    with pytest.raises(BudgetError, match=r"ratio is 0\.99: at most 0\.8"):
        EarlyBird(graph, 0.99)


def test_the_order_of_dead_channels_does_not_keep_a_mask_from_settling():
    net, graph = made()
    scatter_(net)
    bird = EarlyBird(graph, 0.3, watch=(0.7,))
    for look in range(8):
        nudge_(net, 1e-4)
        with torch.no_grad():  # 24 of 64 channels are dead: more than the ratio, and in another order each time
            for norm in (net.na, net.nb, net.nc):
                norm.weight[:24] = 1e-4 * torch.randn(24)
        assert bird.observe(net) is (look >= 5)
    dead = torch.arange(64) < 24
    assert not bird.mask.keep[~torch.cat([dead, dead])].logical_not().any()  # only dead ones go
    drawn = bird.latest
    with torch.no_grad():
        for norm in (net.na, net.nb, net.nc):
            norm.weight[:24] = 2.0  # back to life
    bird.observe(net)
    assert distance(drawn, bird.latest) > 0.5 and bird.latest.keep[torch.cat([dead, dead])].all()


def test_draws_at_the_first_full_queue_of_a_still_mask():
    net, graph = made()
    scatter_(net)
    bird = EarlyBird(graph, 0.5, watch=(0.3, 0.7))
    seen = []
    for _ in range(8):
        nudge_(net, 1e-4)
        seen.append(bird.observe(net))
    assert seen == [False] * 5 + [True] * 3  # five distances need six masks
    assert sorted(bird.draws) == [0.3, 0.5, 0.7]
    assert bird.mask.removed == 64


def test_window_sees_a_drift_that_successive_masks_do_not():
    net, graph = made(512)
    scatter_(net)
    birds = [EarlyBird(graph, 0.5, rule=name) for name in ("consecutive", "window")]
    norms = (net.na, net.nb, net.nc)
    for step in range(8):
        with torch.no_grad():  # 40 of 512 channels a layer turn over each time, always others
            for norm in norms:
                part = slice(40 * step, 40 * step + 40)
                norm.weight[part] = 1.1 - norm.weight[part]
                norm.weight.add_(1e-6 * torch.rand(512))
        for bird in birds:
            bird.observe(net)
    assert birds[0].draws and not birds[1].draws


def test_noise_is_drawn_at_high_ratios_only_without_the_chance_level():
    net, graph = made(1024)
    raw = EarlyBird(graph, 0.95, cap=0.99)
    fair = EarlyBird(graph, 0.95, cap=0.99, rule=Rule(normalised=True))
    for _ in range(12):
        scatter_(net)
        raw.observe(net)
        fair.observe(net)
    assert raw.draws and not fair.draws  # 2 * .95 * .05 = .095 < .1


def chained(*widths: int) -> tuple[nn.Sequential, Graph]:
    layers: list[nn.Module] = []
    for before, width in zip((1, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 3))
    return net, trace(net, torch.zeros(1, 1, 4, 4))


def noise_seen(bird: AnyBird, net: nn.Module) -> float:
    for _ in range(12):
        scatter_(net)
        bird.observe(net)
    seen = [one.distances[bird.ratio] for one in bird.observations[1:]]
    return sum(seen) / len(seen)


@pytest.mark.parametrize("kept", [(), ("0",), ("0", "3")])
@pytest.mark.parametrize("normalised", [False, True])
def test_distances_are_of_the_channels_that_can_go(kept, normalised):
    net, graph = chained(128, 128, 128)
    bird = EarlyBird(graph, 0.3, fixed=fixed_units(graph, kept), rule=Rule(normalised=normalised))
    assert noise_seen(bird, net) == pytest.approx(1 if normalised else 2 * 0.3 * 0.7, rel=0.1)
    assert not bird.draws


@pytest.mark.parametrize("kept", [(), ("0", "3", "6", "9")])
def test_distances_of_widths_are_of_the_groups_that_can_lose_some(kept):
    net, graph = chained(*[96] * 6)
    bird = EarlyBird(graph, 0.5, fixed=fixed_units(graph, kept), rule=Rule("architecture", normalised=True))
    assert 0.4 < noise_seen(bird, net) < 1.2  # of two groups that share out one ratio, 0.7


def test_layers_that_stay_are_no_evidence():
    net, graph = chained(128, 64)
    bird = EarlyBird(graph, 0.5, fixed=fixed_units(graph, ("0",)))
    scatter_(net)
    with torch.no_grad():
        for _ in range(12):
            net[1].weight.copy_(torch.rand(128))
            assert not bird.observe(net)  # what can go does not move
        net[4].weight.copy_(torch.tensor([0.3] * 28 + [0.4] * 36))  # four of 36 that tie go
        for _ in range(12):
            net[4].weight.add_(1e-3)
            assert not bird.observe(net)


def test_never_draws_without_evidence():
    untrained, graph = made()
    frozen, _ = made()
    scatter_(frozen)  # trained once, then frozen: lr = 0
    creeping, _ = made()  # a warm-up from 0: nothing has left its start
    tied, _ = made()
    with torch.no_grad():
        for norm in (tied.na, tied.nb, tied.nc):
            norm.weight[:4] = 1.5
    ways = torch.rand(3, 64)
    for net, moves in ((untrained, False), (frozen, False), (creeping, True), (tied, True)):
        bird = EarlyBird(graph, 0.5)
        for step in range(12):
            if moves:
                with torch.no_grad():
                    for norm, way in zip((net.na, net.nb, net.nc), ways, strict=True):
                        norm.weight.add_(1e-6 * step * way if net is creeping else 1e-3)
            assert not bird.observe(net)


def test_ties_within_a_group_are_no_evidence_where_groups_are_pools():
    net, graph = made()
    birds = {scope: EarlyBird(graph, 0.45, scope=scope) for scope in ("group", "global")}
    scatter_(net)
    with torch.no_grad():
        net.nb.weight.fill_(0.05)  # all of one group tied, below every other
    for _ in range(8):
        with torch.no_grad():
            for norm in (net.na, net.nb, net.nc):
                norm.weight.add_(1e-3)
        for bird in birds.values():
            bird.observe(net)
    assert birds["global"].draws and not birds["group"].draws


def test_widths_that_cannot_change_are_no_evidence():
    net, graph = made()
    birds = [EarlyBird(graph, 0.5, rule="architecture", scope=scope) for scope in ("global", "group")]
    for _ in range(8):
        scatter_(net)
        for bird in birds:
            bird.observe(net)
    assert birds[0].draws and not birds[1].draws
    with pytest.raises(SpecError, match="scope is 'layer'"):
        EarlyBird(graph, scope="layer")


def test_training_with_rate_zero_never_draws_and_a_rate_does():
    for rate, drawn in ((0.0, False), (0.05, True)):
        torch.manual_seed(1)
        net, graph = made(16)
        bird = EarlyBird(graph, 0.5, rule=Rule(threshold=0.4))
        sgd = torch.optim.SGD(net.parameters(), lr=rate)
        x, y = torch.randn(32, 1, 4, 4), torch.randint(3, (32,))
        for _ in range(12):
            sgd.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            sgd.step()
            bird.observe(net)
        assert bool(bird.draws) is drawn


def test_architecture_rule_draws_where_channels_still_change_places():
    net, graph = made(512)
    scatter_(net)
    birds = [EarlyBird(graph, 0.5, rule=name) for name in ("architecture", "window")]
    for _ in range(6):
        with torch.no_grad():
            for norm in (net.na, net.nb, net.nc):
                norm.weight.copy_(norm.weight[torch.randperm(512)])
            net.nc.weight.copy_(net.na.weight)
        for bird in birds:
            bird.observe(net)
    assert birds[0].draws and not birds[1].draws


def test_width_distance_by_hand():
    assert pruning_indicator.width_distance([10, 6], [10, 6]) == 0
    assert pruning_indicator.width_distance([10, 5], [6, 5]) == pytest.approx(0.125)
    counts = torch.distributions.Binomial(1000, torch.tensor(0.5)).sample((2000, 2))
    measured = ((counts[:, 0] - counts[:, 1]).abs() / counts.sum(1)).mean()
    assert pruning_indicator.chance([1000], 0.5) == pytest.approx(float(measured), rel=0.1)


def test_shorter_intervals_ask_for_smaller_distances():
    assert Rule(interval=0.25).calibrated == pytest.approx(0.1 * 0.25**rules.MOVEMENT)
    assert Rule(interval=4).calibrated == Rule().calibrated == 0.1


def test_a_slow_drift_is_not_taken_for_a_settled_mask_where_looks_are_close():
    net, graph = made(512)
    scatter_(net)
    birds = {still: EarlyBird(graph, 0.5, rule=Rule(interval=0.25)) for still in (False, True)}
    for still, bird in birds.items():
        for step in range(12):
            with torch.no_grad():  # 10 of 512 channels a layer turn over between looks a quarter of an epoch apart
                for norm in (net.na, net.nb, net.nc):
                    part = slice(10 * step, 10 * step + 10)
                    norm.weight[part] = norm.weight[part] if still else 1.1 - norm.weight[part]
                    norm.weight.add_(1e-6 * torch.rand(512))
            assert bird.observe(net) is (still and step >= 8)  # two epochs


def test_state_goes_on_where_it_stopped():
    net, graph = made()
    scatter_(net)
    whole, first = EarlyBird(graph, 0.5, watch=(0.3,)), EarlyBird(graph, 0.5, watch=(0.3,))
    second = EarlyBird(graph, 0.5, watch=(0.3,))
    for step in range(9):
        nudge_(net, 0.003)
        with torch.no_grad():
            for norm in (net.na, net.nb, net.nc):
                norm.weight[: 20 + 2 * step] = 1e-4 * torch.randn(20 + 2 * step)  # dead, more each time
        whole.observe(net)
        (first if step < 4 else second).observe(net)
        if step == 3:
            second.restore(first.state())
    assert second.observations == whole.observations and second.draws.keys() == whole.draws.keys()
    assert torch.equal(second.latest.keep, whole.latest.keep)


def test_messages():
    net, graph = made()
    with pytest.raises(MaskError, match="no mask has settled in 0 observations"):
        _ = EarlyBird(graph).mask
    with pytest.raises(SpecError, match="rule is 'sometimes': it must be one of consecutive, window"):
        EarlyBird(graph, rule="sometimes")
    with pytest.raises(SpecError, match="rule is 5: it must be the name of a rule"):
        EarlyBird(graph, rule=5)
    with pytest.raises(SpecError, match=r"length of the draw rule is 2\.5: out of range"):
        Rule(length=2.5)
    with pytest.raises(SpecError, match=r"watch is 0\.3: it must be a list of ratios"):
        EarlyBird(graph, watch=0.3)
    with pytest.raises(MaskError, match="it must be what `slimkit.trace` gives"):
        EarlyBird(net)
    with pytest.raises(MaskError, match="the state is of a graph of"):
        bird = EarlyBird(graph)
        bird.observe(net)
        EarlyBird(made(16)[1]).restore(bird.state())
    with pytest.raises(SpecError, match=r"threshold of the draw rule is 2: out of range"):
        Rule(threshold=2)
    for wrong, words in (
        ({"ratio": -0.3}, "ratio is -0.3"),
        ({"cap": float("nan")}, "cap is nan"),
        ({"cap": 1.0}, "cap"),
    ):
        with pytest.raises(SpecError, match=words):
            EarlyBird(graph, **wrong)
    with pytest.raises(MaskError, match="no gamma to rank them by"):
        EarlyBird(made(16, norm=False)[1])
    with pytest.raises(MaskError, match="nothing can be removed"):
        EarlyBird(graph, fixed=torch.ones(graph.units, dtype=torch.bool))


def test_the_scope_is_that_of_the_command_unless_given():
    graph = made(16)[1]
    assert AnyBird(graph).scope == TrainSpec(arch="zoo:resnet8", data="digits").scope == SCOPE
