"""Edge-popup: weights that are never trained, a mask that is exact, a network that stands alone."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from slimkit import data, training
from slimkit.channels import Graph, trace
from slimkit.errors import SpecError
from slimkit.measure.quality import quality as accuracy
from slimkit.methods import EdgePopupConfig, edge_popup
from slimkit.methods.edge_popup import (
    ScoredUnits,
    ScoredWeight,
    chosen,
    layers,
    left,
    scored,
    scored_channels,
    straight_through,
)
from slimkit.models import build
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import remove
from tests.training_sample import job, network, recipe, stripes


def originals(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name.endswith("original")}


@pytest.mark.parametrize(("setting", "value"), [("density", 0.0), ("density", 1.5), ("choose", "layers")])
def test_settings_out_of_range(setting: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"{setting} is"):
        EdgePopupConfig(**{setting: value})  # type: ignore[arg-type]


def test_no_weight_changes_to_the_bit() -> None:
    start = scored(network(), EdgePopupConfig(), seed=0)
    before = originals(start)
    after = training.train(start, stripes(), recipe()).model
    assert len(before) == 3
    assert all(torch.equal(tensor, originals(after)[name]) for name, tensor in before.items())
    scores = [
        (m.scores, n.scores)
        for m, n in zip(start.modules(), after.modules(), strict=True)
        if isinstance(m, ScoredWeight)
    ]
    assert all(not torch.equal(old, new) for old, new in scores)
    moved = {name for name, p in start.named_parameters() if not torch.equal(p, dict(after.named_parameters())[name])}
    assert moved == {name for name, _ in start.named_parameters() if name.endswith("scores")}


@pytest.mark.parametrize("density", [1e-6, 0.1, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(7,), (5, 3), (4, 3, 3, 3)])
def test_the_mask_is_exact(density: float, shape: tuple[int, ...]) -> None:
    scores = torch.randn(shape)
    mask = chosen(scores, density)
    assert int(mask.sum()) == max(1, round(density * scores.numel()))
    if not mask.all():
        assert scores[mask].abs().min() >= scores[~mask].abs().max()


def test_the_mask_does_not_depend_on_the_memory_layout() -> None:
    scores = torch.randn(8, 6, 3, 3)
    assert torch.equal(chosen(scores.contiguous(memory_format=torch.channels_last), 0.3), chosen(scores, 0.3))


def test_the_gradient_goes_straight_through() -> None:
    scores, weight, upstream = (torch.randn(4, 5, requires_grad=True) for _ in range(3))
    (weight.detach() * straight_through(scores, 0.5) * upstream.detach()).sum().backward()
    torch.testing.assert_close(scores.grad, upstream.detach() * weight.detach() * scores.detach().sign())


def test_weights_are_signed_constants() -> None:
    model = scored(network(), EdgePopupConfig(density=0.25), seed=0)
    for (_, layer), fan_in in zip(layers(model), (9, 72, 12), strict=True):
        weight = layer.get_parameter("parametrizations.weight.original")
        size = math.sqrt(2 / fan_in / 0.25)
        torch.testing.assert_close(weight.abs(), torch.full_like(weight, size))
        assert weight.min() < 0 < weight.max()


def test_what_is_found_stands_alone() -> None:
    given = network()
    found = edge_popup.METHOD(job(given), EdgePopupConfig(density=0.3))
    images = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(found.model(images), found.trained[0].model(images), rtol=0, atol=1e-6)
    assert not any(parametrize.is_parametrized(module) for module in found.model.modules())
    assert repr(found.model) == repr(given.eval())
    assert all(p.requires_grad for p in found.model.parameters())
    sizes = {f"{name}.weight": layer.get_parameter("weight").numel() for name, layer in layers(given)}
    assert left(found.model) == {name: round(0.3 * size) for name, size in sizes.items()}


def test_layers_that_share_a_weight_share_its_scores() -> None:
    """Else the weight that is delivered has the choice of one of them only."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 3))
    net[3].weight = net[1].weight
    found = training.train(scored(net, EdgePopupConfig(), seed=0), stripes(), recipe(epochs=1)).model
    alone = edge_popup.merged(found, net).eval()
    [(images, _)] = stripes().batches(96)
    assert sum(len(p) for n, p in found.named_parameters() if n.endswith("scores")) == 36 + 3
    torch.testing.assert_close(alone(images), found.eval()(images), rtol=0, atol=0)


def residual() -> nn.Module:
    """ResNet-8 of 8 to 32 channels, for the stripes."""
    return build("zoo:resnet8(width=8)", classes=3, input_shape=(1, 6, 6)).model


def silent(model: nn.Module, graph: Graph) -> torch.Tensor:
    """Which units have zeros for all that makes them in some layer, or for all that reads them, bool [U]."""
    found = torch.zeros(graph.units, dtype=torch.bool)
    weights = dict(model.named_parameters())
    for axis in graph.axes:
        if axis.tensor in weights and weights[axis.tensor].dim() > 1:
            said = weights[axis.tensor].detach().abs().transpose(0, axis.dim).flatten(1).sum(1)
            of_unit = torch.zeros(graph.units + 1).index_add_(0, axis.unit_of % (graph.units + 1), said)[:-1]
            found |= (of_unit == 0) & torch.isin(torch.arange(graph.units), axis.unit_of)
    return found


@pytest.mark.parametrize("net", [network, residual])
def test_channels_change_sides_in_every_group(net: Callable[[], nn.Module]) -> None:
    """Masks on what makes a channel, before its BatchNorm and ReLU, leave every choice as it was drawn."""
    model = net()
    graph = trace(model, torch.zeros(1, 1, 6, 6))
    config = EdgePopupConfig(choose="channels")

    def found(epochs: int, rate: float = 0.1) -> torch.Tensor:
        asked = recipe(epochs=epochs, learning_rate=rate, seed=1)
        return silent(edge_popup.METHOD(job(net(), asked), config).model, graph)

    before, *later = found(1, rate=1e-9), found(4), found(8), found(12)
    for group in graph.groups:
        was, now = before[group.members], [one[group.members] for one in later]
        assert {int(one.sum()) for one in (was, *now)} == {len(was) // 2}
        assert any(not torch.equal(was, one) for one in now), group.name


@pytest.mark.parametrize("net", [network, residual])
def test_channels_left_out_are_removed_and_their_scores_hear_of_them(net: Callable[[], nn.Module]) -> None:
    """No score is without a gradient, but of channels that speak for all classes alike."""
    model = net()
    graph = trace(model, torch.zeros(1, 1, 6, 6))
    start = scored_channels(model, graph, EdgePopupConfig(choose="channels", density=0.5), seed=0)
    [units] = {module for module in start.modules() if isinstance(module, ScoredUnits)}
    [(images, labels)] = stripes().batches(96)
    nn.functional.cross_entropy(start.train()(images), labels).backward()
    *_, (_, classifier) = layers(start)
    alike = torch.ones(graph.units, dtype=torch.bool)
    alike[: -classifier.in_features] = False  # type: ignore[operator]
    alike[alike.clone()] = classifier.get_parameter("parametrizations.weight.original").sign().sum(0).abs() == 3
    assert units.scores.grad is not None
    assert units.scores.grad[~alike].abs().min() > 1e-5
    mask = Mask(units()[:-1] > 0.5)
    assert mask.counts(graph) == [round(len(group.members) / 2) for group in graph.groups]
    alone = edge_popup.merged(start, model).eval()
    torch.testing.assert_close(remove(alone, graph, mask)(images), alone(images))
    torch.testing.assert_close(alone(images), start.eval()(images), rtol=0, atol=0)


def test_weights_are_as_large_as_few_are_read() -> None:
    model = network()
    graph = trace(model, torch.zeros(1, 1, 6, 6))
    start = scored_channels(model, graph, EdgePopupConfig(choose="channels", density=0.25), seed=0)
    for (_, layer), read in zip(layers(start), (9, 2 * 9, 3), strict=True):  # the image's channel stays
        weight = layer.get_parameter("parametrizations.weight.original")
        torch.testing.assert_close(weight.abs(), torch.full_like(weight, math.sqrt(2 / read)))


def test_a_network_without_channels_to_choose_is_refused_before_it_is_trained() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(SpecError, match="choose is channels, but the network has none"):
        edge_popup.METHOD.check(job(model), EdgePopupConfig(choose="channels"))


@pytest.mark.parametrize("net", [network, residual])
def test_every_class_keeps_its_row(net: Callable[[], nn.Module]) -> None:
    model = edge_popup.METHOD(job(net(), recipe(epochs=1)), EdgePopupConfig(choose="channels", density=0.25)).model
    *_, (_, classifier) = layers(model)
    assert classifier.get_parameter("weight").any(1).all()


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(SpecError, match="no weights to choose"):
        scored(nn.Sequential(nn.BatchNorm2d(3)), EdgePopupConfig(), seed=0)


@pytest.mark.slow
def test_half_of_random_weights_tell_digits() -> None:
    """All of them and next to none of them do not; half of the channels do better than half by lot, but not so well."""
    digits = data.open("digits")

    def reached(rate: float = 0.1, **config: object) -> float:
        model = build("zoo:resnet8", classes=10, input_shape=(1, 8, 8)).model
        asked = recipe(epochs=15, batch_size=64, weight_decay=1e-4, augment=False, learning_rate=rate)
        found = edge_popup.METHOD(job(model, asked, digits), EdgePopupConfig(**config))  # type: ignore[arg-type]
        return accuracy(found.model, digits.test)

    half = reached(density=0.5)
    assert half > 0.95
    assert reached(density=1.0) < 0.4
    assert reached(density=1e-4) < 0.4
    by_lot, channels = reached(1e-9, choose="channels"), reached(choose="channels")
    assert by_lot + 0.1 < channels < half - 0.2
