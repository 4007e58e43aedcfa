"""Pickled networks: which load, and that nothing in a pickle is ever run."""

import builtins
import copy
import functools
import os
import pathlib
import pickle
import subprocess

import pytest
import torch
import torchvision
from torch import fx, nn

from slimkit import models, provenance
from slimkit.errors import CheckpointError
from slimkit.models import building, pickled_modules, pickles, reference
from slimkit.pickled.machine import Refused


class Own(nn.Module):
    """A network of the user's own code."""

    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 2)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Runs:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def saved(tmp_path, content, **options):
    path = tmp_path / "net.pt"
    torch.save(content, path, **options)
    return path


@functools.cache
def made():
    torch.manual_seed(0)
    return torchvision.models.shufflenet_v2_x0_5(num_classes=4).eval()


def small():
    return copy.deepcopy(made())


def test_torchvision_module_loads_and_can_be_saved(tmp_path):
    network, x = small(), torch.randn(2, 3, 32, 32)
    found = models.load(saved(tmp_path, network))
    assert found.source == "pickled module"
    assert provenance.of(found.model).arch == "torchvision:shufflenet_v2_x0_5"
    torch.testing.assert_close(found.model(x), network(x), rtol=0, atol=0)
    models.save(found.model, tmp_path / "slim.safetensors")
    again = models.load_slim(tmp_path / "slim.safetensors")
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)


def test_a_module_says_what_it_is_and_weights_beside_it_do_not(tmp_path):
    network = small()
    average = {f"renamed.{name}": tensor for name, tensor in network.state_dict().items()}
    for state in (average, network.state_dict()):
        found = models.load(saved(tmp_path, {"model": network, "ema": state}))
        assert found.source == "pickled module"
        assert any("'model' was taken" in line for line in found.assumptions)


def test_wrapped_modules(tmp_path):
    for content in (
        {"model": small(), "epoch": 3},
        nn.DataParallel(small()),
        {"net": nn.DataParallel(small())},
    ):
        found = models.load(saved(tmp_path, content))
        assert provenance.of(found.model).arch == "torchvision:shufflenet_v2_x0_5"


def test_whole_network_in_the_old_format(tmp_path):
    path = saved(tmp_path, small(), _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="torch before 1.6"):
        models.load(path)
    found = models.load(path, trust_pickle=True)
    assert provenance.of(found.model).arch == "torchvision:shufflenet_v2_x0_5"


def test_settings_that_differ_from_the_factorys_are_kept(tmp_path):
    network = torchvision.models.googlenet(weights=None, init_weights=False, num_classes=3, aux_logits=False)
    network.transform_input = True
    network.dropout.p = 0.37
    found = models.load(saved(tmp_path, network)).model
    assert provenance.of(found).attributes == {"": {"transform_input": True}, "dropout": {"p": 0.37}}
    models.save(found, tmp_path / "slim")
    again = models.load_slim(tmp_path / "slim")
    assert again.transform_input is True
    assert again.dropout.p == 0.37


def test_another_activation_is_another_network(tmp_path):
    network = small()
    network.conv1[2] = nn.SiLU()
    found = models.load(saved(tmp_path, network))
    assert provenance.of(found.model).arch == "exported"
    assert any("exported program" in line for line in found.assumptions)


def test_another_function_is_another_network():
    network = small()
    assert models.recognise(network) is not None
    network.activation = torch.relu
    assert models.recognise(network) is None


def test_module_of_no_known_factory_is_saved_as_exported_program(tmp_path):
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(0)
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3).eval()
    found = models.load(saved(tmp_path, network))
    provenance.attach(found.model, provenance.Provenance(arch="exported", input_shape=(3, 32, 32), classes=3))
    models.save(found.model, tmp_path / "slim.pt2")
    x = torch.randn(3, 3, 32, 32)
    again = models.load_slim(tmp_path / "slim.pt2")
    torch.testing.assert_close(again(x), network(x), rtol=1e-5, atol=1e-6)
    assert provenance.of(again).input_shape == (3, 32, 32)


def test_timm_module(tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet10t", num_classes=3, in_chans=1).eval()
    found = models.load(saved(tmp_path, network))
    known = provenance.of(found.model)
    assert known.arch == "timm:resnet10t"
    assert known.arguments == {"num_classes": 3, "in_chans": 1}
    assert known.input_shape == (1, 176, 176)
    x = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(found.model(x), network(x), rtol=0, atol=0)


def test_timm_network_with_the_tensors_of_torchvisions():
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet18", num_classes=3)
    known = models.recognise(network)
    assert (known.arch, known.attributes) == ("timm:resnet18", {})


# One of each file of torchvision that passes something else to its layers; a ViT keeps the class of its norms.
@pytest.mark.parametrize("name", ["convnext_tiny", "googlenet", "maxvit_t", "mnasnet0_5", "regnet_x_400mf", "vit_b_16"])
def test_a_pickled_classifier_of_torchvision_is_recognised(name, tmp_path):
    network = building.skeleton(reference.parse(name), {})  # on meta: the largest has 2.5 GB of weights
    known = models.recognise(pickles.read(saved(tmp_path, network), trust_pickle=False))
    assert known is not None
    assert (known.arch, known.attributes) == (f"torchvision:{name}", {})


@pytest.mark.slow
def test_all_classifiers_of_torchvision_load_pickled(tmp_path):
    names = torchvision.models.list_models(module=torchvision.models)
    assert len(names) >= 80
    for name in names:
        test_a_pickled_classifier_of_torchvision_is_recognised(name, tmp_path)


# What is refused -------------------------------------------------------------------------------------------


def test_own_class_is_refused_and_named_with_the_two_ways_on(tmp_path):
    path = saved(tmp_path, Own())
    with pytest.raises(CheckpointError, match=r"Own'") as caught:
        models.load(path)
    message = str(caught.value)
    assert "`arch='module:factory'` or file.py:factory" in message
    assert "`trust_pickle=True`" in message


def test_own_class_with_trust(tmp_path):
    network = Own().eval()
    found = models.load(saved(tmp_path, network), trust_pickle=True)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(found.model(x), network(x), rtol=0, atol=0)
    assert provenance.of(found.model).arch == "exported"


def test_own_class_that_cannot_be_imported(tmp_path, monkeypatch):
    path = saved(tmp_path, Own())
    monkeypatch.delattr(f"{__name__}.Own")
    with pytest.raises(CheckpointError, match="unpickling it failed"):
        models.load(path, trust_pickle=True)


def test_pickled_module_with_arch_gives_its_weights(tmp_path):
    found = models.load(saved(tmp_path, small()), arch="shufflenet_v2_x0_5")
    assert found.source == "state dict"


MALICIOUS = {
    "open": lambda path: Runs(builtins.open, path, "w"),
    "eval": lambda path: Runs(builtins.eval, f"open({path!r}, 'w')"),
    "exec": lambda path: Runs(builtins.exec, f"open({path!r}, 'w')"),
    "system": lambda path: Runs(os.system, f"touch {path}"),
    "popen": lambda path: Runs(subprocess.Popen, ["touch", path]),
    "pathlib": lambda path: Runs(pathlib.Path.touch, pathlib.Path(path)),
    "graph module": lambda path: fx.symbolic_trace(nn.Sequential(nn.ReLU())),
    "load": lambda path: Runs(torch.load, path),
    "hub": lambda path: Runs(torch.hub.load, path, "x"),
    "getattr": lambda path: Runs(getattr, nn.ReLU, "__init__"),
    "inner pickle": lambda path: Runs(pickle.loads, pickle.dumps(Runs(builtins.open, path, "w"))),
    "file of torch": lambda path: Runs(torch.from_file, path, True, 4),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("how", MALICIOUS)
def test_code_in_a_pickle_is_never_run(how, legacy, tmp_path):
    victim = tmp_path / "created"
    network = nn.Sequential(nn.ReLU())
    network.extra = MALICIOUS[how](str(victim))
    for content in ({"state_dict": {"w": torch.ones(1)}, "x": network.extra}, network, [network.extra]):
        path = saved(tmp_path, content, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match="asks for|damaged|before 1.6"):
            models.load(path)
        assert not victim.exists()


def test_the_malicious_file_would_do_harm_elsewhere(tmp_path):
    victim = tmp_path / "created"
    path = saved(tmp_path, {"x": Runs(builtins.open, str(victim), "w")})
    torch.load(path, weights_only=False)["x"].close()
    assert victim.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "builtins.eval", "torch.load", "torch.hub.load",
        "torch.nn.functional.os", "torchvision.models.resnet.torch", "torchvision.models.resnet.partial",
        "torchvision.models.resnet.resnet18", "torchvision.models.feature_extraction.DualGraphModule",
        "torch.fx.graph_module.reduce_graph_module", "torch.jit._script.RecursiveScriptModule",
        "torch.nn.modules.module.torch", "timm.models.load_checkpoint", "torchvision.models.ResNet",
        "torchvision.models.resnet.ResNet18_Weights",
        "timm.models._features_fx.FeatureGraphNet", "timm.models..os", "torchvision.models.__main__.x",
        "torch.nn.modules.conv.nosuch", "torch.nn.modules.nosuch.Conv2d", "torch.nn.modulesx.Conv2d",
    ],
)  # fmt: skip
def test_only_classes_of_networks_are_allowed(name):
    with pytest.raises(Refused, match=name):
        pickled_modules.word(name)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_newer_protocols(protocol, tmp_path):
    found = models.load(saved(tmp_path, {"model": small(), "seen": b"x"}, pickle_protocol=protocol))
    assert provenance.of(found.model).arch == "torchvision:shufflenet_v2_x0_5"
