"""Architectures by name, fresh networks, factories of the user's own."""

import sys

import pytest
import torch
from torch import nn

from slimkit import models, provenance
from slimkit.errors import ArchitectureError, EngineError
from slimkit.models import building, defaults, reference

FACTORY = """
from dataclasses import dataclass
from torch import nn
import helper_of_factory

@dataclass
class Config:
    width: int = 4

class Net(nn.Module):
    def __init__(self, num_classes, in_channels=3, width=4):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, Config(width).width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x):
        return self.head(self.norm(self.conv(x))).mean((2, 3))

def fixed():
    return Net(5)

def broken():
    raise ValueError("no such size")

def number():
    return 3

INSTANCE = Net(2)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "own_networks.py"
    path.write_text(FACTORY)
    (tmp_path / "helper_of_factory.py").write_text("")
    monkeypatch.chdir(tmp_path)
    before, modules = list(sys.path), set(sys.modules)
    yield path
    assert sys.path == before
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("resnet18", "torchvision:resnet18"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("resnet8", "zoo:resnet8"),
        ("zoo:vgg16_bn", "zoo:vgg16_bn"),
        ("vgg16_bn", "torchvision:vgg16_bn"),
        (" lenet-300-100 ", "zoo:lenet-300-100"),
        ("fcn_resnet50", "torchvision:fcn_resnet50"),
        ("package.module:Class.build", "package.module:Class.build"),
        ("a/b(1)/net.py:factory", "a/b(1)/net.py:factory"),
    ],
)
def test_names(text, meant):
    assert str(reference.parse(text)) == meant
    assert str(reference.parse(meant)) == meant  # what is stored reads back


def test_arguments_in_brackets():
    found = reference.parse("torchvision:mobilenet_v2(width_mult=0.5, dropout=0)")
    assert (found.name, found.arguments) == ("mobilenet_v2", {"width_mult": 0.5, "dropout": 0})
    assert reference.parse("a/b(1)/net.py:f(x={'y': [1, None]})").arguments == {"x": {"y": [1, None]}}
    network = models.build("mobilenet_v2(width_mult=0.25)", classes=3).model
    assert provenance.of(network).arguments == {"width_mult": 0.25, "num_classes": 3}
    assert network.classifier[1].out_features == 3


@pytest.mark.parametrize("text", ["resnet18(3)", "resnet18(width=open('x'))", "resnet18(a=)"])
def test_arguments_that_are_no_plain_values(text):
    with pytest.raises(ArchitectureError, match="cannot be read"):
        reference.parse(text)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("resnet19", "torchvision:resnet18"),
        ("ResNet50", "torchvision:resnet50"),
        ("torchvision:resnet8", "torchvision:resnet18"),
        ("zoo:resnet18", "zoo:resnet8"),
        ("nothing-like-it", "no such architecture"),
        ("net.py:", "no name of a factory"),
    ],
)
def test_unknown_names_list_the_nearest(text, near):
    with pytest.raises(ArchitectureError, match=near):
        reference.parse(text)


def test_timm_name():
    pytest.importorskip("timm")
    assert str(reference.parse("timm:resnet10t")) == "timm:resnet10t"
    with pytest.raises(ArchitectureError, match="timm:resnet10t"):
        reference.parse("timm:resnet10")
    with pytest.raises(ArchitectureError, match="no such architecture"):
        reference.parse("timm:hf-hub:someone/something")  # would be downloaded


def test_timm_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    reference._names.cache_clear()
    with pytest.raises(EngineError, match="pip install"):
        reference.parse("timm:resnet10t")
    with pytest.raises(ArchitectureError, match="no such architecture"):
        reference.parse("resnet10tt")
    reference._names.cache_clear()


@pytest.mark.parametrize("argument", ["weights='DEFAULT'", "pretrained=True"])
def test_other_weights_than_the_checkpoints(argument):
    with pytest.raises(ArchitectureError, match="Leave it out"):
        models.build(f"resnet18({argument})")


# Fresh networks --------------------------------------------------------------------------------------------


def test_fresh_network_of_the_zoo():
    found = models.build("zoo:resnet8", classes=7, input_shape=(3, 16, 16))
    known = provenance.of(found.model)
    assert (found.source, found.assumptions) == ("fresh", ())
    assert (known.arch, known.classes, known.input_shape) == ("zoo:resnet8", 7, (3, 16, 16))
    assert found.model(torch.randn(2, 3, 16, 16)).shape == (2, 7)
    assert not any(tensor.is_meta for tensor in found.model.state_dict().values())


def test_default_shapes_and_normalisation():
    known = provenance.of(models.build("squeezenet1_1").model)
    assert (known.input_shape, known.classes) == ((3, 224, 224), 1000)
    assert known.normalisation == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    inception = building.skeleton(reference.parse("inception_v3"), {})
    from slimkit.models import defaults

    assert defaults.input_shape(reference.parse("inception_v3"), inception) == ((3, 299, 299), True)
    shape, known = defaults.input_shape(None, nn.Sequential(nn.Conv2d(2, 3, 1)))
    assert (shape, known) == ((2, 224, 224), False)


def test_another_number_of_channels_where_the_factory_takes_none():
    found = models.build("squeezenet1_1", classes=4, input_shape=(1, 64, 64))
    assert found.assumptions == ("features.0 was made anew for images of 1 channels",)
    assert models.build("squeezenet1_1", classes=4, input_shape=(3, 64, 64)).assumptions == ()
    network = found.model
    assert network(torch.randn(2, 1, 64, 64)).shape == (2, 4)
    assert provenance.of(network).attributes == {"features.0": {"in_channels": 1}}
    assert torch.isfinite(network.features[0].weight).all()


def test_classes_where_the_factory_takes_none(file):
    with pytest.raises(ArchitectureError, match="takes no num_classes"):
        models.build(f"{file}:fixed", classes=3, input_shape=(1, 8, 8))
    for classes in (None, 5):
        network = models.build(f"{file}:fixed", classes=classes, input_shape=(1, 8, 8)).model
        assert network.head.out_channels == 5


# Factories -------------------------------------------------------------------------------------------------


def test_factory_in_a_file_builds_loads_and_comes_back(file):
    network = models.build(f"{file}:Net(width=6)", classes=3, input_shape=(1, 16, 16)).model
    assert network.conv.weight.shape == (6, 1, 3, 3)
    torch.save({"module." + name: tensor for name, tensor in network.state_dict().items()}, "net.pt")
    found = models.load("net.pt", arch=f"{file}:Net(width=6)").model
    known = provenance.of(found)
    assert known.arguments == {"width": 6, "num_classes": 3, "in_channels": 1}
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(found(x), network(x), rtol=0, atol=0)
    models.save(found, "slim.safetensors")
    with pytest.raises(ArchitectureError, match="does not run on a file's word"):
        models.load_slim("slim.safetensors")
    with pytest.raises(ArchitectureError, match="does not run on a file's word"):
        models.load("slim.safetensors")
    again = models.load("slim.safetensors", arch=f"{file}:Net").model
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)


def test_factory_in_a_module(file):
    network = models.build("own_networks:Net", classes=2).model
    assert provenance.of(network).arch == "own_networks:Net"


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("own_networks.py:nothing", "It offers: .*fixed"),
        ("own_networks.py:INSTANCE", "not a function or class"),
        ("own_networks.py:number", "built int"),
        ("own_networks.py:broken", "ValueError: no such size"),
        ("own_networks.py:Net(depth=3)", "TypeError"),
        ("other.py:Net", "there is no file other.py"),
        ("no_such_module:Net", "importing no_such_module failed"),
        ("bad.py:Net", "running bad.py failed with ZeroDivisionError"),
    ],
)
def test_factory_that_does_not_work(factory, message, file):
    (file.parent / "bad.py").write_text("1 / 0")
    with pytest.raises(ArchitectureError, match=message):
        models.build(factory, **({"classes": 2} if "depth" in factory else {}))


def test_skeleton_takes_no_memory_and_no_random_numbers():
    before = torch.get_rng_state()
    network = building.skeleton(reference.parse("regnet_y_400mf"), {"num_classes": 3})
    assert all(tensor.is_meta for name, tensor in network.named_parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_attributes_of_another_kind_are_refused():
    network = nn.Sequential(nn.Conv2d(2, 3, 1, padding=(1, 1)))
    building.set_attributes(network, {"0": {"padding": [0, 0], "groups": 1}})
    assert network[0].padding == (0, 0)
    for path, name, value in [
        ("1", "groups", 1), ("0", "forward", 1), ("0", "nosuch", 1), ("0", "weight", 1), ("0", "groups", "1"),
        ("0", "padding", 3), ("0", "groups", True), ("0", "_parameters", {}), ("0", "groups", [1]),
    ]:  # fmt: skip
        with pytest.raises(ArchitectureError, match="no module|cannot be"):
            building.set_attributes(network, {path: {name: value}})


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 3)), (3, 64, 64)),  # as tresnet
        (nn.Conv2d(3, 8, 3), (3, 64, 64)),
        (nn.Conv2d(1, 8, 3), (1, 64, 64)),  # made for grey pictures
    ],
    ids=["pixels folded", "colour", "grey"],
)
def test_the_image_of_a_timm_network_is_the_one_it_is_configured_for(first, expected):
    first.pretrained_cfg = {"input_size": (3, 64, 64), "crop_pct": 0.95, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    known = provenance.of(models.as_network(first).model)
    assert known.input_shape == expected
    assert known.use.crop == 0.95
    assert (known.normalisation is not None) == (expected[0] == 3)


def test_a_network_whose_first_convolution_reads_no_pixels_is_believed_what_it_is_configured_for() -> None:
    """As csatv2, which makes 64 frequencies of three colours first."""
    net = nn.Conv2d(64, 8, 1)
    net.pretrained_cfg = {"input_size": (3, 64, 64), "first_conv": []}
    assert defaults.input_shape(None, net) == ((3, 64, 64), True)
    net.pretrained_cfg["first_conv"] = "conv"
    assert defaults.input_shape(None, net) == ((64, 64, 64), True)
