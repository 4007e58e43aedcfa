"""Exported programs become trainable networks; nothing in them is run on loading."""

import builtins
import collections
import contextlib
import copy
import dataclasses
import io
import json
import os
import zipfile

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

import slimkit
from slimkit import models, provenance
from slimkit.channels.operators import OPERATORS
from slimkit.errors import ArchitectureError, CheckpointError
from slimkit.models import exported_check
from slimkit.models.exported_operators import admitted

FREE = ({0: Dim.DYNAMIC},)


class Shuffling(nn.Module):
    """What an exporter meets: squeeze-excite, shuffle, sharing, constants, dropout, norms without gamma."""

    def __init__(self, width=8, hidden=4, classes=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width, eps=1e-3))
        self.twice = nn.Conv2d(width, width, 3, padding="same", groups=2)
        self.plain = nn.BatchNorm2d(width, affine=False, momentum=0.2)
        self.squeeze, self.excite = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2, output_padding=1)
        self.drop = nn.Dropout(0.3)
        self.head = nn.ModuleDict({"fc-1": nn.Linear(width, classes)})
        self.scale = nn.Parameter(torch.full((1, 1, 1), 1.5))
        self.register_buffer("kept", torch.full((1,), 0.5))
        self.register_buffer("shift", torch.full((1,), 0.1), persistent=False)

    def forward(self, x):
        x = torch.relu(self.stem(x)) * self.scale + self.shift * self.kept
        n, c, h, w = x.shape
        x = self.plain(self.twice(self.twice(x)))
        weights = self.excite(torch.relu(self.squeeze(x.mean((2, 3)))))
        x = x * torch.sigmoid(weights).view(n, c, 1, 1).expand(n, c, h, w)
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = nn.functional.adaptive_avg_pool2d(self.up(x), 1)
        return self.head["fc-1"](nn.functional.dropout(self.drop(x.reshape(n, -1)), 0.2, self.training))


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    network = Shuffling()
    for norm in (network.stem[1], network.plain):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return network.eval()


def exported(network, path, free=True, batch=2, train=False, decompose=False, size=8):
    network = copy.deepcopy(network).train(train)
    program = torch.export.export(network, (torch.randn(batch, 3, size, size),), dynamic_shapes=FREE if free else None)
    if decompose:
        program = program.run_decompositions({})
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def file(dense, tmp_path_factory):
    return exported(dense, tmp_path_factory.mktemp("exported") / "net.pt2")


def test_modules_are_back_at_their_paths(dense, file):
    found = models.load(file)
    assert found.source == "exported program"
    network = found.model
    before = dict(dense.named_modules())
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.ConvTranspose2d, nn.Dropout)
    for path, module in before.items():
        if isinstance(module, kinds):
            after = network.get_submodule(path)
            assert type(after) is type(module)
            assert after.extra_repr() == module.extra_repr(), path
    assert network.state_dict().keys() == dense.state_dict().keys()
    for name, tensor in dense.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    assert {name for name, _ in network.named_parameters()} == {name for name, _ in dense.named_parameters()}
    assert not any(module.training for module in network.modules())
    assert [node.target for node in network.graph.nodes if node.op == "call_module"].count("twice") == 2
    known = provenance.of(network)
    assert (known.arch, known.input_shape, known.classes) == ("exported", (3, 8, 8), 3)
    assert any("normalisation" in line for line in found.assumptions)


@pytest.mark.parametrize(("free", "train"), [(True, False), (False, False), (False, True)])
def test_same_function_for_every_batch(free, train, dense, tmp_path):
    network = models.load(exported(dense, tmp_path / "net", free, train=train)).model
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(network(x), dense(x), rtol=1e-5, atol=1e-6)


def test_decomposed_program(dense, tmp_path):
    network = models.load(exported(dense, tmp_path / "net", decompose=True)).model
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(network(x), dense(x), rtol=1e-5, atol=1e-6)
    assert isinstance(network.get_submodule("stem.1"), nn.BatchNorm2d)
    assert isinstance(network.get_submodule("twice"), nn.Conv2d)


def test_it_trains(dense, file):
    network = models.load(file).model.train()
    twin = copy.deepcopy(dense).train()
    x = torch.randn(6, 3, 8, 8)
    for module in (network, twin):
        for dropout in module.modules():
            if isinstance(dropout, nn.Dropout):
                dropout.p = 0.0
    twin.training = False  # only the functional dropout reads it
    loss, other = network(x).square().sum(), twin(x).square().sum()
    loss.backward()
    other.backward()
    torch.testing.assert_close(loss, other)
    gradients = dict(twin.named_parameters())
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-5)
    assert network.get_submodule("stem.1").num_batches_tracked == 1
    torch.testing.assert_close(network.get_submodule("stem.1").running_mean, twin.stem[1].running_mean)


def test_shapes_follow_a_narrower_network(dense, file):
    """Half the channels by hand: views and expansions have no width written into them any more."""
    network = copy.deepcopy(models.load(file).model)
    narrow = Shuffling(width=4)
    state = narrow.state_dict()
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        owner = network.get_submodule(path)
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(tensor.clone())
        else:
            owner._buffers[leaf] = tensor.clone()
    network.twice.groups = 2
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(network(x), narrow.eval()(x), rtol=1e-5, atol=1e-6)


def test_copies_keep_their_provenance(file):
    network = models.load(file).model
    assert provenance.of(copy.deepcopy(network)) == provenance.of(network)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(copy.deepcopy(network)(x), network(x), rtol=0, atol=0)


def test_saved_again_as_exported_program(dense, file, tmp_path):
    network = models.load(file).model
    known = provenance.of(network)
    slimmed = provenance.Provenance(**{**vars(known), "edits": (provenance.Narrowed(kept={"stem.0": [0, 2]}),)})
    provenance.attach(network, slimmed)
    path = tmp_path / "slim.pt2"
    models.save(network, path)
    again = models.load_slim(path)
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(again(x), dense(x), rtol=1e-5, atol=1e-6)
    assert provenance.of(again) == slimmed
    found = models.load(path)
    assert found.source == "slim file"
    assert provenance.of(found.model) == slimmed
    assert {name for name, _ in again.named_parameters()} == {name for name, _ in dense.named_parameters()}
    for name, tensor in dense.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    with pytest.raises(CheckpointError, match="not a file written by slimkit.save"):
        models.load_slim(file)


def test_network_that_cannot_be_exported(tmp_path):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else -self.conv(x)

    network = models.as_network(Branches(), (3, 4, 4)).model
    with pytest.raises(ArchitectureError, match="cannot export Branches"):
        models.save(network, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, y):
        return self.b(self.a(x) + self.a(y))


@pytest.mark.parametrize(
    ("net", "given", "shape"),
    [
        (nn.Linear(3, 2), (torch.randn(2, 3),), (3,)),
        (nn.Conv1d(3, 2, 3), (torch.randn(2, 3, 40),), (3, 40)),
        (nn.Conv3d(3, 2, 3), (torch.randn(2, 3, 4, 5, 6),), (3, 4, 5, 6)),
        (Both(), (torch.randn(2, 3), torch.randn(2, 3)), None),
    ],
    ids=["vectors", "signals", "volumes", "two inputs"],
)
def test_networks_that_are_not_of_images(net, given, shape, tmp_path):
    free = tuple({0: torch.export.Dim.DYNAMIC} for _ in given)
    torch.export.save(torch.export.export(net.eval(), given, dynamic_shapes=free), tmp_path / "net.pt2")
    found = models.load(tmp_path / "net.pt2").model
    assert provenance.of(found).input_shape == shape
    torch.testing.assert_close(found(*given), net(*given))


def test_a_program_without_a_batch(tmp_path):
    program = torch.export.export(nn.ReLU(), (torch.randn(3),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(CheckpointError, match="a tensor of 1 dimensions"):
        models.load(tmp_path / "net.pt2")


class Around(nn.Module):
    """A convolution, something around what it makes, and a linear layer."""

    def __init__(self, something):
        super().__init__()
        self.conv, self.out, self.something = nn.Conv2d(3, 16, 3), nn.Linear(16, 5), something
        self.scale, self.token = nn.Parameter(torch.rand(16)), nn.Parameter(torch.rand(1, 1, 16))

    def forward(self, x):
        return self.out(self.something(self, self.conv(x)).mean((2, 3)))


def with_token(net, y):
    tokens = y.flatten(2).transpose(1, 2).reshape(y.shape[0], -1, 16)
    tokens = torch.cat([net.token.expand(y.shape[0], -1, -1), tokens], 1)
    return tokens.transpose(1, 2).unsqueeze(-1)


OF_ONE = {
    "a scale that is viewed": lambda net, y: y * net.scale.view(1, -1, 1, 1),
    "a scale that is computed": lambda net, y: y * (net.scale + 1e-5).rsqrt().reshape(1, 16, 1, 1),
    "a token and views of images": with_token,
    "a gate that is viewed": lambda net, y: y * y.mean((2, 3)).view(y.shape[0], 16, 1, 1).sigmoid(),
    "channels viewed and expanded": lambda net, y: y + net.scale.view(1, 16, 1, 1).expand(y.shape[0], -1, 1, 1),
}


@pytest.mark.parametrize("name", OF_ONE)
def test_a_program_of_one_image_takes_any_batch(name, tmp_path):
    torch.manual_seed(0)
    net = Around(OF_ONE[name]).eval()
    read = models.load(exported(net, tmp_path / "net.pt2", free=False, batch=1)).model
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(read(x), net(x))


def test_batch_size_that_is_built_in(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return (x.flatten() * torch.arange(x.numel())).view(2, -1).sum(1, keepdim=True)

    torch.export.save(torch.export.export(Fixed(), (torch.randn(2, 3, 4, 4),)), tmp_path / "net.pt2")
    with pytest.raises(CheckpointError, match="batches of 2 only"):
        models.load(tmp_path / "net.pt2")


def test_stochastic_depth_frozen_in_training_mode(tmp_path):
    from torchvision.ops import StochasticDepth

    network = nn.Sequential(nn.Conv2d(3, 2, 1), StochasticDepth(0.5, "row"))
    with pytest.raises(CheckpointError, match="draws random numbers"):
        models.load(exported(network, tmp_path / "net.pt2", train=True))


class Reader(nn.Module):
    """Signals, convolved and read by a recurrent layer."""

    def __init__(self, kind, **settings):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(1, 8, 5, 2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 6, 3))
        self.reader = kind(6, 5, batch_first=True, **settings)
        self.head = nn.LazyLinear(3)

    def forward(self, x):
        return self.head(self.reader(self.stem(x).transpose(1, 2))[0][:, -1])


RECURRENT = {
    "LSTM": (nn.LSTM, {}),
    "LSTM, two layers, both ways, projected": (nn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
    "GRU without biases": (nn.GRU, {"bias": False}),
    "RNN of ReLUs": (nn.RNN, {"nonlinearity": "relu"}),
    "RNN, dropout": (nn.RNN, {"num_layers": 2, "dropout": 0.25}),
}


def recurrent(kind):
    torch.manual_seed(0)
    kind, settings = RECURRENT[kind]
    net = Reader(kind, **settings)
    net(torch.randn(2, 1, 40))
    return net.eval()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_layers_are_modules_again(kind, tmp_path):
    net = recurrent(kind)
    result = slimkit.compress(net, torch.randn(1, 1, 40), 0.5, out=tmp_path / "slim", recover=False)
    again = models.load_slim(tmp_path / "slim" / "model.pt2")
    images = torch.randn(5, 1, 40)
    torch.testing.assert_close(again(images), result.model(images))
    assert isinstance(again.reader, RECURRENT[kind][0]) and again.reader.dropout == net.reader.dropout
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in net.parameters())
    again.train()(images).square().sum().backward()
    assert all(p.grad is not None for p in again.parameters())
    slimkit.compress(again.eval(), torch.randn(1, 1, 40), 0.5, out=tmp_path / "slimmer", recover=False)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_recurrent_operators_over_packed_sequences_are_not_read(kind):
    """They are no layers whose weights could be held against their shapes."""
    assert admitted(f"torch.ops.aten.{kind}.input") and not admitted(f"torch.ops.aten.{kind}.data")


@pytest.mark.filterwarnings("ignore:The tensor attributes self")
@pytest.mark.parametrize("cut", [slice(4), 0, (0, 0)], ids=["short", "row", "number"])
@pytest.mark.parametrize("name", ["weight_ih_l0", "bias_hh_l0"])
def test_recurrent_weights_of_other_shapes_are_refused(name, cut, tmp_path):
    """The operator would read beyond them."""
    net = recurrent("LSTM")
    cut = 0 if cut == (0, 0) and name.startswith("bias") else cut
    program = torch.export.export(net, (torch.randn(2, 1, 40),), dynamic_shapes=FREE)
    short = torch.zeros_like(program.state_dict[f"reader.{name}"])[cut].clone()
    program._state_dict[f"reader.{name}"] = nn.Parameter(short)
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(CheckpointError, match="lstm.input are not those of one torch.nn layer"):
        models.load(tmp_path / "net.pt2")


@pytest.mark.parametrize("change", ["short", "another type"])
def test_weight_norms_of_other_shapes_are_refused(change, tmp_path):
    """The operator would write beyond them."""
    net = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 1)).eval()
    program = torch.export.export(net, (torch.randn(2, 3, 8, 8),), dynamic_shapes=FREE)
    name = "parametrizations.weight.original0"
    size = program.state_dict[name].detach()
    other = {"short": size[:2].clone(), "another type": size.half()}
    program._state_dict[name] = nn.Parameter(other[change])
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(CheckpointError, match="weights of aten._weight_norm.default do not fit each other"):
        models.load(tmp_path / "net.pt2")


class Frozen(nn.Module):
    """Returns what parts without gradients and autocast make, and its input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        with torch.no_grad():
            y = self.a(x).relu()
        z = self.b(y)
        with torch.autocast("cpu", enabled=False):
            w = z.mean((2, 3))
            v = w * 2
        return z, w, v, x


@pytest.mark.parametrize("road", ["read", "written"])
def test_parts_of_a_network_may_run_without_gradients(road, tmp_path):
    net, x = Frozen().eval(), torch.randn(2, 3, 8, 8)
    if road == "read":
        again = models.load(exported(net, tmp_path / "net.pt2")).model
    else:
        models.save(models.as_network(net).model, tmp_path / "net.pt2", x)
        again = models.load(tmp_path / "net.pt2").model
    for one, two in zip(again(x), net(x), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    again(x)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


def test_a_part_under_an_autocast_that_is_on_is_not_read(tmp_path):
    class Low(nn.Sequential):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    with pytest.raises(CheckpointError, match="a part of it runs under autocast"):
        models.load(exported(Low(nn.Conv2d(3, 2, 1)), tmp_path / "net.pt2"))


# Fused operators that a network runs into on one device, or that others become inside of torch, and one that is unsafe.
NOT_EXPORTED = {
    "cudnn_batch_norm", "miopen_batch_norm", "_fused_rms_norm", "rrelu_with_noise", "rrelu_with_noise_",
    "_reshape_alias", "as_strided", "as_strided_", "_local_scalar_dense", "mkldnn_rnn_layer",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
}  # fmt: skip


def test_whatever_can_be_cut_can_be_read_from_a_file():
    def read(packet):
        name = str(packet).removeprefix("aten.")
        return any(admitted(f"torch.ops.aten.{name}.{overload}") for overload in packet.overloads())

    assert {str(packet).removeprefix("aten.") for packet in OPERATORS if not read(packet)} == NOT_EXPORTED


class Head(nn.Module):
    """Two convolutions, something in between, and a classifier."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3), nn.Linear(8, 3)
        self.between = between

    def forward(self, x):
        return self.head(self.b(self.between(self.a(x))).relu().mean((2, 3)))


WAVES = {
    "dropouts in place": nn.Sequential(
        nn.Dropout2d(inplace=True), nn.AlphaDropout(inplace=True), nn.FeatureAlphaDropout(inplace=True)
    ),
    "rrelu": nn.RReLU(),
    "spectrum": lambda x: x + torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=x.shape[-2:]),
    "unpooling": lambda x: nn.functional.max_unpool2d(*nn.functional.max_pool2d(x, 2, return_indices=True), 2),
    "a grid": lambda x: nn.functional.grid_sample(
        x, torch.linspace(-1, 1, 128).reshape(1, 8, 8, 2).expand(x.shape[0], 8, 8, 2), align_corners=False
    ),
}  # fmt: skip


def without_gradients(x):
    with torch.no_grad():
        y = x.relu()
    with torch.autocast("cpu", enabled=False), torch.no_grad():
        y = y * torch.sigmoid(y.float())
    return x + y, y.mean()


WAVES |= {
    "parts without gradients or autocast": lambda x: sum(without_gradients(x)),
    "a median": lambda x: x - x.flatten(2).median(2)[0][:, :, None, None],
    "a rank": lambda x: x - x.flatten(2).kthvalue(3, 2)[0][:, :, None, None],
    "masks of two conditions": lambda x: x * ((x > 0) & (x < 1)) + x * ((x < -1) | (x > 2)),
    "complex numbers": lambda x: torch.complex(x, 2 * x).abs(),
    "weight norm": nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 1)),
}


class Cells(nn.Module):
    """Rows of a map, read one after the other."""

    def __init__(self, kind):
        super().__init__()
        self.cell = kind(16, 16)

    def forward(self, x):
        state = None
        for row in x.mean(3).unbind(2)[:3]:
            state = self.cell(row, state)
        state = state[0] if isinstance(state, tuple) else state
        return x * state[:, :, None, None]


WAVES |= {kind.__name__: Cells(kind) for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)}


@pytest.mark.long
@pytest.mark.parametrize("name", WAVES)
def test_what_is_computed_between_is_written_and_read(name, tmp_path):
    net, image = Head(WAVES[name]).eval(), torch.randn(1, 3, 8, 8)
    result = slimkit.compress(net, image, 0.5, out=tmp_path / "slim", onnx=False)
    again = models.load_slim(tmp_path / "slim" / "model.pt2")
    images = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(again(images), result.model(images))


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    table, ends = torch.ones(5, 4), torch.tensor([0])
    bag = lambda x: x + nn.functional.embedding_bag(torch.tensor([1, 2]), table, ends).mean()  # noqa: E731
    net = Head(bag).eval()  # of no rule, and of no file
    with pytest.raises(ArchitectureError, match="(?s)cannot export Head: this exported program has .*bag.*arch="):
        models.save(models.as_network(net, (3, 8, 8)).model, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


class Noisy(nn.Module):
    def __init__(self, noise):
        super().__init__()
        self.conv, self.noise = nn.Conv2d(3, 2, 1), noise

    def forward(self, x):
        return self.noise(self.conv(x))


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        (lambda x: nn.functional.dropout(x, 0.5, True), "does what others do in training .aten.dropout.default"),
        (lambda x: x + torch.randn_like(x), "draws random numbers .aten.randn_like.default"),
    ],
    ids=["dropout", "noise"],
)
def test_random_numbers_in_eval_mode(noise, said, tmp_path):
    with pytest.raises(ArchitectureError, match=f"(?s)cannot export Noisy: .*{said}.*arch="):
        models.save(models.as_network(Noisy(noise).eval(), (3, 4, 4)).model, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


class Parts(nn.Module):
    """Modules whose parts are read by a function of one's own."""

    def __init__(self, compute):
        super().__init__()
        self.a, self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)
        self.linear, self.norm, self.other = nn.Linear(8, 8), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.frozen = nn.Module()
        self.frozen.register_buffer("weight", torch.randn(8, 8, 1, 1))
        self.named = nn.Module()
        self.named.weight = nn.Parameter(torch.randn(8, 8, 1, 1))
        self.named.register_buffer("stride", torch.ones(1))
        self.compute = compute

    def forward(self, x):
        return self.head(self.compute(self, self.a(x)).relu().mean((2, 3)))


def by_last(function):
    return lambda net, x: function(net, x.movedim(1, -1)).movedim(-1, 1)


def normed(net, x, mean="norm", var="norm", weight="norm", bias="norm"):
    of = net.get_submodule
    given = (of(weight).weight if weight else None, of(bias).bias if bias else None)
    return F.batch_norm(x, of(mean).running_mean, of(var).running_var, *given)


PARTS = {
    "convolution without its bias": lambda net, x: F.conv2d(x, net.conv.weight, padding=1),
    "and with it": lambda net, x: F.conv2d(x, net.conv.weight, padding=1) - 2 * net.conv(x),
    "with it, and without": lambda net, x: 2 * net.conv(x) - F.conv2d(x, net.conv.weight, padding=1),
    "transposed convolution": lambda net, x: F.conv_transpose2d(x, net.conv.weight),
    "another's bias": lambda net, x: F.conv2d(x, net.conv.weight, net.linear.bias),
    "linear without its bias": by_last(lambda net, x: F.linear(x, net.linear.weight)),
    "tied": by_last(lambda net, x: F.linear(net.linear(x), net.linear.weight.t())),
    "one row": lambda net, x: net.conv(x * F.linear(x.movedim(1, -1), net.linear.bias)[:, None]),
    "statistics alone": lambda net, x: normed(net, x, weight=None, bias=None),
    "norm without beta": lambda net, x: normed(net, x, bias=None),
    "norm without gamma": lambda net, x: normed(net, x, weight=None),
    "another's mean": lambda net, x: normed(net, x, mean="other"),
    "another's variance": lambda net, x: normed(net, x, var="other"),
    "another's gamma": lambda net, x: normed(net, x, weight="other"),
    "another's beta": lambda net, x: normed(net, x, bias="other"),
    "a buffer's weight": lambda net, x: F.conv2d(x, net.frozen.weight),
    "beside a name of the module": lambda net, x: (
        F.conv2d(x, net.named.weight * net.named.stride) + F.conv2d(x, net.named.weight)
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_module_that_is_read_computes_what_the_operator_did(part, tmp_path):
    """A module around the weights would read all that is held beside them."""
    torch.manual_seed(0)
    net = Parts(PARTS[part]).eval()
    for norm in (net.norm, net.other):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 2)
    read = models.load(exported(net, tmp_path / "net.pt2")).model
    images = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(read(images), net(images))
    graph = slimkit.trace(read, images)
    slim = slimkit.remove(read, graph, slimkit.Mask(torch.arange(graph.units) % 8 != 3))
    models.save(slim, tmp_path / "slim.pt2")
    torch.testing.assert_close(models.load_slim(tmp_path / "slim.pt2")(images), slim(images))


def test_arch_does_not_apply(file):
    with pytest.raises(ArchitectureError, match="brings its own architecture"):
        models.load(file, arch="resnet18")


# Safety ----------------------------------------------------------------------------------------------------


class Opens:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return builtins.open, (self.path, "w")


def changed(source, target, change):
    """Write a copy of an archive, its members passed through `change(name, content)`."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as written:
        for member in archive.infolist():
            content = change(member.filename.partition("/")[2], archive.read(member))
            if content is not None:
                written.writestr(member.filename, content)
        root = member.filename.partition("/")[0]
        for name, content in (change(None, None) or {}).items():
            written.writestr(name.replace("ROOT", root), content)
    return target


def pickled(path):
    buffer = io.BytesIO()
    torch.save({"x": Opens(path)}, buffer)
    return buffer.getvalue()


def edited(edit):
    """Make a change that edits the program's JSON."""

    def change(name, content):
        if name != "models/model.json":
            return content
        program = json.loads(content)
        edit(program)
        return json.dumps(program)

    return change


def symbolic(victim):
    """Replace the size of the batch by an expression that sympy would evaluate."""

    def edit(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "expr_str":
                    value[key] = f"open({victim!r}, 'w')"
                edit(inner)
        elif isinstance(value, list):
            for inner in value:
                edit(inner)

    return edit


def use_pickle(victim):
    def change(name, content):
        if name == "data/weights/weight_0":
            return pickled(victim)
        if name == "data/weights/model_weights_config.json":
            config = json.loads(content)
            next(iter(config["config"].values()))["use_pickle"] = True
            return json.dumps(config)
        return content

    return change


def opaque(victim):
    import pickle

    def change(name, content):
        if name is None:
            return {"ROOT/data/constants/opaque_obj_0": pickle.dumps(Opens(victim))}
        if name == "data/constants/model_constants_config.json":
            entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
            return json.dumps({"config": {"evil": entry}})
        return content

    return change


def samples(victim):
    return lambda name, content: pickled(victim) if name == "data/sample_inputs/model.pt" else content


def added(member, content="x"):
    return lambda victim: lambda name, old: {member: content} if name is None else old


def first_target(target):
    def edit(program):
        program["graph_module"]["graph"]["nodes"][0]["target"] = target

    return lambda victim: edited(edit)


def input_name(name):
    def edit(program):
        program["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"] = name

    return lambda victim: edited(edit)


def argument_name(name):
    def edit(program):
        program["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [name]

    return lambda victim: edited(edit)


def keyword_name(name):
    def edit(program):
        call = program["graph_module"]["module_call_graph"][0]["signature"]
        call["in_spec"] = call["in_spec"].replace('"[]"', json.dumps(json.dumps([name])))

    return lambda victim: edited(edit)


def specification(kind):
    def edit(program):
        call = program["graph_module"]["module_call_graph"][0]["signature"]
        call["out_spec"] = call["out_spec"].replace("null", json.dumps(kind), 1)

    return lambda victim: edited(edit)


ATTACKS = {
    "pickled weight": use_pickle,
    "pickled constant": opaque,
    "pickled sample": samples,
    "expression": lambda victim: edited(symbolic(victim)),
    "machine code": added("ROOT/data/aotinductor/model/a.so"),
    "second reading": added("version", "1"),
    "two of a name": added("ROOT/models/MODEL.json", "{}"),
    "unknown member": added("ROOT/other/x.py"),
    "operator": first_target("torch.hub.load"),
    "operator of os": first_target("torch.os.system"),
    "method": first_target("_operator.methodcaller"),
    "file": first_target("torch.ops.aten.from_file.default"),
    "inner attribute": first_target("torch.ops.aten.conv2d.__globals__"),
    "library": first_target("torch.ops.load_library"),
    "memory": first_target("torch.ops.aten._reshape_alias.default"),
    "storage": first_target("torch.ops.aten.set_.source_Tensor"),
    "stride": first_target("torch.ops.aten.as_strided.default"),
    "writes a file": first_target("torch.ops.aten.save.default"),
    "factorial": first_target("math.factorial"),
    "name as code": input_name("x=__import__('os').system('true')"),
    "argument as code": argument_name("x=__import__('os').system('true')"),
    "keyword as code": keyword_name("x=__import__('os').system('true')"),
    "type": specification("collections.namedtuple"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_malicious_program_is_refused_and_not_run(attack, file, tmp_path, recwarn):
    victim = tmp_path / "created"
    path = changed(file, tmp_path / "net.pt2", ATTACKS[attack](str(victim)))
    before = dict(os.environ)
    by_torch = {"machine code": "AOTInductor", "second reading": "damaged"}
    unread = attack == "pickled sample"  # example inputs are left out before torch reads the program
    refused = pytest.raises(CheckpointError, match=by_torch.get(attack, "could run code"))
    with contextlib.nullcontext() if unread else refused:
        models.load(path)
    assert not victim.exists()
    assert dict(os.environ) == before


class Archive:
    """An archive of given members, all of them empty tables."""

    def __init__(self, *names):
        self.names = names

    def get_file_names(self):
        return list(self.names)

    def read_string(self, name):
        return "{}"


def test_members_that_only_one_reader_sees():
    names = ["models/model.json", "archive_format"]
    inside = [f"net/{name}" for name in names]
    assert exported_check.objection(Archive(*names), inside) is None
    assert exported_check.objection(Archive(*names), [*inside, "version"]) == "members outside its folder"
    assert exported_check.objection(Archive(*names), inside[:1]) == "members outside its folder"
    assert "same name" in exported_check.objection(Archive(*names, "models/Model.json"), inside)


@pytest.mark.parametrize("attack", ["pickled weight", "pickled constant", "expression"])
def test_the_attack_works_without_the_checks(attack, file, tmp_path, recwarn):
    """So that the test above tests something; torch may close these doors, then this test may go."""
    victim = tmp_path / "created"
    path = changed(file, tmp_path / "net.pt2", ATTACKS[attack](str(victim)))
    with contextlib.suppress(Exception):
        torch.export.load(path)
    assert victim.exists()


@pytest.mark.parametrize(
    "text",
    ["s0", "s77 + 1", "2*s0 - 1", "Symbol('s77', positive=True, integer=True)", "Max(1, FloorDiv(s0, 2))",
     "Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(-1))", "s0//2 >= 3"],
)  # fmt: skip
def test_sizes_as_torch_writes_them(text):
    assert exported_check._SYMBOLIC.fullmatch(text)


@pytest.mark.parametrize(
    "text",
    ["open('x')", "s0.__class__", "__import__", "Symbol('s0', x=open)", "lambda: 0", "eval(s0)", "s0[0]",
     "'a'", "Symbol(\"s0\")", "Symbol('__import__')", "exec", "9" * 5000 + "x", "getattr(s0, s1)"],
)  # fmt: skip
def test_sizes_that_torch_never_writes(text):
    assert not exported_check._SYMBOLIC.fullmatch(text)


def test_damaged_program(file, tmp_path):
    whole = file.read_bytes()
    path = tmp_path / "net.pt2"
    wanted = models.load(file).model.state_dict()
    refused = 0
    for place in range(1000, len(whole), len(whole) // 12):
        path.write_bytes(whole[:place])
        with pytest.raises(CheckpointError):
            models.load(path)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        try:
            found = models.load(path).model.state_dict()
        except CheckpointError:
            refused += 1
        else:  # between the members of a zip lies padding that nothing reads
            assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert refused > 6


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] | None = None
    missing: torch.Tensor | None = None


class Answering(nn.Module):
    """Returns an object, as networks of transformers do."""

    def __init__(self, kind):
        super().__init__()
        self.body, self.head, self.kind = nn.Conv2d(3, 16, 3), nn.Linear(16, 3), kind

    def forward(self, x):
        logits = self.head(self.body(x).relu().mean((2, 3)))
        return self.kind(logits=logits, hidden=(logits.sigmoid(), 2 * logits))


torch.utils._pytree.register_dataclass(Answer, serialized_type_name="slimkit.tests.Answer")


@pytest.mark.parametrize("kind", [Answer, dict, collections.OrderedDict])
def test_objects_that_a_network_returns_are_dicts_in_its_file(kind, tmp_path):
    result = slimkit.compress(Answering(kind).eval(), torch.randn(1, 3, 8, 8), 0.5, out=tmp_path / "slim")
    again = models.load_slim(tmp_path / "slim" / "model.pt2")
    images = torch.randn(5, 3, 8, 8)
    wanted, found = result.model(images), again(images)
    wanted = vars(wanted) if kind is Answer else wanted
    torch.testing.assert_close(found["logits"], wanted["logits"])
    torch.testing.assert_close(found["hidden"], wanted["hidden"])
    assert isinstance(result.model(images), kind) and "missing" not in found
