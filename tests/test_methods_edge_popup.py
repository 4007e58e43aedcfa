"""Edge-popup: weights that are never trained, a mask that is exact, a network that stands alone."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from slimkit import data, training
from slimkit.errors import SpecError
from slimkit.measure.quality import quality as accuracy
from slimkit.methods import EdgePopupConfig, edge_popup
from slimkit.methods.edge_popup import ScoredWeight, chosen, layers, left, scored, straight_through
from slimkit.models import build
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


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(SpecError, match="no weights to choose"):
        scored(nn.Sequential(nn.BatchNorm2d(3)), EdgePopupConfig(), seed=0)


@pytest.mark.slow
def test_half_of_random_weights_tell_digits() -> None:
    """All of them, next to none of them, and half of the channels do not."""
    digits = data.open("digits")
    settings = training.Recipe(
        epochs=15, batch_size=64, weight_decay=1e-4, augment=False, precision="fp32", device="cpu"
    )

    def reached(**config: object) -> float:
        model = build("zoo:resnet8", classes=10, input_shape=(1, 8, 8)).model
        found = edge_popup.METHOD(job(model, settings, digits), EdgePopupConfig(**config))  # type: ignore[arg-type]
        return accuracy(found.model, digits.test)

    half = reached(density=0.5)
    assert half > 0.95
    assert reached(density=1.0) < 0.4
    assert reached(density=1e-4) < 0.4
    assert reached(density=0.5, choose="channels") < half - 0.2
