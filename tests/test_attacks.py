"""Files made to do harm, one of each kind that was once let through: code, memory, time, the terminal.

Every attack is made by hand, and worked on the version before the check that refuses it.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import slimkit
from slimkit import models, provenance
from slimkit.cli import main
from slimkit.errors import EngineError, SlimkitError, SpecError, TrainingError
from slimkit.measure import probe
from slimkit.models import metadata
from slimkit.settings import read_config
from slimkit.training import Store, state

ESCAPE = "\x1b]0;owned\x07\x9b2J"  # sets the title of a terminal, clears it


class Runs:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def refused(path: Path, match: str, **options) -> str:
    with pytest.raises(SlimkitError, match=match) as caught:
        models.load(path, **options)
    return str(caught.value)


# 1. Pickled modules ------------------------------------------------------------------------------------------


def with_child(name: str, child: nn.Module | None = None) -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    network._modules[name] = child or nn.ReLU()
    return network


def test_a_constructor_that_traces_its_argument_is_not_called(tmp_path):
    features = pytest.importorskip("timm.models._features_fx")
    victim = tmp_path / "created"
    name = f'(a", None) or open("{victim}", "w") or getattr(self, "b)'
    inner = with_child(name)
    inner._modules["z"] = nn.ReLU()
    inner.feature_info = [{"num_chs": 4, "reduction": 1, "module": "z"}]
    torch.save(Runs(features.FeatureGraphNet, inner, (0,)), tmp_path / "net.pt")
    refused(tmp_path / "net.pt", "FeatureGraphNet")
    assert not victim.exists()


@pytest.mark.parametrize(
    "made",
    [Runs(nn.Linear, 4, 4), Runs(nn.Sequential, nn.ReLU()), Runs(nn.Conv2d, 3, 10**6, 99)],
    ids=["linear", "sequential", "huge"],
)
def test_no_constructor_is_called(made, tmp_path):
    torch.save({"x": made}, tmp_path / "net.pt")
    refused(tmp_path / "net.pt", "torch.nn.modules")


@pytest.mark.parametrize("name", ['a"', "a\nb", "a.b", "", "é", "a b", "x" * 300, ESCAPE])
def test_names_of_parts_are_plain(name, tmp_path):
    for table in ("_modules", "_parameters", "_buffers"):
        network = nn.Sequential(nn.Conv2d(3, 4, 1))
        getattr(network, table)[name] = {"_modules": nn.ReLU(), "_parameters": nn.Parameter(torch.ones(1))}.get(
            table, torch.ones(1)
        )
        torch.save(network, tmp_path / "net.pt")
        refused(tmp_path / "net.pt", "a part named")


def test_methods_and_hooks_of_a_module_are_its_classs(tmp_path):
    for change in (
        lambda network: network.__dict__.update(forward=torch.relu),
        lambda network: network.__dict__.update(_call_impl=torch.relu),
        lambda network: network._forward_hooks.update({0: torch.relu}),
        lambda network: network._forward_pre_hooks.update({0: torch.relu}),
    ):
        network = nn.Sequential(nn.Conv2d(3, 4, 1))
        change(network)
        torch.save(network, tmp_path / "net.pt")
        refused(tmp_path / "net.pt", "method|hooks")


def test_a_table_that_is_changed_after_its_use_is_checked_at_the_end(tmp_path):
    """The pickle builds a module, then adds to the dict that it gave it."""
    network = nn.Sequential(nn.ReLU())
    torch.save({"x": network, "y": network._modules}, tmp_path / "net.pt")
    with zipfile.ZipFile(tmp_path / "net.pt") as archive:
        data = archive.read("net/data.pkl")
    setting = b"X\x01\x00\x00\x00yq"
    assert setting in data
    name = b'a"b'
    late = b"X" + struct.pack("<I", len(name)) + name + b"Ns"
    place = data.rindex(b"u.")  # SETITEMS of the outer table; the tuple of its items ends with the inner one
    data = data[:place] + late + data[place:]
    path = repacked(tmp_path / "net.pt", tmp_path / "late.pt", data)
    refused(path, "a part named")


def test_modules_within_themselves(tmp_path):
    ring = nn.Sequential(nn.ReLU())
    ring._modules["1"] = ring
    deep = nn.Identity()
    for _ in range(60):
        deep = nn.Sequential(deep)
    fan = nn.ReLU()
    for _ in range(24):
        fan = nn.Sequential(fan, fan)
    for network, what in ((ring, "hold themselves"), (deep, "deep"), (fan, "more than")):
        torch.save(network, tmp_path / "net.pt")
        refused(tmp_path / "net.pt", what)


# 2. Arrays ---------------------------------------------------------------------------------------------------


def repacked(source: Path, target: Path, pickle: bytes) -> Path:
    """Write a copy of a file of torch.save with another pickle in it."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as written:
        for member in archive.infolist():
            written.writestr(member.filename, pickle if member.filename.endswith("data.pkl") else archive.read(member))
    return target


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def dtype(code: str) -> bytes:
    return b"cnumpy\ndtype\n" + text(code) + b"\x89\x88\x87R"


def array_of_pointers() -> bytes:
    """An array of eight bytes each, whose type is said, afterwards, to be that of Python objects."""

    def fields(flags: int) -> bytes:
        table = b"}" + text("a") + dtype("O8") + number(0) + b"\x86s"
        return b"(" + number(3) + text("|") + b"N" + text("a") + b"\x85" + table + b"".join(map(number, (8, 1, flags)))

    data = b"c_codecs\nencode\n" + text("A" * 64) + text("latin1") + b"\x86R"
    made = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text("b") + b"\x87R"
    made += b"(" + number(1) + number(8) + b"\x85" + dtype("V8") + b"q\x01" + fields(0) + b"tb\x89" + data + b"tb"
    return b"\x80\x02}" + text("x") + made + b"s" + text("d") + b"h\x01" + fields(0x3F) + b"tbs."


@pytest.mark.parametrize(
    "pickle",
    [
        array_of_pointers(),
        *(b"\x80\x02}" + text("x") + dtype(code) + b"s." for code in ("O8", "V8", "f4,O", "f8x", "f3", "i999")),
    ],
)
def test_arrays_are_of_numbers(pickle, tmp_path):
    torch.save({}, tmp_path / "net.pt")
    refused(repacked(tmp_path / "net.pt", tmp_path / "evil.pt", pickle), "numpy.dtype")


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((4,), (2,), 0), ((4,), (1,), 1), ((2, 2), (9, 1), 0), ((1,), (1,), 4), ((4,), (1,), -1), ((4,), (-1,), 3)],
)
def test_tensors_stay_within_their_storage(size, stride, offset, tmp_path):
    torch.save({"w": torch.ones(4)}, tmp_path / "net.pt")
    with zipfile.ZipFile(tmp_path / "net.pt") as archive:
        data = archive.read("net/data.pkl")
    old = rb"K\x00K\x04\x85q.K\x01\x85"
    assert re.search(old, data)
    new = number(offset) + b"".join(b"(" + b"".join(map(number, each)) + b"t" for each in (size, stride))
    refused(repacked(tmp_path / "net.pt", tmp_path / "evil.pt", re.sub(old, lambda _: new, data)), "damaged")


# 3. Exported programs ----------------------------------------------------------------------------------------


class Outside(nn.Module):
    """Writes zeros beside its memory, if `size` is larger than that."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.size = size

    def forward(self, x):
        y = self.conv(x)
        z = torch.ops.aten._reshape_alias(y, [self.size], [1])
        return y.mean((2, 3)) + z.zero_().sum()


def exported(network: nn.Module, path: Path) -> Path:
    torch.export.save(torch.export.export(network.eval(), (torch.randn(2, 3, 8, 8),)), path)
    return path


def test_a_program_does_not_write_beside_its_memory(tmp_path):
    path = exported(Outside(288), tmp_path / "net.pt2")
    refused(path, "_reshape_alias")


class Grows(nn.Module):
    def forward(self, x):
        return nn.functional.interpolate(x, size=(60_000, 60_000)).mean((2, 3))


def test_a_program_does_not_take_all_memory(tmp_path):
    free = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Grows(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=free)
    torch.export.save(program, tmp_path / "net.pt2")
    refused(tmp_path / "net.pt2", "its network would take .* GB")


# 4. Settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["arch = '{file}:build'", "data = 'attack:build'", "trust_pickle = true"])
def test_a_settings_file_runs_nothing(setting, tmp_path, monkeypatch, capsys):
    victim = tmp_path / "created"
    (tmp_path / "attack.py").write_text(f"import os\nos.mkdir({str(victim)!r})\ndef build(): return None\n")
    state = models.build("zoo:resnet8").model.state_dict()
    torch.save(Runs(os.mkdir, str(victim)) if "pickle" in setting else state, tmp_path / "net.pt")
    (tmp_path / "run.toml").write_text(setting.format(file=tmp_path / "attack.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["compress", "net.pt", "--config", "run.toml"]) == 2
    assert "--trust-config" in capsys.readouterr().err
    assert not victim.exists()
    main(["compress", "net.pt", "--config", "run.toml", "--trust-config"])
    assert victim.exists()  # so that the refusal above is of something


# 5. Memory and time ------------------------------------------------------------------------------------------


def slim(path: Path, **changes) -> Path:
    """Write a slim file whose record says something else, with a digest that fits."""
    models.save(models.build("zoo:resnet8").model, path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        fields = json.loads(file.metadata()["slimkit"])
    fields |= changes
    del fields["digest"]
    fields["digest"] = metadata.digest(fields, tensors)
    save_file(tensors, path, metadata={"slimkit": json.dumps(fields)})
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": {"width": 10**7}},
        {"arguments": {"width": 16_000}},
        {"arch": "torchvision:mobilenet_v2", "arguments": {"width_mult": 9e3}},
        {"arch": "torchvision:vit_b_16", "arguments": {"image_size": 16_000}},
        {"input_shape": [1, 65_000, 65_000]},
        {"input_shape": [1, 10**7, 10**7]},
        {"arguments": {"width": [1] * 10**5}},
        {"arch": "zoo:resnet8(width=" + "-" * 10**5 + "1)"},
        {"attributes": {"a\nb": {"x": 1}}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_a_slim_file_does_not_take_all_memory(changes, tmp_path):
    refused(slim(tmp_path / "net.safetensors", **changes), "GB of memory|cannot be read")


def test_more_memory_can_be_allowed(tmp_path):
    path = slim(tmp_path / "net.safetensors", input_shape=[1, 2048, 2048])
    assert "`max_memory='" in refused(path, "would take", max_memory=2**20)
    assert models.load(path, max_memory=8 * 2**30).source == models.load(path, max_memory="8GiB").source == "slim file"
    slimkit.load(path, max_memory="8GiB")
    wide = slim(tmp_path / "wide.safetensors", arguments={"width": 16_000})
    for load in (models.load, slimkit.load):
        with pytest.raises(SlimkitError, match="may take 1.0 GB.\n.* allow more: `max_memory='11GB'`"):
            load(wide, max_memory="1GB")
        with pytest.raises(SpecError, match="max_memory is 'much'"):
            load(wide, max_memory="much")


@pytest.mark.parametrize("kept", ["threading.Lock()", "(one for one in ())"])
def test_memory_is_bounded_also_of_a_network_that_cannot_be_copied(kept, tmp_path):
    (tmp_path / "net.py").write_text(
        "import threading\nimport torch\nfrom torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        f"        self.body, self.kept = nn.Conv2d(3, 4, 1), {kept}\n\n"
        "    def forward(self, x):\n        return self.body(x.repeat(100_000, 1, 1, 1))[:1]\n\n\n"
        "def make():\n    return Net()\n"
    )
    arch = f"{tmp_path / 'net.py'}:make"
    net = models.build(arch).model
    provenance.attach(net, replace(provenance.of(net), inputs={"x": ((3, 32, 32), "float32")}))
    models.save(net, tmp_path / "net.safetensors")
    refused(tmp_path / "net.safetensors", "its network would take", arch=arch)


def test_a_tensor_that_repeats_one_number(tmp_path):
    state = models.build("zoo:resnet8").model.state_dict()
    state["fc.weight"] = torch.zeros(1).expand(10**8, 64)
    torch.save(state, tmp_path / "net.pt")
    assert (tmp_path / "net.pt").stat().st_size < 500_000
    refused(tmp_path / "net.pt", "its tensors would take 25")


def test_a_pickled_layer_of_one_number(tmp_path):
    layer = nn.Linear(1, 1)
    layer.in_features = layer.out_features = 60_000
    layer.weight = nn.Parameter(torch.zeros(1).expand(60_000, 60_000))
    torch.save(nn.Sequential(nn.Conv2d(3, 1, 1), layer), tmp_path / "net.pt")
    refused(tmp_path / "net.pt", "its tensors would take 14")


@pytest.mark.long
def test_an_archive_of_ten_gigabytes_is_refused_by_what_it_declares(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "net.pt")
    with zipfile.ZipFile(tmp_path / "net.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            with archive.open(f"net/data/{number + 7}", "w", force_zip64=True) as member:
                for _ in range(1000):
                    member.write(bytes(2**20))
    refused(tmp_path / "net.pt", "what its archive declares would take 3")


# 6. The terminal ---------------------------------------------------------------------------------------------


def test_names_do_not_command_the_terminal(tmp_path, capsys):
    name = tmp_path / f"{ESCAPE}.pt"
    torch.save({f"{ESCAPE}.weight": torch.ones(2, 2)}, name)
    (tmp_path / "run.toml").write_text(f'"{ESCAPE!a}" = 1'.replace("'", "").replace("\\x", "\\u00"))
    for words in (["inspect", str(name)], ["compress", str(name), "--config", str(tmp_path / "run.toml")]):
        assert main(words) == 2
        shown = "".join(capsys.readouterr())
        assert "owned" in shown
        assert not set(shown) & set("\x1b\x07\x9b")


# 7. Tracebacks -----------------------------------------------------------------------------------------------


def onnx_file(path: Path, nodes, kind=TensorProto.FLOAT, shape=(1, 1, 6, 6), weights=(), inputs=1) -> Path:
    images = [helper.make_tensor_value_info(f"x{i or ''}", kind, shape) for i in range(inputs)]
    result = helper.make_tensor_value_info("z", kind, None)
    graph = helper.make_graph(nodes, "net", images, [result], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


IDENTITY = [helper.make_node("Identity", ["x"], ["z"])]


@pytest.mark.long
@pytest.mark.parametrize(
    "given",
    [
        {"kind": TensorProto.STRING},
        {"kind": TensorProto.COMPLEX64},
        {"shape": ()},
        {"shape": (1, 3, 200_000, 200_000)},
        {"shape": (1, -1, 6, 6)},
        {"inputs": 0},
        {"nodes": [helper.make_node("Expand", ["x", "size"], ["z"])],
         "weights": [helper.make_tensor("size", TensorProto.INT64, [4], [10**5] * 4)]},
        {"nodes": [helper.make_node("NoSuch", ["x"], ["z"])]},
    ],
    ids=str,
)  # fmt: skip
def test_onnx_files_that_cannot_be_measured(given, tmp_path, capsys):
    path = onnx_file(tmp_path / "net.onnx", **{"nodes": IDENTITY, **given})
    assert main(["bench", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.DOUBLE, TensorProto.UINT8, TensorProto.BOOL])
def test_onnx_files_of_other_numbers(kind, tmp_path):
    probe.check(onnx_file(tmp_path / "net.onnx", IDENTITY, kind, (1, 6)))


@pytest.mark.long
def test_an_onnx_file_without_end(tmp_path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [helper.make_tensor_value_info(*value) for value in (
            ("i", TensorProto.INT64, []), ("going", TensorProto.BOOL, []), ("v", TensorProto.FLOAT, [1, 1, 6, 6]))],
        [helper.make_tensor_value_info(*value) for value in (
            ("on", TensorProto.BOOL, []), ("w", TensorProto.FLOAT, [1, 1, 6, 6]))],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["times", "yes", "x"], ["z"], body=body)
    weights = [
        helper.make_tensor("times", TensorProto.INT64, [], [2**62]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
    ]
    path = onnx_file(tmp_path / "net.onnx", [loop], weights=weights)
    with pytest.raises(EngineError, match="does not end within 8 s"):
        probe.check(path, seconds=8)


def test_odd_values_in_a_checkpoint(tmp_path):
    state = models.build("zoo:resnet8").model.state_dict()
    for change, what in (
        ({"conv1.weight": state["conv1.weight"].int()}, "conv1.weight"),
        ({"conv1.weight": state["conv1.weight"].to("meta")}, "no values"),
        ({"conv1.weight_orig": torch.ones(3, 1), "conv1.weight_mask": torch.ones(1, 4)}, "tensors"),
    ):
        torch.save({**state, **change}, tmp_path / "net.pt")
        refused(tmp_path / "net.pt", what)


@pytest.mark.parametrize("lacks", ["in_channels", "stride", "weight", "bias", "training", "_parameters"])
def test_a_layer_that_lacks_something(lacks, tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    for table in (vars(network[0]), network[0]._parameters):
        table.pop(lacks, None)
    torch.save(network, tmp_path / "net.pt")
    assert main(["inspect", str(tmp_path / "net.pt")]) == 2


def test_a_state_to_resume_from_that_somebody_made(tmp_path):
    victim = tmp_path / "created"
    for content in (Runs(os.mkdir, str(victim)), [1], {}, {"identity": 3}, {"identity": {}, "x": Runs(os.getcwd)}):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = state._MAGIC + hashlib.blake2b(buffer.getvalue()).digest() + buffer.getvalue()
        (tmp_path / "state.bin").write_bytes(data)
        with pytest.raises(TrainingError, match="damaged"):
            state.read(Store(tmp_path, resume=True))
    assert not victim.exists()


@pytest.mark.parametrize("content", ["a = {arch = 'os:system'}", "watch = ['os:system']", "method = 'os:system'"])
def test_a_new_setting_that_names_code_needs_trust_too(content, tmp_path):
    (tmp_path / "run.toml").write_text(content)
    with pytest.raises(SpecError, match="runs code"):
        read_config(tmp_path / "run.toml")


@pytest.mark.parametrize(
    "content", ["x = " + "[" * 10**5, "seed = " + "9" * 5000, "seed = 0x" + "f" * 5000, "a.b.c = 1", "\x1b = 1"]
)
def test_odd_settings_files(content, tmp_path):
    (tmp_path / "run.toml").write_text(content)
    assert main(["compress", "net.pt", "--config", str(tmp_path / "run.toml")]) == 2


def test_a_zip_with_names_that_are_no_text(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "net.pt")
    data = (tmp_path / "net.pt").read_bytes()
    flagged = data.replace(b"net/data.pkl", b"net/dat\xff.pkl").replace(
        b"PK\x01\x02\x00\x00\x00\x00\x00\x00", b"PK\x01\x02\x00\x00\x00\x00\x00\x08"
    )
    for number, changed in enumerate((data.replace(b"net/", b"\xff\xfe/"), flagged)):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(changed)
        with contextlib.suppress(SlimkitError):
            models.load(path)
