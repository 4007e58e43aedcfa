"""The index by which state dicts are recognised."""

import subprocess
import sys
import time
from importlib import resources

import pytest
import torch
import torchvision

from slimkit import zoo
from slimkit.errors import ArchitectureError
from slimkit.models import building, reference, signatures

CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)
QUICK = ["resnet18", "mobilenet_v2", "squeezenet1_1", "vgg11_bn", "regnet_x_400mf"]


def fresh(name):
    return signatures.signature(reference.parse(name), {})


def shipped(arch):
    return [entry for entry in signatures.index() if entry.arch == arch]


@pytest.mark.parametrize("name", [*QUICK, *(f"zoo:{name}" for name in zoo.ARCHITECTURES)])
def test_index_is_up_to_date(name):
    """Where this fails: python tools/make_signatures.py."""
    made = fresh(name)
    assert shipped(made.arch) == [made]


@pytest.mark.slow
def test_whole_index_is_up_to_date():
    for name in CLASSIFIERS:
        for entry in shipped(f"torchvision:{name}"):
            assert signatures.signature(reference.parse(name), entry.arguments) == entry, name


def test_index_covers_all_classifiers_and_the_zoo():
    archs = {entry.arch for entry in signatures.index()}
    assert archs == {f"torchvision:{n}" for n in CLASSIFIERS} | {f"zoo:{n}" for n in zoo.ARCHITECTURES}
    assert len(CLASSIFIERS) >= 80
    for name in ("googlenet", "inception_v3"):
        assert [e.arguments for e in shipped(f"torchvision:{name}")] == [
            {"aux_logits": True},
            {"aux_logits": False},
        ]


def state_of(entry, classes):
    """Make a state dict of an index entry for a number of classes, without weights."""
    shapes = {name: list(shape) for name, shape in entry.shapes.items()}
    for name, dim in entry.classes:
        shapes[name][dim] = classes
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_every_architecture_is_told_from_all_others_in_milliseconds():
    signatures.index()
    times = []
    for entry in signatures.index():
        state = state_of(entry, 37)
        started = time.thread_time()
        found = signatures.identify(state, "net.pt")
        times.append(time.thread_time() - started)
        assert str(found.reference) == entry.arch
        assert found.classes == 37
        assert found.arguments == {**entry.arguments, "num_classes": 37}
    assert sorted(times)[len(times) // 2] < 0.02


def test_index_is_small():
    file = resources.files("slimkit.models").joinpath("signatures.json.xz")
    assert len(file.read_bytes()) < 80_000


def test_heads_must_agree_on_the_number_of_classes():
    (entry, _) = shipped("torchvision:googlenet")
    state = state_of(entry, 5)
    assert signatures.match(signatures.shapes_of(state), entry).classes == 5
    state["aux1.fc2.weight"] = torch.empty(6, *entry.shapes["aux1.fc2.weight"][1:], device="meta")
    assert signatures.match(signatures.shapes_of(state), entry) is None


def test_kernel_of_another_size_does_not_match():
    (entry,) = shipped("torchvision:resnet18")
    state = state_of(entry, 10)
    state["conv1.weight"] = torch.empty(64, 3, 3, 3, device="meta")
    with pytest.raises(ArchitectureError, match="conv1.weight is 64x3x3x3, not 64x3x7x7"):
        signatures.identify(state, "net.pt")


def test_new_network_of_the_zoo_is_found_before_the_index_is_made_again(monkeypatch):
    def tiny(num_classes=2, in_channels=1):
        return torch.nn.Sequential(torch.nn.Conv2d(in_channels, 3, 1), torch.nn.Conv2d(3, num_classes, 1))

    monkeypatch.setitem(zoo.ARCHITECTURES, "tiny", tiny)
    reference._names.cache_clear()
    signatures.index.cache_clear()
    found = signatures.identify(tiny(5, 4).state_dict(), "net.pt")
    assert (str(found.reference), found.arguments) == ("zoo:tiny", {"num_classes": 5, "in_channels": 4})
    monkeypatch.undo()
    reference._names.cache_clear()
    signatures.index.cache_clear()


def test_flattened_images_tell_their_channels():
    network = zoo.lenet_300_100(num_classes=4, in_channels=3)
    found = signatures.identify(network.state_dict(), "net.pt")
    assert found.arguments == {"num_classes": 4, "in_channels": 3}


def test_importing_models_is_cheap(tmp_path):
    code = (
        "import sys, slimkit.models as models\n"
        "assert not {'torchvision', 'timm', 'onnx', 'slimkit.zoo'} & set(sys.modules)\n"
        f"path = {str(tmp_path / 'slim')!r}\n"
        "models.save(models.build('zoo:resnet8').model, path)\n"
        "models.load(path)\n"
        "print(*(n for n in ('torchvision', 'timm', 'onnx', 'sympy') if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []  # sympy would come with the first initialisation on the meta device


def test_structure_computed_on_the_way_survives_the_skeleton():
    """RegNet computes its widths, Swin its index buffers, by operators that the meta device cannot run."""
    network = building.skeleton(reference.parse("swin_t"), {"num_classes": 2})
    buffers = dict(network.named_buffers())
    assert buffers
    assert not any(buffer.is_meta for buffer in buffers.values())
