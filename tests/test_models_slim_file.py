"""The slim file: bit-exact, without pickle, whole or not at all, and never trusted."""

import copy
import dataclasses
import errno
import functools
import json
import os
import resource
import stat
import types

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import slimkit
from slimkit import models, provenance, zoo
from slimkit.errors import ArchitectureError, CheckpointError, OutputError
from slimkit.models import building, reference, slim_file
from slimkit.provenance import Masked, Narrowed, Provenance
from slimkit.surgery.factorise import factorise


def equal(one, two):
    """Compare everything a network holds, bit by bit."""
    tensors = [
        {**dict(n.named_parameters(remove_duplicate=False)), **dict(n.named_buffers(remove_duplicate=False))}
        for n in (one, two)
    ]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        other = tensors[1][name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        assert torch.equal(tensor, other), name
    assert one.state_dict().keys() == two.state_dict().keys()


def narrowed():
    """Cut channels 0 and 5 of one layer of a ResNet-8 by hand, as surgery does."""
    torch.manual_seed(0)
    network = models.build("zoo:resnet8", classes=3).model
    block, keep = network.layer1.get_submodule("0"), [i for i in range(16) if i not in (0, 5)]
    block.conv1.weight = nn.Parameter(block.conv1.weight[keep])
    block.conv2.weight = nn.Parameter(block.conv2.weight[:, keep])
    for name in ("weight", "bias"):
        setattr(block.bn1, name, nn.Parameter(getattr(block.bn1, name)[keep]))
    block.bn1.running_mean = torch.randn(14)
    block.bn1.running_var = torch.rand(14) + 0.5
    block.conv1.out_channels = block.conv2.in_channels = block.bn1.num_features = 14
    attributes = {
        "layer1.0.conv1": {"out_channels": 14},
        "layer1.0.conv2": {"in_channels": 14},
        "layer1.0.bn1": {"num_features": 14},
    }
    edit = Narrowed(kept={"layer1.0.conv1": keep}, attributes=attributes)
    known = dataclasses.replace(provenance.of(network), edits=(edit,))
    provenance.attach(network, known)
    return network.eval()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "slim.safetensors"
    models.save(narrowed(), path)
    return path


def test_narrow_network_comes_back_bit_by_bit(file):
    network, again = narrowed(), models.load_slim(file)
    equal(network, again)
    assert provenance.of(again) == provenance.of(network)
    assert repr(again) == repr(network)  # all widths
    assert not any(module.training for module in again.modules())
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)


def test_a_file_of_the_first_format(file):
    """It knew of narrowing only: attributes and passes side by side."""

    def older(fields):
        [edit] = fields.pop("edits")
        fields.update(format="slimkit.slim/1", attributes=edit["attributes"], passes=[edit["kept"]])

    again = models.load_slim(rewritten(file, older))
    equal(narrowed(), again)
    [edit] = provenance.of(again).edits
    assert edit.kept == {"layer1.0.conv1": [i for i in range(16) if i not in (0, 5)]}


def test_layers_that_were_made_two_and_narrowed_and_masked_come_back(tmp_path):
    network = factorise(narrowed(), {"layer1.0.conv2": 3, "fc": 2})
    thin = network.get_submodule("layer1.0.conv2")
    with torch.no_grad():
        thin[0].weight = nn.Parameter(thin[0].weight[:2])  # one of its three channels is removed
        thin[1].weight = nn.Parameter(thin[1].weight[:, :2])
        network.conv1.weight[:, :, 1:] = 0
    attributes = {"layer1.0.conv2.0": {"out_channels": 2}, "layer1.0.conv2.1": {"in_channels": 2}}
    thin[0].out_channels = thin[1].in_channels = 2
    known = provenance.of(network)
    edits = (Narrowed(kept={}, attributes=attributes), Masked(left={"conv1.weight": 48}, weights="trained"))
    provenance.attach(network, dataclasses.replace(known, edits=(*known.edits, *edits)))
    models.save(network, tmp_path / "slim")
    again = models.load_slim(tmp_path / "slim")
    equal(network, again)
    assert provenance.of(again) == provenance.of(network)
    assert repr(again) == repr(network)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(again(x), network.eval()(x), rtol=0, atol=0)


def test_thin_layers_of_another_rank_than_their_edit_says(tmp_path):
    models.save(factorise(narrowed(), {"fc": 2}), tmp_path / "slim")
    with pytest.raises(ArchitectureError, match="the weight of 'fc' is .2, 64., but .1, 64."):
        models.load(rewritten(tmp_path / "slim", lambda f: f["edits"][1].update(ranks={"fc": 1})))


def test_second_slimming(file, tmp_path):
    found = models.load(file)
    assert found.source == "slim file"
    known = provenance.of(found.model)
    twice = dataclasses.replace(known, edits=(*known.edits, Narrowed(kept={"fc": [1]})))
    provenance.attach(found.model, twice)
    models.save(found.model, tmp_path / "again")
    assert provenance.of(models.load_slim(tmp_path / "again")) == twice
    assert found.model.fc.weight.requires_grad


def test_same_network_same_bytes(file, tmp_path):
    models.save(models.load_slim(file), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_bias_that_folding_added(tmp_path):
    network = narrowed()
    network.conv1.bias = nn.Parameter(torch.randn(16))
    models.save(network, tmp_path / "slim")
    equal(network, models.load_slim(tmp_path / "slim"))


def test_metadata_that_mnasnet_reads_from_state_dicts(tmp_path):
    """MNASNet rebuilds its stem when `_metadata` lacks its version; the slim file does not go that way."""
    network = torchvision.models.mnasnet0_75(num_classes=2).eval()
    models.save(network, tmp_path / "slim")
    again = models.load_slim(tmp_path / "slim")
    equal(network, again)
    assert again._version == network._version
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)
    save_file(network.state_dict(), tmp_path / "state.safetensors")
    equal(network, models.load(tmp_path / "state.safetensors").model)


TIED = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.same_module = self.conv
        self.same_weight = nn.Conv2d(4, 4, 1, bias=False)
        self.same_weight.weight = self.conv.weight
        self.bare = nn.Parameter(torch.randn(4, 1, 1))
        self.register_buffer("count", torch.arange(4))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("hidden", torch.randn(4, 1, 1), persistent=False)
        self.register_buffer("none", None)
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("brief", torch.ones(2, dtype=torch.bfloat16))
        self.register_buffer("part_of_it", self.brief[:1])
        self.plain = torch.full((4, 1, 1), 0.25)

    def forward(self, x):
        x = self.same_module(self.same_weight(self.conv(x)))
        return x * self.bare + self.hidden + self.plain + self.count[:, None, None]
"""


def test_shared_integer_hidden_and_plain_tensors(tmp_path):
    (tmp_path / "tied.py").write_text(TIED)
    arch = f"{tmp_path / 'tied.py'}:Tied"
    network = building.create(reference.parse(arch), {}).eval()
    provenance.attach(network, Provenance(arch=arch))
    network.same_weight.weight.requires_grad_(False)
    models.save(network, tmp_path / "slim")
    assert "same_module.weight" not in load_file(tmp_path / "slim")
    again = models.load_slim(tmp_path / "slim", arch=arch)
    equal(network, again)
    assert again.same_weight.weight is again.conv.weight is again.same_module.weight
    assert again.brief.dtype is torch.bfloat16
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "swin_t"])
def test_torchvision_network_without_provenance_is_recognised(name, tmp_path):
    network = torchvision.models.get_model(name, weights=None, num_classes=2)
    before = copy.deepcopy(network.state_dict())
    models.save(network, tmp_path / "slim")
    again = models.load_slim(tmp_path / "slim")
    equal(network.eval(), again)
    assert provenance.of(again).arch == f"torchvision:{name}"
    assert provenance.of(network) == Provenance()  # the input is untouched
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def silu(network):
    network.layer1.get_submodule("0").add_module("act", nn.SiLU())


def without_norm(network):
    network.bn1 = nn.Identity()


def another_forward(network):
    network.forward = lambda x: x


def bound_forward(network):
    network.forward = types.MethodType(
        lambda self, x: self.fc(self.layer3(self.layer2(self.conv1(x))).mean((2, 3))), network
    )


def bound_inside(network):
    block = network.layer1[0]
    block.forward = types.MethodType(lambda self, x: self.bn2(self.conv2(self.bn1(self.conv1(x)))), block)


def partial_forward(network):
    network.forward = functools.partial(type(network).forward, network)


def called_object(network):
    class Twice:
        def __call__(self, x):
            return 2 * x

    network.bn1.forward = Twice()


OTHER_FORWARDS = [another_forward, bound_forward, bound_inside, partial_forward, called_object]


def stride(network):
    network.conv1.stride = (2, 2)


def eps(network):
    network.bn1.eps = 0.5


@pytest.mark.parametrize("change", [stride, eps])
def test_numbers_that_were_changed_since_the_network_was_made_are_in_the_file(change, tmp_path):
    network, x = narrowed(), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        before = network(x)
        change(network)
        wanted = network(x)
        assert not torch.equal(before, wanted)
        models.save(network, tmp_path / "slim")
        torch.testing.assert_close(models.load_slim(tmp_path / "slim")(x), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("change", [silu, without_norm, *OTHER_FORWARDS])
def test_layers_that_were_changed_since_the_network_was_made_cannot_be_saved_by_its_name(change, tmp_path):
    network = narrowed()
    change(network)
    with pytest.raises(ArchitectureError, match="no more those that zoo:resnet8 builds"):
        models.save(network, tmp_path / "slim")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", OTHER_FORWARDS)
def test_a_network_with_a_forward_of_its_own_is_no_known_one(change, tmp_path):
    network = zoo.resnet8(num_classes=3, in_channels=3).eval()
    models.save(network, tmp_path / "known")
    change(network)
    with pytest.raises(ArchitectureError, match="how to build it is not known"):
        models.save(network, tmp_path / "slim")
    images = torch.randn(2, 3, 8, 8)
    taken = models.as_network(network, (3, 8, 8)).model
    models.save(taken, tmp_path / "slim")
    torch.testing.assert_close(models.load_slim(tmp_path / "slim")(images), network(images))


class Flat(nn.Module):
    """More features than any other size of its tensors, and more samples."""

    def __init__(self, samples):
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 4, 3, padding=1), nn.Linear(4 * samples, 2)

    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))


def wide(width=20_000):
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU(), nn.Conv2d(width, 2, 1))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Flat(100_000), (1, 100_000)),
        (wide(), (3, 4, 4)),
        ({"num_classes": 0}, (3, 64, 64)),
        ({"num_classes": 0, "global_pool": ""}, (3, 64, 64)),
    ],
    ids=["long signal", "wide", "features", "maps of features"],
)
def test_sizes_that_networks_have_are_read_again(network, shape, tmp_path):
    if isinstance(network, dict):
        network = pytest.importorskip("timm").create_model("resnet10t", **network)
    network = models.as_network(network, shape).model
    if isinstance(network, nn.Sequential):
        provenance.attach(network, Provenance(arch="tests.test_models_slim_file:wide", arguments={"width": 20_000}))
    images = torch.randn(2, *shape)
    graph = slimkit.trace(network, images)
    slim = slimkit.remove(network, graph, slimkit.Mask(torch.arange(graph.units) % 4 != 3))
    models.save(slim, tmp_path / "slim")
    again = models.load_slim(tmp_path / "slim", provenance.of(slim).arch)
    torch.testing.assert_close(again(images), slim(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    "odd", [{"classes": 0}, {"normalisation": {"mean": [float("nan")], "std": [1.0]}}, {"input_shape": (3, 0, 8)}]
)
def test_what_could_not_be_read_again_is_not_written(odd, tmp_path):
    network = models.build("zoo:resnet8").model
    known = dataclasses.replace(provenance.of(network), **odd)
    provenance.attach(network, known)
    with pytest.raises(ArchitectureError, match="cannot save a network of .*: its description could not be read"):
        models.save(network, tmp_path / "slim")
    assert not list(tmp_path.iterdir())


def test_what_builds_nothing_is_not_saved_and_not_believed(tmp_path):
    network = narrowed()
    provenance.attach(network, dataclasses.replace(provenance.of(network), arguments={"no_such": 1}))
    with pytest.raises(ArchitectureError, match="no more those that zoo:resnet8 builds"):
        models.save(network, tmp_path / "slim")
    assert provenance.of(models.as_network(network).model).arch == "exported"


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda network: torch.compile(network, backend="eager")])
def test_what_is_inside_a_wrapper_is_saved(wrap, tmp_path):
    network = narrowed()
    models.save(wrap(network), tmp_path / "slim")
    equal(network, models.load_slim(tmp_path / "slim"))


def test_unknown_network_is_refused(tmp_path):
    with pytest.raises(ArchitectureError, match="how to build it is not known"):
        models.save(nn.Sequential(nn.Conv2d(1, 1, 1)), tmp_path / "slim")
    network = torchvision.models.squeezenet1_1(num_classes=2)
    provenance.attach(network, Provenance(edits=(Narrowed(kept={"a": [0]}),)))
    with pytest.raises(ArchitectureError, match="say it before slimming"):
        models.save(network, tmp_path / "slim")
    assert not list(tmp_path.iterdir())


def test_live_network():
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(num_classes=2).double().train()
    found = models.as_network(network, (3, 48, 48))
    assert provenance.of(found.model).arch == "torchvision:squeezenet1_1"
    assert provenance.of(found.model).input_shape == (3, 48, 48)
    assert not found.model.training
    assert found.model.features[0].weight.dtype is torch.float32
    assert network.training
    assert network.features[0].weight.dtype is torch.float64
    other = models.as_network(nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(12, 5)))
    known = provenance.of(other.model)
    assert (known.arch, known.classes, known.input_shape) == ("exported", 5, (2, 224, 224))
    assert provenance.of(models.as_network(narrowed()).model) == provenance.of(narrowed())


# Files from anywhere ---------------------------------------------------------------------------------------


def rewritten(file, change, digest=True):
    """Change the record of a slim file, with a digest that fits unless told otherwise."""
    from slimkit.models import metadata

    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        fields = json.loads(opened.metadata()["slimkit"])
    change(fields)
    if digest:
        fields.pop("digest", None)
        fields["digest"] = metadata.digest(fields, tensors)
    save_file(tensors, file, metadata={"slimkit": json.dumps(fields)})
    return file


def factorised(path, rank):
    return {"kind": "factorised", "ranks": {path: rank}}


def odd(fields, attributes):
    fields["edits"][0]["attributes"]["layer1.0.conv2"] = attributes
    fields["edits"].append(factorised("layer1.0.conv2", 1))


def plain(path, **said):
    return {"kind": "replaced", "layers": {path: said}}


CONV = {"kind": "Conv2d", "in_channels": 8, "out_channels": 8, "kernel_size": 3}


def masked(name, left):
    return {"kind": "masked", "left": {name: left}, "weights": "ticket"}


BAD = {
    "newer format": (lambda f: f.update(format="slimkit.slim/4"), "pip install -U slimkit"),
    "no arch": (lambda f: f.pop("arch"), "arch: it is missing"),
    "unknown field": (lambda f: f.update(run="os.system"), "run: there is no such field"),
    "shape of words": (lambda f: f.update(input_shape=["a", 1, 2]), "input_shape"),
    "negative index": (lambda f: f["edits"][0].update(kept={"a": [-1]}), "edits/0/kept"),
    "no classes": (lambda f: f.update(classes=0), "classes"),
    "unknown edit": (lambda f: f["edits"].append({"kind": "run"}), "edits.1"),
    "rank too high": (lambda f: f["edits"].append(factorised("layer1.0.conv2", 49)), "has 1 to 42"),
    "rank 0": (lambda f: f["edits"].append(factorised("layer1.0.conv2", 0)), "edits/1/ranks"),
    "layer that is none": (lambda f: f["edits"].append(factorised("layer1.0.bn1", 1)), "only Linear and Conv2d"),
    "no such layer": (lambda f: f["edits"].append(factorised("layer9", 1)), "no layer 'layer9'"),
    "whole network": (lambda f: f["edits"].append(factorised("", 1)), "whole network"),
    "thin layers that are whole": (lambda f: f["edits"].append(factorised("fc", 1)), "has changed since"),
    "groups that divide nothing": (lambda f: odd(f, {"groups": 3}), "cannot be two thin layers"),
    "no groups": (lambda f: odd(f, {"groups": 0}), "cannot be two thin layers"),
    "no layer of an odd name": (lambda f: f["edits"].append(factorised("a b", 1)), "no layer 'a b'"),
    "a layer with a name that moves the cursor": (
        lambda f: f["edits"].append(factorised("a\x1b[2J", 1)),
        r"a part named 'a\\x1b\[2J'",
    ),
    "a layer with a name that turns the text": (
        lambda f: f["edits"].append(factorised("a\u202e", 1)),
        r"a part named 'a\\u202e'",
    ),
    "a layer with a long name": (lambda f: f["edits"].append(factorised("a" * 201, 1)), "a part named 'a"),
    "attributes of an edit": (lambda f: odd(f, {"groups": 10**9}), "larger tensors than those in the file"),
    "plain layer of no kind": (
        lambda f: f["edits"].append(plain("layer1.0.conv2", kind="exec")),
        "Known: Linear, Conv1d",
    ),
    "plain layer without a kind": (lambda f: f["edits"].append(plain("layer1.0.conv2")), "Known: Linear, Conv1d"),
    "plain layer with a device": (
        lambda f: f["edits"].append(plain("layer1.0.conv2", **CONV, device="cuda")),
        "no layer that stores its weight is built by",
    ),
    "plain layer of odd numbers": (
        lambda f: f["edits"].append(plain("layer1.0.conv2", **CONV, groups=3)),
        "cannot be a plain layer",
    ),
    "plain layer with too few numbers": (
        lambda f: f["edits"].append(plain("layer1.0.conv2", kind="Conv2d")),
        "cannot be a plain layer",
    ),
    "plain layer of another size": (
        lambda f: f["edits"].append(plain("layer1.0.conv2", **CONV, bias=False)),
        "the weight of 'layer1.0.conv2' is",
    ),
    "plain layer of any size": (
        lambda f: f["edits"].append(plain("layer1.0.conv2", **CONV, stride=10**9)),
        "larger tensors than those in the file",
    ),
    "plain layer that is nowhere": (lambda f: f["edits"].append(plain("layer9", **CONV)), "no layer 'layer9'"),
    "plain layer of an odd name": (lambda f: f["edits"].append(plain("a\x1b[2J", **CONV)), "a part named 'a"),
    "mask of nothing": (lambda f: f["edits"].append(masked("fc.gamma", 1)), "no weight 'fc.gamma'"),
    "mask that did not hold": (lambda f: f["edits"].append(masked("fc.weight", 1)), "192 weights that are not 0"),
    "unknown arch": (lambda f: f.update(arch="zoo:resnet9"), "no such architecture"),
    "code": (
        lambda f: f.update(arch="os:system", arguments={"command": "true"}),
        "does not run on a file's word",
    ),
    "file": (lambda f: f.update(arch="/tmp/x.py:f"), "does not run on a file's word"),
    "download": (lambda f: f.update(arch="timm:hf-hub:a/b"), "no such architecture"),
    "weights": (
        lambda f: f.update(arch="torchvision:resnet18", arguments={"weights": "DEFAULT"}),
        "Leave it out",
    ),
    "arguments": (lambda f: f["arguments"].update(depth=3), "TypeError"),
    "method": (lambda f: f["edits"][0]["attributes"].update({"fc": {"forward": 1}}), "cannot be 1"),
    "module": (lambda f: f["edits"][0]["attributes"].update({"nosuch": {"groups": 1}}), "no module 'nosuch'"),
    "another network": (lambda f: f.update(arch="zoo:vgg8", edits=[]), "has changed since"),
}


ODD_NAMES = """
from torch import nn

def make():
    net = nn.Sequential(nn.Sequential(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    for width, name in zip((1, 16), NAMES):
        layer = nn.Sequential(nn.Conv2d(width, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        net[0].add_module(name, layer)
    return net
"""


@pytest.mark.parametrize("names", [("stage 1", "stage 2"), ("a/b", "c:d"), ("a+b", "(x)"), ("é", "漢")])
def test_parts_of_a_network_may_be_called_anything(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(f"NAMES = {names}\n{ODD_NAMES}", encoding="utf-8")
    net = models.build("own.py:make").model
    slim = slimkit.compress(net, torch.randn(1, 1, 8, 8), 0.5, recover=False, onnx=False, out=tmp_path / "out").model
    again = models.load_slim(tmp_path / "out" / "model.safetensors", arch="own.py:make")
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(again(x), slim(x))
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("case", BAD)
def test_record_is_checked(case, file):
    pytest.importorskip("timm")
    change, message = BAD[case]
    with pytest.raises((CheckpointError, ArchitectureError), match=message) as caught:
        models.load(rewritten(file, change))
    assert str(file) in str(caught.value) or "`arch" in str(caught.value)


def test_changed_record_or_tensors_are_noticed(file):
    rewritten(file, lambda fields: fields.update(classes=4), digest=False)
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        models.load_slim(file)


def test_missing_tensor(file):
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        fields = opened.metadata()
    del tensors["fc.bias"]
    save_file(tensors, file, metadata=fields)
    with pytest.raises(CheckpointError, match="was changed"):
        models.load_slim(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null"])
def test_record_that_is_no_json(text, file):
    save_file(load_file(file), file, metadata={"slimkit": text})
    with pytest.raises(CheckpointError, match="cannot be read"):
        models.load(file)


def test_other_files_are_no_slim_files(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        with pytest.raises(CheckpointError, match="slimkit.models.load"):
            models.load_slim(tmp_path / name)


def test_not_a_number_in_a_slim_file(tmp_path):
    network = narrowed()
    with torch.no_grad():
        network.fc.bias[1] = float("nan")
    models.save(network, tmp_path / "slim")
    with pytest.raises(CheckpointError, match="1 of 3 values of 'fc.bias' are NaN"):
        models.load(tmp_path / "slim")


# Writing ---------------------------------------------------------------------------------------------------


def test_permissions_follow_the_users_mask(tmp_path):
    before = os.umask(0o027)
    try:
        models.save(narrowed(), tmp_path / "slim")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "slim").stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", ["safetensors", "exported"])
def test_full_disk_leaves_what_was_there(kind, tmp_path):
    network = narrowed()
    if kind == "exported":
        provenance.attach(network, Provenance(arch="exported", input_shape=(1, 8, 8)))
    path = tmp_path / "slim"
    path.write_bytes(b"precious")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OutputError, match="disk has room"):
            models.save(network, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"precious"
    assert [each.name for each in tmp_path.iterdir()] == ["slim"]


def test_an_open_file_is_replaced_not_overwritten(file):
    before = file.read_bytes()
    network = narrowed()
    with torch.no_grad():
        network.fc.bias += 1
    with file.open("rb") as reader:
        models.save(network, file)
        assert reader.read() == before
    equal(network, models.load_slim(file))


def test_no_space_left(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(slim_file, "save_file", full)
    with pytest.raises(OutputError, match="No space left on device"):
        models.save(narrowed(), tmp_path / "slim")
    assert not list(tmp_path.iterdir())


def test_interrupted(tmp_path, monkeypatch):
    def interrupted(_, path, **__):
        path.write_bytes(b"brief")
        raise KeyboardInterrupt

    monkeypatch.setattr(slim_file, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        models.save(narrowed(), tmp_path / "slim")
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        models.save(narrowed(), tmp_path)
    with pytest.raises(OutputError, match="No such file"):
        models.save(narrowed(), tmp_path / "none" / "slim")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Not a directory"):
        models.save(narrowed(), tmp_path / "file" / "slim")
