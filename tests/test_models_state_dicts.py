"""State dicts: wrappers, prefixes, what lies beside them, which architecture they are of."""

import argparse
import collections
import os
import pathlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from slimkit import models, provenance
from slimkit.errors import ArchitectureError, CheckpointError
from slimkit.models import building, signatures, weights


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return models.build("zoo:resnet8", classes=3).model


@pytest.fixture
def state(network):
    return dict(network.state_dict())


def loaded(tmp_path, content, **options):
    path = tmp_path / "net.pt"
    torch.save(content, path)
    return models.load(path, **options)


def same(network, other):
    one, two = network.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


SHAPES = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model_state_dict": lambda s: {
        "model_state_dict": s,
        "optimizer_state_dict": {"state": {0: s["fc.bias"]}},
    },
    "model": lambda s: {"model": s, "optimizer": {"state": {}}, "lr_scheduler": {"base_lrs": [0.1]}},
    "net": lambda s: {"net": s, "acc": 91.2},
    "ema only": lambda s: {"ema": s},
    "nested": lambda s: {"checkpoint": {"model": {"state_dict": s}}, "epoch": 1},
    "one unknown key": lambda s: {"my_weights": s, "note": "best"},
    "module.": lambda s: prefixed(s, "module."),
    "_orig_mod.": lambda s: prefixed(s, "_orig_mod."),
    "repeated": lambda s: {"state_dict": prefixed(s, "module._orig_mod.module.model.")},
    "compiled inside": lambda s: {name.replace("layer1.", "layer1._orig_mod."): t for name, t in s.items()},
    "lightning": lambda s: {
        "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(3)},
        "pytorch-lightning_version": "2.5",
        "hyper_parameters": {"lr": 0.1},
        "loops": {"fit_loop": {}},
    },
    "averaged": lambda s: {"model_ema": {**prefixed(s, "module."), "n_averaged": torch.tensor(4)}},
    "counters inside": lambda s: {**s, "epoch": 5, "best": 0.9},
    "arrays": lambda s: {name: tensor.numpy() for name, tensor in s.items()},
    "with namespace": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs"))},
    "with numpy scalars": lambda s: {
        "model": s,
        "acc": np.float64(91.2),
        "curve": np.arange(3),
        "n": np.int64(3),
    },
    "with containers": lambda s: {
        "model": s,
        "log": collections.defaultdict(list, loss=[1.0]),
        "last": collections.deque([1, 2]),
        "seen": {1, 2},
    },
    "whole module": lambda s: {"model": s, "ema": prefixed(s, "x.")},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.filterwarnings("ignore:.*numpy.*:DeprecationWarning")
def test_state_dict_is_found(shape, network, state, tmp_path):
    found = loaded(tmp_path, SHAPES[shape](state))
    assert found.source == "state dict"
    assert same(network, found.model)
    assert not found.model.training
    known = provenance.of(found.model)
    assert (known.arch, known.arguments) == ("zoo:resnet8", {"num_classes": 3})
    assert (known.input_shape, known.classes) == ((1, 8, 8), 3)


def test_legacy_file_and_safetensors(network, state, tmp_path):
    torch.save({"model": state}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(network, models.load(tmp_path / "old.pt").model)
    save_file(prefixed(state, "module."), tmp_path / "net.safetensors")
    assert same(network, models.load(tmp_path / "net.safetensors").model)


def test_the_moving_average_comes_before_its_weights_and_it_is_said(network, state, tmp_path):
    """It is what training code judges and hands out, as timm's `state_dict_ema`."""
    raw = {name: tensor * 2 for name, tensor in state.items()}
    for plain, average in (("model", "ema"), ("state_dict", "state_dict_ema"), ("params", "params_ema")):
        found = loaded(tmp_path, {plain: prefixed(raw, "module."), average: state})
        assert same(network, found.model)
        assert any(f"of {plain!r} and {average!r} in the file" in line for line in found.assumptions)
    swa = {**prefixed(state, "module."), "n_averaged": torch.tensor(4)}
    assert same(network, loaded(tmp_path, {"model": raw, "swa_model": swa}).model)
    alone = loaded(tmp_path, {"model_ema": state})
    assert any("moving average" in line for line in alone.assumptions)


def test_an_average_of_parameters_alone_keeps_the_statistics_beside_it(network, state, tmp_path):
    parameters = {name for name, _ in network.named_parameters()}
    raw = {name: tensor * 2 if name in parameters else tensor for name, tensor in state.items()}
    shadow = {name: tensor for name, tensor in state.items() if name in parameters}
    found = loaded(tmp_path, {"model": raw, "ema": {"decay": 0.999, "shadow": shadow}})
    assert same(network, found.model)
    other = loaded(tmp_path, {"model": state, "ema": prefixed(shadow, "other.")})
    assert same(network, other.model)
    assert any("'ema' is not of the same tensors" in line for line in other.assumptions)


def test_what_the_weights_do_not_tell_is_said(state, tmp_path):
    found = loaded(tmp_path, state)
    assert any("1x8x8" in line for line in found.assumptions)
    assert any("normalisation" in line for line in found.assumptions)


def test_half_precision_becomes_float32(state, tmp_path):
    found = loaded(tmp_path, {name: t.half() if t.is_floating_point() else t for name, t in state.items()})
    assert {t.dtype for t in found.model.parameters()} == {torch.float32}
    torch.testing.assert_close(found.model.fc.weight, state["fc.weight"].half().float(), rtol=0, atol=0)
    assert any("float16" in line for line in found.assumptions)


def test_masks_of_torch_prune_are_multiplied_in(tmp_path):
    from torch.nn.utils import prune

    network = models.build("zoo:resnet8").model
    prune.l1_unstructured(network.conv1, "weight", amount=0.5)
    expected = network.conv1.weight.detach().clone()
    found = loaded(tmp_path, network.state_dict())
    torch.testing.assert_close(found.model.conv1.weight.detach(), expected, rtol=0, atol=0)
    assert (expected == 0).sum() == expected.numel() // 2


def test_state_dict_without_batch_counters(state, tmp_path):
    old = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    found = loaded(tmp_path, old)
    assert found.model.bn1.num_batches_tracked == 0
    assert not building.hollow(found.model)
    found.model.train()(torch.randn(2, 1, 8, 8))


def test_channels_and_classes_are_read_off_the_weights(tmp_path):
    grey = models.build("resnet18", classes=5, input_shape=(1, 32, 32)).model
    found = loaded(tmp_path, grey.state_dict())
    known = provenance.of(found.model)
    assert known.arguments == {"num_classes": 5}
    assert known.attributes == {"conv1": {"in_channels": 1}}
    assert (found.model.conv1.in_channels, found.model.fc.out_features) == (1, 5)
    assert known.input_shape == (1, 224, 224)
    assert known.normalisation is None
    assert same(grey, found.model)


@pytest.mark.parametrize("heads", [True, False])
def test_auxiliary_heads(heads, tmp_path):
    network = models.build(f"googlenet(aux_logits={heads}, init_weights=False)", classes=2).model
    network.transform_input = True
    found = loaded(tmp_path, network.state_dict())
    assert provenance.of(found.model).arguments == {"aux_logits": heads, "num_classes": 2}
    assert (found.model.aux1 is not None) == heads
    assert any("transform_input" in line for line in found.assumptions)
    assert same(network, found.model)


def test_first_torchvision_densenet_names():
    old = "features.denseblock1.denselayer1.norm.1.running_mean"
    readings = list(weights.readings({old: torch.ones(1)}))
    assert list(readings[-1]) == ["features.denseblock1.denselayer1.norm1.running_mean"]


def test_name_of_the_architecture_beside_the_weights(tmp_path):
    pytest.importorskip("timm")
    network = models.build("timm:resnet10t", classes=4).model
    found = loaded(tmp_path, {"arch": "resnet10t", "state_dict": network.state_dict()})
    assert provenance.of(found.model).arch == "timm:resnet10t"
    assert any("the file says" in line for line in found.assumptions)
    assert same(network, found.model)
    with pytest.raises(ArchitectureError, match="timm:NAME"):
        loaded(tmp_path, {"arch": "os:system", "state_dict": network.state_dict()})


# What cannot be loaded -------------------------------------------------------------------------------------


def test_none_fits_lists_the_nearest(state, tmp_path):
    state["fc.1.weight"] = state.pop("fc.weight")
    with pytest.raises(ArchitectureError, match="zoo:resnet8") as caught:
        loaded(tmp_path, state)
    message = str(caught.value)
    assert "without fc.weight" in message
    assert "with fc.1.weight besides" in message
    assert "`arch='path/to/file.py:factory'`" in message


def test_nothing_alike(tmp_path):
    with pytest.raises(ArchitectureError, match="like none of the"):
        loaded(tmp_path, {"some.weight": torch.ones(2), "some.bias": torch.ones(2)})


def test_narrowed_elsewhere(state, tmp_path):
    for name in ("layer1.0.conv1.weight", "layer1.0.bn1.weight", "layer1.0.bn1.bias"):
        state[name] = state[name][:7]
    for name in ("layer1.0.bn1.running_mean", "layer1.0.bn1.running_var"):
        state[name] = state[name][:7]
    state["layer1.0.conv2.weight"] = state["layer1.0.conv2.weight"][:, :7]
    with pytest.raises(ArchitectureError, match="already narrowed") as caught:
        loaded(tmp_path, state)
    assert "layer1.0.conv1.weight is 7x16x3x3, not 16x16x3x3" in str(caught.value)


def test_several_fit(state, tmp_path, monkeypatch):
    entry = next(each for each in signatures.index() if each.arch == "zoo:resnet8")
    twin = signatures.Signature("zoo:resnet20", {}, entry.shapes, entry.classes, entry.channels, entry.names)
    monkeypatch.setattr(signatures, "index", lambda: (entry, twin))
    with pytest.raises(ArchitectureError, match="fit 2 architectures: zoo:resnet8, zoo:resnet20"):
        loaded(tmp_path, state)


def test_weights_of_another_architecture(state, tmp_path):
    with pytest.raises(ArchitectureError, match="do not fit `arch=.zoo:resnet20.`") as caught:
        loaded(tmp_path, state, arch="zoo:resnet20")
    assert "They fit zoo:resnet8" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["layer1.0.conv1.weight", "bn1.running_var"])
def test_not_a_number_in_the_weights(name, value, state, tmp_path):
    state[name] = state[name].clone()
    state[name].view(-1)[0] = value
    with pytest.raises(CheckpointError, match=f"1 of {state[name].numel()} values of '{name}'"):
        loaded(tmp_path, state)


BAD = {
    "a number": (3, "holds an int"),
    "a tensor": (torch.ones(3), "holds a Tensor"),
    "no tensors": ({"epoch": 3}, "found none"),
    "two networks": ({"encoder": {"w": torch.ones(1)}, "decoder": {"w": torch.ones(1)}}, "encoder, decoder"),
    "numbered": ({0: torch.ones(1)}, "no names of tensors"),
    "sparse": ({"w": torch.eye(3).to_sparse()}, "sparse"),
    "quantised": (lambda: {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "quantised"),
    "optimizer": ({"optimizer": {"state": {"a": torch.ones(1)}}}, "found none"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_content_without_a_network(case, tmp_path):
    content, message = BAD[case]
    with pytest.raises(CheckpointError, match=message):
        loaded(tmp_path, content() if case == "quantised" else content)


def test_loading_leaves_the_environment_alone(state, tmp_path):
    before, flags = dict(os.environ), torch.serialization.get_safe_globals()
    loaded(tmp_path, state)
    assert dict(os.environ) == before
    assert set(torch.serialization.get_safe_globals()) == set(flags)


def test_loading_draws_no_random_numbers(state, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    loaded(tmp_path, state)
    assert torch.rand(1) == expected


def test_weights_share_nothing_between_layers(network, tmp_path):
    found = loaded(tmp_path, network.state_dict()).model
    assert len({tensor.data_ptr() for tensor in found.parameters()}) == len(list(found.parameters()))
    assert isinstance(found.conv1.weight, nn.Parameter)
    assert all(parameter.requires_grad for parameter in found.parameters())
