"""Fitting once more, to inputs that were held out too: exact where the first fit is, better where inputs are few."""

import pytest
import torch
from torch import nn

import model_zoo
import slimkit
from slimkit import data, models, provenance
from slimkit.channels import trace
from slimkit.measure.quality import quality as accuracy
from slimkit.recovery.calibration import chunks
from slimkit.recovery.gap import gaps
from slimkit.recovery.reconstruct import MODES, reconstruct, refit
from slimkit.surgery.remove import remove
from tests.blocks import ACROSS, BLOCKS
from tests.nets import example
from tests.test_reconstruct import case, gap, half, twice, wide


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in (*BLOCKS, *ACROSS) if name != "Attention"])
def test_what_was_exact_stays_exact(name: str, mode: str) -> None:
    net, graph, mask = case([(name, 4), ("Chain", 4)], "pool")
    slim, batches = remove(net, graph, mask), [example(net, 64)]
    found = reconstruct(net, slim, graph, mask, batches, mode=mode)
    again = refit(net, slim, graph, mask, batches, found)
    assert gap(net, again.model, [example(net, 5)]) < 1e-4
    assert (again.fitted, again.before, again.after, again.images) == (
        found.fitted,
        found.before,
        found.after,
        found.images,
    )


def test_a_layer_that_is_fitted_to_rows_is_fitted_to_all_of_them() -> None:
    net, images = wide()
    graph = trace(net, images[:1])
    slim, mask = remove(net, graph, half(graph)), half(graph)
    found = reconstruct(net, slim, graph, mask, [images[:16]])  # 12 are for fitting, and 12 are independent
    again = refit(net, slim, graph, mask, [images[:16]], found)
    fresh = [images[64:]]
    assert again.model is not found.model
    assert gap(net, again.model, fresh) < gap(net, found.model, fresh)


def test_each_bias_of_a_shared_weight_still_takes_its_own_constant() -> None:
    net, images, graph, mask = twice()
    slim = remove(net, graph, mask)
    again = refit(net, slim, graph, mask, [images], reconstruct(net, slim, graph, mask, [images]))
    torch.testing.assert_close(again.model(images), net(images), rtol=1e-3, atol=1e-3)


def test_what_was_not_fitted_is_not_fitted_now() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    batches = [torch.randn(64, 4) * (100 if n % 4 == 3 else 1) for n in range(8)]  # those held out differ
    graph = trace(net, batches[0][:1])
    mask = half(graph)
    slim = remove(net, graph, mask)
    found = reconstruct(net, slim, graph, mask, batches)
    if not found.after < found.before:
        assert refit(net, slim, graph, mask, batches, found) is found


@pytest.mark.long
@pytest.mark.parametrize("images", [16, 64])
def test_few_images_say_more_together(images: int) -> None:
    net = models.load_slim(model_zoo.CHECKPOINTS["resnet8-digits"]).eval()
    digits = data.open("digits").normalised(provenance.of(net).normalisation)
    better = []
    for seed in range(6):
        batch = next(iter(digits.train.batches(images, seed=seed)))[0]
        graph = trace(net, batch[:1])
        mask = half(graph)
        slim = remove(net, graph, mask)
        found = reconstruct(net, slim, graph, mask, [batch])
        again = refit(net, slim, graph, mask, [batch], found)
        better.append(accuracy(again.model, digits.validation) - accuracy(found.model, digits.validation))
    assert sum(better) / len(better) > 0.005


def test_compress_hands_out_what_all_of_few_inputs_say() -> None:
    net = models.load_slim(model_zoo.CHECKPOINTS["resnet8-digits"]).eval()
    digits = data.open("digits").normalised(provenance.of(net).normalisation)
    batch = next(iter(digits.train.batches(48, seed=0)))[0]
    made = slimkit.compress(net, batch[:1], 0.5, calibration=batch, epochs=0, ranking="group-norm")
    graph = trace(net, batch[:1])
    found = reconstruct(net, remove(net, graph, made.mask), graph, made.mask, [batch])
    parts = chunks([batch])
    refitted, once = gaps(net, [made.model, found.model], parts)
    assert refitted < 0.5 * once
    assert made.report.fit is not None and made.report.fit.after > 2 * refitted
