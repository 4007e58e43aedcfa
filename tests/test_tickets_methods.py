"""Controls, ledger, rewinding, passes and emulated precision: against closed forms and toys."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from slimkit import training, zoo
from slimkit.channels import trace
from slimkit.errors import BudgetError, SpecError
from slimkit.methods import early_bird, penalised, rounds, scratch, snapshot
from slimkit.results import ledger
from slimkit.selection import exact
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import remove
from slimkit.training import low_precision


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return zoo.resnet8(num_classes=3, in_channels=1, width=8)


@pytest.fixture(scope="module")
def graph(net):
    return trace(net, torch.zeros(1, 1, 8, 8))


def chain(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, width in zip((1, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 3))


def test_ledger_in_closed_form():
    legs = [ledger.Leg(100, 3 * 50, search=True), ledger.Leg(30, 9 * 50, search=False)]
    book = ledger.ledger(legs, 100, 30, 12 * 50)
    assert book.share == pytest.approx((3 + 9 * 0.3) / 12)
    assert book.dense == 3 * 100 * 600 and book.train_prune_retrain == 3 * 600 * 130
    assert ledger.break_even(1000, 3.0, 1.0) == 500
    assert ledger.break_even(1000, 1.0, 1.0) is None


def test_a_long_schedule_does_not_weaken_the_pull_that_settles_a_mask():
    recipe, steps = training.Recipe(epochs=60, schedule="step"), 100
    rates = [recipe.learning_rate * recipe.rate_share(step, 6000) for step in range(600)]  # a tenth of the steps

    def strength_of(recipe: training.Recipe, wanted: float = 2.0) -> float:
        counted, last = early_bird.early(recipe, steps)
        return penalised.strength_of(counted, steps, wanted, last)

    strength = strength_of(recipe)
    assert strength * sum(rates) / (1 - recipe.momentum) == pytest.approx(2.0)
    for epochs in (100, 160, 1000):
        assert strength_of(replace(recipe, epochs=epochs)) == strength
    assert strength_of(recipe, 0.0) == 0.0


@pytest.mark.parametrize(("cap", "epochs"), [(None, 50), (2.0, 24), (10.0, 50)])
def test_scratch_b_trains_for_equal_macs(cap, epochs):
    assert scratch.epochs_b(12, 1000, 240, cap) == epochs  # 12 / 0.24 = 50


def test_scratch_b_is_not_an_epoch_short_where_the_quotient_is_whole():
    sizes = [
        (epochs, dense, slim)
        for epochs in (10, 11, 60, 160)
        for slim in range(1, 60)
        for dense in (slim, 3 * slim - 1, 30 * slim // 7)
    ]
    assert [scratch.epochs_b(*each) for each in sizes] == [epochs * dense // slim for epochs, dense, slim in sizes]
    assert scratch.epochs_b(0.58 * 50, 7, 7) == 29


def test_uniform_widths_use_the_macs_and_take_equal_shares(graph):
    full = graph.macs(Mask.full(graph).keep)
    for share in (0.1, 0.3, 0.6, 1.0):
        mask = scratch.scaled(graph, round(share * full), graph.macs)
        reached = graph.macs(mask.keep) / full
        assert share - 0.12 <= reached <= share
        kept = [n / len(g.members) for n, g in zip(mask.counts(graph), graph.groups, strict=True)]
        assert max(kept) - min(kept) <= 0.13  # one of eight channels
    with pytest.raises(BudgetError, match="the smallest that the allowed widths reach"):
        scratch.scaled(graph, 1, graph.macs)


def test_random_channels_keep_the_widths(graph):
    mask = exact.masks(graph, torch.rand(graph.units), [0.5], 0.9)[0.5]
    one, two = (scratch.random_channels(graph, mask, seed) for seed in (1, 2))
    assert one.counts(graph) == two.counts(graph) == mask.counts(graph)
    assert not torch.equal(one.keep, two.keep)
    assert torch.equal(one.keep, scratch.random_channels(graph, mask, 1).keep)


def test_permuted_widths_have_the_shares_in_another_order_at_no_more_macs(graph):
    mask = scratch.of_widths(graph, [1, 2, 3, 4, 5, 6, 7][: len(graph.groups)], torch.zeros(graph.units))
    other = scratch.permuted(graph, mask, seed=0)
    full, low, high = (graph.macs(m.keep) for m in (Mask.full(graph), other, mask))
    assert high - 0.15 * full <= low <= high and other.counts(graph) != mask.counts(graph)
    wide = scratch.scaled(graph, graph.params(mask.keep), graph.params, "parameters")
    assert graph.params(wide.keep) <= graph.params(mask.keep) < 1.6 * graph.params(wide.keep)


@pytest.mark.parametrize(
    ("kept", "stay"),
    [([2, 6], []), ([4, 4, 6], []), ([4, 4, 4, 6], []), ([6, 2, 2, 4], [3]), ([1, 8, 8, 8, 8, 8], [])],
)
def test_permuted_widths_are_never_those_of_the_reference(kept, stay):
    graph = trace(chain(*[8] * len(kept)), torch.zeros(1, 1, 8, 8))
    fixed = torch.zeros(graph.units, dtype=torch.bool)
    for number in stay:
        fixed[graph.groups[number].members] = True
        kept = [8 if n == number else count for n, count in enumerate(kept)]
    mask = scratch.of_widths(graph, kept, torch.zeros(graph.units))
    found = [scratch.permuted(graph, mask, seed, fixed=fixed).counts(graph) for seed in range(12)]
    assert kept not in found and all(one[n] == 8 for one in found for n in stay)
    assert len(set(map(tuple, found))) > 1 or len(kept) == 2


@pytest.mark.parametrize("kept", [[4, 4, 4], [2, 8, 8]])
def test_permuted_widths_that_cannot_differ_are_refused(kept):
    graph = trace(chain(8, 8, 8), torch.zeros(1, 1, 8, 8))
    fixed = torch.zeros(graph.units, dtype=torch.bool)
    fixed[graph.groups[0].members] = kept[0] != 4
    with pytest.raises(SpecError, match="(?s)'permuted'.*the shares (0.5, 0.5, 0.5|1, 1): .*scope='global'"):
        scratch.permuted(graph, scratch.of_widths(graph, kept, torch.zeros(graph.units)), 0, fixed=fixed)


def test_passes_compose_to_one_cut(net, graph):
    first = exact.masks(graph, torch.rand(graph.units), [0.3], 0.9)[0.3]
    small = remove(net, graph, first)
    later = trace(small, torch.zeros(1, 1, 8, 8))
    second = exact.masks(later, torch.rand(later.units), [0.4], 0.9)[0.4]
    twice, at_once = remove(small, later, second), rounds.composed(graph, first, later, second)
    torch.testing.assert_close(remove(net, graph, at_once).state_dict(), twice.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(("ratio", "count"), [(0.75, 2), (0.3, 1), (0.3, 7), (0.9, 20)])
def test_every_round_takes_the_same_share_of_what_is_left(ratio, count):
    left = [1 - rounds.gone_after(ratio, number, count) for number in range(count + 1)]
    assert [after / before for before, after in zip(left, left[1:], strict=False)] == pytest.approx(
        [(1 - ratio) ** (1 / count)] * count
    )
    assert rounds.gone_after(ratio, count, count) == ratio


@pytest.mark.parametrize(
    "make",
    [
        lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9),
        lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9, nesterov=True, fused=True),
        lambda own: torch.optim.AdamW(own, lr=0.1, fused=True),
        lambda own: torch.optim.Adam(own, lr=0.1, amsgrad=True),
        lambda own: torch.optim.RMSprop(own, lr=0.1, momentum=0.5, centered=True),
    ],
)
def test_rewinding_brings_back_weights_and_all_that_an_optimizer_remembers(net, make):
    model = remove(net, trace(net, torch.zeros(1, 1, 8, 8)), Mask.full(trace(net, torch.zeros(1, 1, 8, 8))))
    optimizer = make(model.parameters())

    def step():
        optimizer.zero_grad()
        model(torch.ones(4, 1, 8, 8)).square().sum().backward()
        optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    start = snapshot.take(model, None, 0)
    first = step()
    taken = snapshot.take(model, optimizer, 1)
    wanted = [step(), step()]
    for _ in range(2):  # what is put back is a copy: steps after it leave the snapshot alone
        snapshot.put_(snapshot.Snapshot(**taken.state()), model, optimizer)
        torch.testing.assert_close([step(), step()], wanted, rtol=0, atol=0)
    snapshot.put_(start, model, optimizer)
    assert not any(optimizer.state.values())
    torch.testing.assert_close(step(), first, rtol=0, atol=0)


def test_rounding_to_eight_bits():
    x = torch.randn(5000)
    y = low_precision.rounded(x)
    scale = x.abs().max() / 127
    assert len(y.unique()) <= 255 and float((x - y).abs().max()) <= float(scale) / 2 * 1.001
    assert torch.equal(low_precision.rounded(torch.zeros(3)), torch.zeros(3))
    torch.manual_seed(0)
    up = torch.full((20_000,), 0.3)
    up[0] = 127.0  # one level is 1
    assert float(low_precision.rounded(up, stochastic=True)[1:].mean()) == pytest.approx(0.3, abs=0.02)


def test_emulation_acts_in_training_only_and_can_be_undone(net):
    x = torch.randn(8, 1, 8, 8)
    model = remove(net, trace(net, x[:1]), Mask.full(trace(net, x[:1])))
    exactly, in_eval = model.train()(x), model.eval()(x)
    low_precision.lower_(model, "int8-emulated")
    assert torch.equal(model.eval()(x), in_eval)
    assert not torch.equal(model.train()(x), exactly)
    low_precision.restore_(model)
    assert torch.equal(model.train()(x), exactly)
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_gradients_of_emulated_layers_are_rounded_too():
    weight, wanted = torch.eye(6), torch.randn(16, 6)
    x = torch.randn(16, 6, requires_grad=True)
    with low_precision.Int8Emulated():
        y = F.linear(x, weight)
    assert torch.equal(y, low_precision.rounded(x))
    y.backward(wanted)
    levels = x.grad / (wanted.abs().max() / 127)
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert float((levels - wanted / (wanted.abs().max() / 127)).abs().max()) <= 1  # up or down, by chance


def test_bf16_search_lowers_the_forward_pass(net):
    model = remove(net, trace(net, torch.zeros(1, 1, 8, 8)), Mask.full(trace(net, torch.zeros(1, 1, 8, 8))))
    low_precision.lower_(model, "bf16")
    assert model.train()(torch.zeros(2, 1, 8, 8)).dtype == torch.bfloat16
    assert model.eval()(torch.zeros(2, 1, 8, 8)).dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
