"""Layers as two thin ones: exact at full rank, the best approximation below it, and back."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimkit import provenance, training
from slimkit.errors import ArchitectureError, BudgetError, SpecError
from slimkit.export import export_onnx
from slimkit.measure.macs import count_macs
from slimkit.measure.quality import quality as accuracy
from slimkit.models.factors import Factors, matrix
from slimkit.surgery import ranks
from slimkit.surgery.factorise import factorise, factorised, matrices, merge, singular_values, split, whole
from slimkit.training.frobenius import frobenius_decay, gradients
from tests.training_sample import network, recipe, same, stripes

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (3, 7)),
    "linear of rows, no bias": (lambda: nn.Linear(7, 9, bias=False), (3, 4, 7)),
    "1x1": (lambda: nn.Conv2d(6, 5, 1), (2, 6, 7, 8)),
    "3x3": (lambda: nn.Conv2d(6, 5, 3, padding=1), (2, 6, 7, 8)),
    "5x5, stride 2, no bias": (lambda: nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False), (2, 3, 9, 9)),
    "everything differs": (
        lambda: nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(2, 1), dilation=(2, 1)),
        (2, 4, 11, 9),
    ),
    "same": (lambda: nn.Conv2d(4, 6, (3, 4), padding="same", dilation=(1, 2)), (2, 4, 8, 9)),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), (2, 4, 8, 9)),
    "groups": (lambda: nn.Conv2d(6, 9, 3, groups=3, stride=2, padding=1), (2, 6, 8, 9)),
    "depthwise": (lambda: nn.Conv2d(4, 8, (5, 3), groups=4, padding=(2, 1)), (2, 4, 8, 9)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_at_full_rank_the_function_is_the_same(case: str) -> None:
    make, shape = LAYERS[case]
    layer, images = make(), torch.randn(shape)
    found = matrix(layer)
    assert found is not None
    thin = split(layer, found.limit)
    expected = layer(images)
    torch.testing.assert_close(thin(images), expected, rtol=0, atol=1e-5)
    assert sum(p.numel() for p in thin.parameters() if p.dim() > 1) == found.params(found.limit)
    again = whole(thin)
    assert repr(again) == repr(layer)
    torch.testing.assert_close(again(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", LAYERS)
def test_below_it_the_error_of_the_weight_is_the_tail_of_its_singular_values(case: str) -> None:
    layer = LAYERS[case][0]().double()
    values = singular_values(layer)
    for rank in range(1, values.shape[1] + 1):
        gap = matrices(whole(split(layer, rank))) - matrices(layer)
        tail = values[:, rank:].square().sum(1).sqrt()
        torch.testing.assert_close(gap.flatten(1).norm(dim=1), tail, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", LAYERS)
def test_frobenius_decay_is_the_gradient_of_the_norm_of_the_product(case: str) -> None:
    layer = LAYERS[case][0]().double()
    thin = split(layer, 2 if matrix(layer).limit > 1 else 1)  # type: ignore[union-attr]
    first, second = (part.get_parameter("weight") for part in thin)
    with torch.no_grad():  # singular vectors are orthogonal, factors in training are not
        first += torch.randn_like(first)
        second += torch.randn_like(second)
    groups, rank = thin.groups, thin.rank
    right = first.view(groups, rank, -1)
    left = second.view(groups, len(second) // groups, rank, -1).transpose(2, 3).reshape(groups, -1, rank)
    expected = torch.autograd.grad((left @ right).square().sum() / 2, [first, second])
    for found, wanted in zip(gradients(thin), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_frobenius_decay_takes_the_place_of_the_weights_own() -> None:
    """One step from a gradient of the loss of exactly zero: all that moves a weight is decay."""
    thin = factorise(network(), {"3": 2})
    before = copy.deepcopy(thin)
    settings = recipe(epochs=1, momentum=0.0, learning_rate=0.1, weight_decay=0.5, schedule="step", warm_up=0.0)
    silent = training.Hook(gradients=lambda run: [p.grad.zero_() for p in run.model.parameters()] and None)  # type: ignore[union-attr]

    class Done(Exception):
        pass

    after: list[nn.Module] = []

    def stop(run: training.Run) -> None:
        after.append(copy.deepcopy(run.model))
        raise Done

    hooks = [silent, frobenius_decay(0.3), training.Hook(after_step=stop)]
    with pytest.raises(Done):
        training.train(thin, stripes(), settings, hooks=hooks)
    factors = before.get_submodule("3")
    assert isinstance(factors, Factors)
    for layer, gradient in zip(("3.0", "3.1"), gradients(factors), strict=True):
        old, new = (net.get_parameter(f"{layer}.weight") for net in (before, after[0]))
        torch.testing.assert_close(new, old - 0.1 * 0.3 * gradient, rtol=1e-5, atol=1e-7)
    old, new = (net.get_parameter("0.weight") for net in (before, after[0]))
    torch.testing.assert_close(new, old - 0.1 * 0.5 * old, rtol=1e-5, atol=1e-7)


def test_a_network_is_not_changed_and_comes_back() -> None:
    net, images = network().eval(), torch.randn(4, 1, 6, 6)
    provenance.attach(net, provenance.Provenance(arch="x:y"))
    before = copy.deepcopy(net.state_dict())
    thin = factorise(net, {"3": 24, "9": 3})
    assert factorised(thin) == ["3", "9"]
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())
    assert provenance.of(thin).edits == (provenance.Factorised(ranks={"3": 24, "9": 3}),)
    torch.testing.assert_close(thin(images), net(images), rtol=0, atol=1e-5)
    again = merge(factorise(net, {"3": 2}))
    assert repr(again) == repr(net)
    assert provenance.of(again) == provenance.of(net)
    torch.testing.assert_close(again(images), factorise(net, {"3": 2})(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("begin", [copy.copy, lambda layer: layer.double(), lambda layer: layer.requires_grad_(False)])
def test_nothing_is_drawn_when_a_layer_becomes_two_or_one_again(case: str, begin: Any) -> None:
    layer = begin(LAYERS[case][0]())
    before = torch.get_rng_state()
    again = whole(split(layer, 1))
    net = merge(factorise(nn.Sequential(layer), {"0": 1}))
    assert torch.equal(before, torch.get_rng_state())
    for made in (again, net[0]):
        assert {(p.dtype, p.requires_grad, p.device) for p in made.parameters()} == {
            (p.dtype, p.requires_grad, p.device) for p in layer.parameters()
        }


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.ConvTranspose2d(4, 4, 1)
        self.b.weight = self.a.weight


@pytest.mark.parametrize(
    ("path", "rank", "message"),
    [
        ("a", 1, "its weight is shared"),
        ("c", 1, "ConvTranspose2d is neither"),
        ("d", 1, "no such layer"),
    ],
)
def test_layers_that_cannot_be_two_are_refused(path: str, rank: int, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        factorise(Tied(), {path: rank})


@pytest.mark.parametrize("rank", [0, 25, 1.5, True])
def test_ranks_that_are_none_are_refused(rank: Any) -> None:
    with pytest.raises(ArchitectureError, match="has 1 to 24"):
        factorise(network(), {"3": rank})
    with pytest.raises(ArchitectureError, match="one of two thin layers already"):
        factorise(factorise(network(), {"3": 2}), {"3.0": 1})


# Ranks -----------------------------------------------------------------------------------------------------


def wide() -> nn.Sequential:
    """A network whose layers have different spectra."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10),
    ).eval()  # fmt: skip


EXAMPLE = torch.zeros(1, 3, 8, 8)


def costs(net: nn.Module) -> dict[str, int]:
    return {"params": sum(p.numel() for p in net.parameters()), "macs": count_macs(net, (3, 8, 8))}


@pytest.mark.parametrize("cost", ["params", "macs"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_budget_is_reached_within_a_percent(cost: ranks.CostKind, share: float) -> None:
    net = wide()
    found, before = ranks.layers(net, EXAMPLE), costs(net)[cost]
    chosen = ranks.to_budget(found, before, round(share * before), cost)
    reached = costs(factorise(net, chosen))[cost]
    assert reached == ranks.total(found, chosen, before, cost)
    assert share * before * 0.99 <= reached <= share * before


def test_a_layer_stays_one_where_two_cost_as_much() -> None:
    found = {layer.path: layer for layer in ranks.layers(wide(), EXAMPLE)}
    layer = found["4"]  # 32 x 32 x 3 x 3 = 9216 weights, 192 a rank: they break even at 48
    assert (layer.paying(47, "params"), layer.paying(48, "params")) == (47, None)
    assert ranks.by_energy(list(found.values()), 1.0) == {}
    low = ranks.by_energy(list(found.values()), 0.5)
    assert all(float(found[path].energy[rank - 1]) >= 0.5 for path, rank in low.items())
    assert all(rank == 1 or float(found[path].energy[rank - 2]) < 0.5 for path, rank in low.items())


@given(st.floats(0.25, 1.0), st.sampled_from(["params", "macs"]))
@settings(max_examples=25)
def test_what_a_budget_leaves_fits_no_further_rank(share: float, cost: ranks.CostKind) -> None:
    net = wide()
    found, before = ranks.layers(net, EXAMPLE), costs(net)[cost]
    chosen = ranks.to_budget(found, before, round(share * before), cost)
    spare = round(share * before) - ranks.total(found, chosen, before, cost)
    assert spare >= 0
    for layer in found:
        rank = chosen.get(layer.path)
        if rank is not None and layer.paying(rank + 1, cost):
            assert layer.at(rank + 1, cost) - layer.at(rank, cost) > spare


def test_budgets_that_cannot_be_met() -> None:
    found = ranks.layers(wide(), EXAMPLE)
    with pytest.raises(BudgetError, match="every layer at rank 1 there are"):
        ranks.to_budget(found, costs(wide())["params"], 500, "params")
    with pytest.raises(SpecError, match="energy is 1.5"):
        ranks.by_energy(found, 1.5)


def test_layers_kept_or_never_run_are_no_candidates() -> None:
    net = wide()
    net.add_module("unused", nn.Linear(4, 4))
    net.forward = lambda x: nn.Sequential(*list(net)[:-1])(x)  # type: ignore[method-assign]
    assert [layer.path for layer in ranks.layers(net, EXAMPLE, keep=["0"])] == ["2", "4", "7", "9"]


# What carries them -----------------------------------------------------------------------------------------


def test_onnx_carries_thin_layers(tmp_path) -> None:  # type: ignore[no-untyped-def]
    thin = factorise(network(), {"3": 4, "9": 2}).eval()
    export_onnx(thin, tmp_path / "thin.onnx", torch.zeros(1, 1, 6, 6))  # compares with torch
    assert accuracy(tmp_path / "thin.onnx", stripes()) == accuracy(thin, stripes())


def test_training_of_thin_layers_that_was_killed_goes_on_to_the_same_bits(tmp_path) -> None:  # type: ignore[no-untyped-def]
    thin = factorise(network(), {"3": 4})
    hooks = [frobenius_decay(5e-4)]
    once = training.train(thin, stripes(), recipe(), hooks=hooks).model

    def kill(run: training.Run) -> None:
        if run.step == 8:
            raise KeyboardInterrupt

    store = training.Store(tmp_path, seconds=0)
    resumed = training.Store(tmp_path, resume=True)
    with pytest.raises(KeyboardInterrupt):
        training.train(thin, stripes(), recipe(), hooks=hooks, progress=kill, store=store)
    again = training.train(thin, stripes(), recipe(), hooks=hooks, store=resumed).model
    same(once, again)
