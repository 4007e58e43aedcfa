"""The ONNX file as a whole: checked, complete, the same each time, and nothing left where it fails."""

import copy
import errno
import json
import resource
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import slimkit
from slimkit.errors import EngineError, OutputError, TraceError
from slimkit.example import tensors
from slimkit.export import direct, export_onnx, general
from slimkit.export.arithmetic import unary
from slimkit.export.file import OnnxModel, varint


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)
    )


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return {"out": self.first(x), "aux": self.second(x)}


class Cumulative(nn.Module):
    """An operator that the direct road has no rule for."""

    def forward(self, x):
        return x.cumsum(1)


def infer(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(array) for array in session.run(None, {"input": images.numpy()})]


def test_the_file_computes_the_network_at_any_batch(tmp_path):
    model = network()
    export_onnx(model, tmp_path / "net.onnx", torch.randn(1, 3, 6, 6))
    images = torch.randn(5, 3, 6, 6)
    torch.testing.assert_close(infer(tmp_path / "net.onnx", images)[0], model.eval()(images).detach())
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_the_file_says_what_goes_in_and_out_and_nothing_of_this_machine(tmp_path):
    path = tmp_path / "net.onnx"
    export_onnx(network(), path, torch.randn(2, 3, 6, 6), {"arch": "zoo:test", "classes": "5"})
    proto = onnx.load(path)
    assert [i.name for i in proto.graph.input] == ["input"]
    assert [o.name for o in proto.graph.output] == ["output"]
    dims = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, 6, 6]
    found = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(found.pop("usage"))["inputs"] == [
        {"name": "input", "layout": "NCHW", "shape": [3, 6, 6], "dtype": "float32", "proven": None}
    ]
    assert json.loads(found.pop("returned")) == {"output": 0}
    assert found == {"arch": "zoo:test", "classes": "5", "slimkit": slimkit.__version__}
    assert (proto.producer_name, proto.opset_import[0].version) == ("slimkit", 18)
    assert_anonymous(path)


def assert_anonymous(path):
    content = path.read_bytes()
    for trace in (b".py", b"site-packages", str(Path.home()).encode() + b"/", b"stack_trace", b"pkg.torch"):
        assert trace not in content, trace


def test_the_same_network_gives_the_same_bytes(tmp_path):
    model, example = network(), torch.randn(1, 3, 6, 6)
    for name in ("a", "b"):
        export_onnx(copy.deepcopy(model), tmp_path / name, example)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_network_is_left_as_it_was(tmp_path):
    model = network().train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    fits, does_not = torch.randn(1, 3, 6, 6), torch.randn(1, 4, 6, 6)
    random = torch.random.get_rng_state()
    export_onnx(model, tmp_path / "net.onnx", fits)
    with pytest.raises(TraceError):
        export_onnx(model, tmp_path / "net.onnx", does_not)
    assert [m.training for m in model.children()] == [True, False, True, True, True]
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_several_outputs_keep_their_order(tmp_path):
    model = TwoHeads()
    export_onnx(model, tmp_path / "net.onnx", torch.randn(1, 3, 4, 4))
    images = torch.randn(2, 3, 4, 4)
    names = [o.name for o in onnx.load(tmp_path / "net.onnx").graph.output]
    assert names == ["out", "aux"]
    for found, expected in zip(infer(tmp_path / "net.onnx", images), model(images).values(), strict=True):
        torch.testing.assert_close(found, expected.detach())


Named = namedtuple("Named", "logits maps")


class Returns(nn.Module):
    """Two tensors, in whatever they are put; modules and a parameter have names that outputs may have too."""

    def __init__(self, shape):
        super().__init__()
        self.maps, self.logits, self.shape = nn.Conv2d(3, 4, 1), nn.Linear(4, 2), shape
        self.scores = nn.Parameter(torch.randn(2))

    def forward(self, x):
        maps = self.maps(x)
        return self.shape(self.logits(maps.amax((2, 3))) * self.scores, maps)


@pytest.mark.parametrize("free_size", [False, True], ids=["direct", "general"])
@pytest.mark.parametrize(
    ("shape", "given", "names"),
    [
        (lambda a, b: a, "", ["output"]),
        (lambda a, b: [a], "", ["output"]),
        (lambda a, b: {"logits": a}, "", ["logits"]),
        (lambda a, b: {"scores": a, "maps": b}, "", ["scores", "maps"]),
        (lambda a, b: Named(a, b), "", ["logits", "maps"]),
        (lambda a, b: SimpleNamespace(logits=a, past=None, maps=b), "", ["logits", "maps"]),
        (lambda a, b: {"logits": a, "hidden": [b, b + 1]}, "", ["logits", "hidden_0", "hidden_1"]),
        (lambda a, b: [{"boxes": b, "scores": a}], "", ["boxes", "scores"]),
        (lambda a, b: (a, {"aux": b}), "", ["output_0", "output_1_aux"]),
        (lambda a, b: (a, [b, b + 1]), "", ["output_0", "output_1", "output_2"]),
        (lambda a, b: {0: a, "p 2/4": b}, "", ["output_0", "p_2_4"]),
        (lambda a, b: {"x": a, "logits": b}, "x", ["output_x", "logits"]),
        (lambda a, b: (a, b), "output", ["output_0", "output_1"]),
        (lambda a, b: a, "output", ["output_0"]),
        (lambda a, b: {"a b": a, "a/b": b}, "", ["a_b", "output_a_b"]),
        (lambda a, b: {"": a, "2x": b}, "", ["output_", "output_2x"]),
        (lambda a, b: {"Add": a, "logits/MatMul": b, "logits": b * 2}, "", ["Add", "logits_MatMul", "logits"]),
    ],
)
def test_outputs_are_called_by_their_keys(tmp_path, shape, given, names, free_size):
    model = Returns(shape).eval()
    if given == "output":
        model = Renamed(model)
    image = torch.randn(1, 3, 6, 6)
    export_onnx(model, tmp_path / "net.onnx", {given: image} if given else image, free_size=free_size)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert [entry.name for entry in session.get_outputs()] == names
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["usage"])["outputs"] == names
    with torch.no_grad():
        expected = tensors(model(image))
    for one, wanted in zip(session.run(None, {session.get_inputs()[0].name: image.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), wanted)


class Anchored(nn.Module):
    """A head that gives its anchors beside what it finds."""

    def __init__(self, names):
        super().__init__()
        self.conv, self.names = nn.Conv2d(3, 4, 1), names
        self.register_buffer("anchors", torch.rand(2, 4))

    def forward(self, x):
        return dict(zip(self.names, (self.conv(x), self.anchors), strict=True))


@pytest.mark.parametrize("names", [["maps", "anchors"], ["anchors", "maps"], ["a", "b"]])
def test_a_buffer_may_be_returned_under_its_own_name_or_another(tmp_path, names):
    model, image = Anchored(names).eval(), torch.randn(1, 3, 4, 4)
    export_onnx(model, tmp_path / "net.onnx", image)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert [entry.name for entry in session.get_outputs()] == names
    for one, wanted in zip(session.run(None, {"input": image.numpy()}), model(image).values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(one), wanted.detach())


class Renamed(nn.Module):
    """A network whose input is called as outputs are."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, output):
        return self.inner(output)


def test_an_operator_without_a_rule_goes_the_general_road(tmp_path, monkeypatch):
    roads = []
    translate = general.translate
    monkeypatch.setattr(general, "translate", lambda *args, **how: roads.append("general") or translate(*args, **how))
    export_onnx(Cumulative(), tmp_path / "net.onnx", torch.randn(1, 3, 6, 6))
    images = torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(infer(tmp_path / "net.onnx", images)[0], images.cumsum(1))
    assert roads == ["general"]
    proto = onnx.load(tmp_path / "net.onnx")
    assert (proto.graph.input[0].name, proto.graph.output[0].name) == ("input", "output")
    assert_anonymous(tmp_path / "net.onnx")


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x, y):
        return self.body(x) + self.body(y)


@pytest.mark.parametrize("free_size", [False, True], ids=["direct", "general"])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_runtime_makes_one_operator_of_a_gelu(approximate, free_size, tmp_path):
    layers = [nn.Conv2d(3, 8, 3), nn.GELU(approximate), nn.Conv2d(8, 8, 1), nn.GELU(approximate), nn.Conv2d(8, 8, 1)]
    network = nn.Sequential(*layers)
    made = export_onnx(network, tmp_path / "net.onnx", torch.randn(1, 3, 8, 8), free_size=free_size)
    assert made.road == ("general" if free_size else "direct")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert sum("Gelu" in kind for kind in kinds) == 2
    assert not {"Erf", "Tanh", "Mul"} & set(kinds)


class Gate(nn.Module):
    """What looks like a GELU and is none: the factor is of something else, and maybe returned too."""

    def __init__(self, returned: bool):
        super().__init__()
        self.conv, self.gate, self.returned = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), returned

    def forward(self, x):
        y = self.conv(x)
        factor = 0.5 * (1 + torch.tanh(y if self.returned else self.gate(y.mean((2, 3), keepdim=True))))
        return (y * factor, factor) if self.returned else y * factor


@pytest.mark.parametrize("returned", [False, True])
def test_a_gate_is_no_gelu(returned, tmp_path):
    model, x = Gate(returned).eval(), torch.randn(2, 3, 6, 6)
    assert export_onnx(model, tmp_path / "net.onnx", x, opset=20).road == "general"
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
    expected = model(x) if returned else (model(x),)
    for found, one in zip(infer(tmp_path / "net.onnx", x), expected, strict=True):
        torch.testing.assert_close(found, one.detach(), rtol=1e-4, atol=1e-5)


def test_several_inputs_are_named(tmp_path):
    model, x = Sum().eval(), torch.randn(1, 3, 6, 6)
    for example, names in (((x, x), ["input_0", "input_1"]), ({"x": x, "y": x}, ["x", "y"])):
        found = export_onnx(model, tmp_path / "net.onnx", example)
        session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
        assert [i.name for i in session.get_inputs()] == names and found.batch is None
        a, b = torch.randn(4, 3, 6, 6), torch.randn(4, 3, 6, 6)
        (got,) = session.run(None, dict(zip(names, (a.numpy(), b.numpy()), strict=True)))
        torch.testing.assert_close(torch.from_numpy(got), model(a, b).detach())


def test_networks_of_other_precision(tmp_path):
    example = torch.randn(1, 3, 6, 6)
    half = nn.Sequential(*network()[:3]).half()
    assert export_onnx(half, tmp_path / "net.onnx", example.half()).road == "direct"
    with pytest.raises(EngineError, match="(?s)no convolutions in bfloat16.*model.float()"):
        export_onnx(network().bfloat16(), tmp_path / "other.onnx", example.bfloat16())
    with pytest.raises(EngineError, match=r"(?s)(could not find|NOT_IMPLEMENTED).*Export model.float\(\)"):
        export_onnx(network().double(), tmp_path / "other.onnx", example.double())


class ByRows(nn.Module):
    """Channels folded into the batch, pooled along rows, folded back: what is not written is read."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        y = self.a(x)
        n, c, h, w = y.shape
        return self.b(torch.nn.functional.max_pool1d(y.view(n * c, h, w), 3, 1, 1).view(n, c, h, w))


class Mean(nn.Module):
    """Over everything, and so without a batch."""

    def forward(self, x):
        return (x - x.mean()) * 2


@pytest.mark.parametrize("model", [ByRows(), nn.Sequential(nn.Flatten(2), nn.MaxPool1d(2))], ids=["rows", "pool"])
def test_what_our_own_road_cannot_write_goes_the_general_one(tmp_path, model):
    export_onnx(model, tmp_path / "net.onnx", torch.randn(1, 3, 6, 6))
    images = torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(infer(tmp_path / "net.onnx", images)[0], model(images).detach())


def test_a_mean_over_everything_is_written(tmp_path):
    assert export_onnx(Mean(), tmp_path / "net.onnx", torch.randn(1, 3, 6, 6)).road == "direct"


@pytest.mark.parametrize("fault", [KeyError("keepdim"), ZeroDivisionError(), AssertionError()])
def test_no_fault_of_our_own_road_stops_the_export(tmp_path, monkeypatch, fault):
    def broken(*_):
        raise fault

    monkeypatch.setattr(direct, "translate", broken)
    assert export_onnx(network(), tmp_path / "net.onnx", torch.randn(1, 3, 6, 6)).road == "general"


class OneByOne(nn.Module):
    """A loop over the batch, which no exporter can leave free."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return torch.stack([self.body(image) for image in x])


def test_where_the_batch_cannot_be_free_it_is_one(tmp_path):
    model = OneByOne()
    assert export_onnx(model, tmp_path / "net.onnx", torch.randn(2, 3, 6, 6)).batch == 1
    image = torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(infer(tmp_path / "net.onnx", image)[0], model(image).detach())
    assert export_onnx(network(), tmp_path / "net.onnx", image, fixed_batch=True).batch == 1


def test_an_opset_can_be_asked_for(tmp_path):
    assert export_onnx(network(), tmp_path / "net.onnx", torch.randn(1, 3, 6, 6), opset=20).road == "general"
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == 20


def test_what_a_network_remembers_while_it_is_exported_stays_in_a_copy(tmp_path):
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = None

        def forward(self, x):
            self.last = x.relu()
            return self.last

    model = Remembers()
    export_onnx(model, tmp_path / "net.onnx", torch.randn(1, 3, 6, 6))
    assert model.last is None


def test_a_wrong_translation_is_noticed(tmp_path, monkeypatch):
    model = network().eval()
    right = direct.translate(model, torch.randn(1, 3, 6, 6))
    monkeypatch.setattr(general, "translate", lambda *args, **how: right)
    monkeypatch.setitem(direct._RULES, "relu", unary("Sigmoid"))
    export_onnx(model, tmp_path / "net.onnx", torch.randn(1, 3, 6, 6))
    images = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(infer(tmp_path / "net.onnx", images)[0], model(images).detach())


def test_a_network_whose_path_depends_on_its_values_is_refused_with_the_exporters_line(tmp_path):
    class Branches(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else -x

    with pytest.raises(EngineError, match="(?s)Branches cannot be exported to ONNX: .*data-dependent.*\n  "):
        export_onnx(Branches(), tmp_path / "net.onnx", torch.randn(1, 3, 6, 6))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["weight", "running_var"])
def test_a_network_that_gives_no_number_is_refused(tmp_path, where):
    model = network()
    tensor = model[1].running_var if where == "running_var" else model[0].weight
    tensor.data.fill_(float("nan"))
    with pytest.raises(TraceError, match="gives no finite number"):
        export_onnx(model, tmp_path / "net.onnx", torch.randn(1, 3, 6, 6))
    assert not list(tmp_path.iterdir())


class Logarithm(nn.Module):
    """No number where the input is below 0; of its own linear layer nowhere, but for inputs above 0."""

    def __init__(self, read: bool):
        super().__init__()
        self.read = nn.Linear(9, 6) if read else nn.ReLU()

    def forward(self, x):
        return self.read(x.log()) if isinstance(self.read, nn.Linear) else self.read(x).log()


@pytest.mark.parametrize("read", [True, False], ids=["nowhere", "somewhere"])
def test_what_is_no_number_on_random_inputs_is_held_against_others(tmp_path, monkeypatch, read):
    model = Logarithm(read)
    export_onnx(model, tmp_path / "net.onnx", torch.rand(1, 9))
    monkeypatch.setitem(direct._RULES, "log", unary("Sqrt"))
    monkeypatch.setattr(general, "translate", lambda *args, **how: direct.translate(*args))
    with pytest.raises(EngineError, match="something else than torch"):
        export_onnx(model, tmp_path / "wrong.onnx", torch.rand(1, 9))


def test_a_network_over_two_gigabytes_is_refused(tmp_path):
    with torch.device("meta"):
        model = nn.Linear(1, 2**29)
    with pytest.raises(EngineError, match="2 GB"):
        export_onnx(model, tmp_path / "net.onnx", torch.randn(1, 1))


def test_an_input_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(TraceError, match="does not run on a batch of shape"):
        export_onnx(network(), tmp_path / "net.onnx", torch.randn(1, 4, 6, 6))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(OutputError, match="(?s)cannot be written: File too large.*`out`"):
            export_onnx(network(), path, torch.randn(1, 3, 6, 6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OutputError, match="missing") as caught:
        export_onnx(network(), tmp_path / "missing" / "net.onnx", torch.randn(1, 3, 6, 6))
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOENT


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**21 - 1, 2**21, 2**31])
def test_lengths_are_written_as_protobuf_writes_them(value):
    # Field 2 of TensorProto, data_type, is a plain number: its bytes after the tag are the varint.
    number = min(value, 2**31 - 1)
    expected = onnx.TensorProto(data_type=number).SerializeToString()[1:]
    assert varint(number) == expected


def test_weights_beside_the_message_are_read_back_exactly(tmp_path):
    generator = np.random.default_rng(0)
    weights = {
        "floats": generator.standard_normal((3, 50)).astype(np.float32),
        "numbers": generator.integers(0, 9, (2, 1, 4)),
        "scalar": np.float32(2.5).reshape(()),
        "none": np.zeros((0, 3), np.float32),
        "column": generator.standard_normal((4, 6)).T.astype(np.float32, order="C"),
    }
    graph = onnx.helper.make_graph([], "empty", [], [])
    OnnxModel(onnx.helper.make_model(graph), weights).save(tmp_path / "net.onnx")
    read = onnx.load(tmp_path / "net.onnx").graph.initializer
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in read}
    assert list(found) == list(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
