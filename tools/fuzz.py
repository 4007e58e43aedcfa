"""Change files of every kind that slimkit reads, and see that nothing but a message comes of it.

    python tools/fuzz.py --count 10000 --seed 0 --out fuzz.jsonl

Each input is read in a forked child with bounds on memory and CPU time, and an audit hook that reports code that is
run: files opened for writing elsewhere, processes, sockets, modules that nobody should import. Inputs with another
outcome than `ok` or `refused` are kept in a folder beside the results.
"""

import argparse
import contextlib
import faulthandler
import gc
import importlib
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pycocotools.cocoeval  # noqa: F401  # before the forks, in which nothing may be imported
import torch
from onnx import TensorProto, helper
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from slimkit import compress, models, training
from slimkit.data import open as open_data
from slimkit.data.loader_split import LoaderSplit
from slimkit.errors import SlimkitError
from slimkit.measure import layer_table, probe
from slimkit.models import memory, metadata
from slimkit.provenance import Finds, Provenance
from slimkit.report import rebuild
from slimkit.runs.inspect import inspect_checkpoint
from slimkit.settings import CompressSpec, make, read_config
from slimkit.tasks import DETECTION
from slimkit.training import state

HARMLESS = ("ok", "refused")
OUTCOMES = (*HARMLESS, "code run", "signal", "traceback", "hang", "memory")
SECONDS = 40  # of CPU time for one input; the slowest sound one takes 4
ADDRESSES = memory.FLOOR + 2 * 2**30  # bytes beyond what the parent has; a file may take memory.FLOOR of them
CANARY = "slimkit_fuzz_canary"
_PICTURES = 8  # that annotations are of
_NOTHING = Finds()
_ROOTS = frozenset(sys.stdlib_module_names) | {
    "torch", "torchvision", "timm", "numpy", "sympy", "mpmath", "onnx", "onnxruntime", "onnxscript", "slimkit", "rich",
    "click", "safetensors", "scipy", "sklearn", "google", "matplotlib", "fvcore", "PIL",
    "huggingface_hub", "torch_pruning", "jinja2", "markupsafe", "yaml", "packaging", "triton", "ml_dtypes", "iopath",
    "onnx_ir", "functorch", "torchgen", "typing_extensions", "optree", "networkx", "psutil", "pynvml", "dill",
    "apex", "inplace_abn", "olefile", "defusedxml",  # timm and Pillow look for them by themselves, whatever a file says
}  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 255, 2**31, 2**31 - 1, -(2**31), 2**63 - 1, 2**64, 10**30, 60_000, 10**7, 1e308, -1e9, 0.5)
_WORDS = (
    "", "a", "a.b", 'a"b', "a\nb", "\x1b[2J", "é", "\ud800", "x" * 5000, "../../etc/passwd", "__class__", "forward",
    f"__import__('os').mkdir('{CANARY}')", f'x") or __import__("os").mkdir("{CANARY}") or ("', "zoo:resnet8",
    "resnet18", f"{CANARY}.py:f", "os:system", "timm:resnet10t", "float32", "weight", "conv1.weight",
)  # fmt: skip
_NAMES = (
    "os\nsystem", "posix\nmkdir", "builtins\neval", "builtins\ngetattr", "torch\nload",
    "torch.nn.modules.linear\nLinear",
    "torch.nn.modules.container\nSequential", "torch.nn.modules.rnn\nLSTM", "functools\npartial", "numpy\ndtype",
    "numpy\nndarray", "collections\nOrderedDict", "torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_qtensor",
    "torch._utils\n_rebuild_wrapper_subclass", "torch.nn.modules.conv\nConv2d", "builtins\nbytearray", "torch\nTensor",
    "timm.models._features_fx\nFeatureGraphNet", "torchvision.models.resnet\nResNet", "torch\nfloat64", "torch\nSize",
)  # fmt: skip


# What is changed ---------------------------------------------------------------------------------------------


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)).eval()


class Recurrent(nn.Module):
    """Rows of a picture, read by an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.reader, self.head = nn.Conv2d(1, 2, 3), nn.LSTM(12, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        head: Tensor = self.head(self.reader(self.stem(x).permute(0, 2, 1, 3).flatten(2))[0][:, -1])
        return head


def seeds() -> dict[str, list[bytes]]:
    """Make sound files of each kind."""
    torch.manual_seed(0)
    network = models.build("zoo:resnet8").model
    found: dict[str, list[bytes]] = {
        "state dict": [_saved(network.state_dict()), _saved({"model": network.state_dict(), "epoch": 3, "lr": [0.1]})],
        "old state dict": [_saved(network.state_dict(), _use_new_zipfile_serialization=False)],
        "arrays": [_saved({name: tensor.numpy() for name, tensor in network.state_dict().items()})],
        "pickled module": [_saved(small()), _saved(_torchvision())],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        models.save(network, path)
        found["slim file"] = [path.read_bytes()]
        torch.jit.save(torch.jit.trace(small(), torch.randn(1, 1, 8, 8)), str(path))
        found["TorchScript"] = [path.read_bytes()]
        free = ({0: torch.export.Dim.DYNAMIC},)
        for net, shapes in ((small(), free), (small(), None), (Recurrent().eval(), free)):
            with warnings.catch_warnings(action="ignore"):  # of recurrent layers
                program = torch.export.export(net, (torch.randn(2, 1, 8, 8),), dynamic_shapes=shapes)
            torch.export.save(program, path)
            found.setdefault("exported program", []).append(path.read_bytes())
        store = training.Store(Path(folder) / "state", identity={"x": 1})
        state.write(store, {"step": 1, "model": small().state_dict(), "hooks": [None], "history": []})
        found["resume state"] = [(store.folder / "state.bin").read_bytes()]
        out = Path(folder) / "out"
        compress(network, torch.randn(1, 1, 8, 8), ratio=0.5, out=out)
        found["run.toml"] = [(out / "run.toml").read_bytes()]
        found["report"] = [(out / "report.json").read_bytes()]
        found["ONNX"] = [_onnx(), _loop(), (out / "model.onnx").read_bytes()]
    found["latency table"] = [_table()]
    found["annotations"] = [json.dumps(_annotations()).encode()]
    found["YOLO labels"] = [b"0 0.5 0.5 0.25 0.5\n1 0.3 0.3 0.2 0.2\n", b"2 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n"]
    return found


def _annotations() -> dict[str, Any]:
    """Return COCO's annotations of the pictures that `_pictures` makes."""
    names = [{"id": n, "name": name, "keypoints": ["left", "right"]} for n, name in ((1, "disc"), (3, "square"))]
    outlines: list[Any] = [
        [[5, 5, 15, 5, 15, 15.5]],
        {"size": [30, 40], "counts": [155, 5, 1040]},
        {"size": [30, 40], "counts": "k45`P1"},  # the same
    ]
    images = [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in range(_PICTURES)]
    boxes = [
        {
            "id": n,
            "image_id": n,
            "category_id": 1 + 2 * (n % 2),
            "bbox": [5, 5, 10 + n, 10.5],
            "area": 105,
            "iscrowd": 0,
            "segmentation": outlines[n % 3],
            "keypoints": [5, 6, 2, 15, 6, n % 3],
        }
        for n in range(_PICTURES)
    ]
    return {"images": images, "annotations": boxes, "categories": names}


def _saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _torchvision() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3, width_per_group=64).eval()


def _onnx() -> bytes:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 1, 3, 3], [0.1] * 18)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    return _model(nodes, [weight]).SerializeToString()


def _loop() -> bytes:
    """Write a loop of 2^62 turns."""
    inner = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Add", ["v", "v"], ["w"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("going", TensorProto.BOOL, []),
         helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 1, 6, 6])],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 1, 6, 6])],
    )  # fmt: skip
    times = helper.make_tensor("times", TensorProto.INT64, [], [2**62])
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    return _model(
        [helper.make_node("Loop", ["times", "yes", "x"], ["z"], body=inner)], [times, yes]
    ).SerializeToString()


def _model(nodes: Sequence[Any], weights: Sequence[Any]) -> Any:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 6, 6])
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [image], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _table() -> bytes:
    row = {
        "layer": {"path": "c", "weight": "w", "inputs": 8, "outputs": 8, "area": 9,
                  "shape": {"kind": "conv", "groups": 1}},
        "block": 8, "inputs": [4, 8], "outputs": [4, 8], "ms": [[1.0, 2.0], [2.0, 3.0]],
    }  # fmt: skip
    whole = {"runtime": "onnxruntime", "engine": "x", "threads": 1, "batch": 1, "cpu": "y", "step": 8, "clock": "wall",
             "network_ms": 3.0, "rows": [row], "fixed_ms": 0.1, "varying_ms": 0.1}  # fmt: skip
    return json.dumps(whole).encode()


# How it is changed -------------------------------------------------------------------------------------------


def change(kind: str, data: bytes, rng: random.Random) -> bytes:
    """Change one file; one time in five its bytes, else what is in it."""
    if rng.random() < 0.2:
        return _bytes(data, rng)
    if kind in ("state dict", "arrays", "pickled module", "TorchScript", "exported program"):
        return _archive(data, rng)
    if kind == "slim file":
        return _slim(data, rng)
    if kind == "resume state":
        return _state(data, rng)
    if kind == "run.toml":
        return _toml(data, rng)
    if kind == "ONNX":
        return _protobuf(data, rng)
    if kind == "YOLO labels":
        return _labels(data, rng)
    if kind in ("report", "latency table", "annotations"):
        return _json(data, rng)
    return _pickle(data, rng) if rng.random() < 0.7 else _bytes(data, rng)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 4)):
        place, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 64))
        how = rng.randrange(5)
        if how == 0:
            data = data[:place] + rng.randbytes(length) + data[place + length :]
        elif how == 1:
            data = data[:place] + data[place + length :]
        elif how == 2:
            data = data[:place] + rng.randbytes(length) + data[place:]
        elif how == 3:
            start = rng.randrange(len(data) + 1)
            data = data[:place] + data[start : start + 200] + data[place:]
        else:
            data = data[:place]
    return data


def _archive(data: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    described = [i for i, (name, _) in enumerate(members) if name.endswith((".pkl", ".json", "model.pt"))]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = rng.choice(described) if rng.random() < 0.85 else rng.randrange(len(members))
        name, content = members[place]
        how = rng.random()
        if how < 0.04:
            members[place] = name.rpartition("/")[0] + "/" + _word(rng)[:100], content
        elif how < 0.07:
            members.append(members[place])
        elif how < 0.1:
            del members[place]
            described = [i for i, (name, _) in enumerate(members) if name.endswith((".pkl", ".json", "model.pt"))]
            if not described:
                break
        elif name.endswith(".json"):
            members[place] = name, _json(content, rng)
        elif name.endswith(".pkl"):
            members[place] = name, _pickle(content, rng)
        else:
            members[place] = name, _bytes(content, rng)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as written:
        warnings.simplefilter("ignore")
        for name, content in members:
            packed = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
            written.writestr(name.encode("utf-8", "replace").decode(), content, packed)
    whole = buffer.getvalue()
    return whole.replace(b"archive/", b"arch\xff\xfee/") if rng.random() < 0.02 else whole


def _pickle(data: bytes, rng: random.Random) -> bytes:
    """Change a pickle by its operations: numbers, texts, names, order."""
    import pickletools

    try:
        parts = list(pickletools.genops(data))
    except Exception:
        return _bytes(data, rng)
    ends = [part[2] for part in parts[1:]] + [parts[-1][2] + 1]
    pieces = [data[part[2] : end] for part, end in zip(parts, ends, strict=True)]
    rest = data[ends[-1] :]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = rng.randrange(len(pieces))
        name = parts[place][0].name if place < len(parts) else ""
        if name == "GLOBAL":
            pieces[place] = b"c" + rng.choice(_NAMES).encode() + b"\n"
        elif name.startswith(("BININT", "LONG")) and rng.random() < 0.8:
            number = rng.choice([n for n in _NUMBERS if isinstance(n, int)])
            packed = number.to_bytes(16, "little", signed=True) if abs(number) < 2**120 else b"\1" * 16
            pieces[place] = b"\x8a\x10" + packed
        elif name == "BINUNICODE" and rng.random() < 0.8:
            text = _word(rng).encode("utf-8", "surrogatepass")
            pieces[place] = b"X" + len(text).to_bytes(4, "little") + text
        elif rng.random() < 0.4:
            pieces[place] = rng.choice(pieces)
        elif rng.random() < 0.5:
            pieces[place] = b""
        else:
            pieces.insert(
                place, rng.choice((b"R", b"b", b"\x81", b"0", b"N", b"}", b"]", b")", b"(", b"t", b"s", b"Q"))
            )
            parts.insert(place, parts[place])
    return b"".join(pieces) + rest


def _word(rng: random.Random) -> str:
    return rng.choice(_WORDS)


def _value(rng: random.Random) -> Any:
    made: Any = rng.choice((None, True, [], {}, rng.choice(_NUMBERS), _word(rng), [1] * 50, {"a": 1}))
    return made


def _edit(value: Any, rng: random.Random) -> Any:
    """Change one place of a tree of JSON."""
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(list(value))
        how = rng.random()
        if how < 0.06:
            return {name: each for name, each in value.items() if name != key}
        if how < 0.1:
            return {**value, _word(rng): _value(rng)}
        if how < 0.14:
            return {_word(rng) if name == key else name: each for name, each in value.items()}
        return {**value, key: _edit(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        how = rng.random()
        if how < 0.08:
            return value[:place] + value[place + 1 :]
        if how < 0.16:
            return value[:place] + [value[place]] * rng.choice((2, 50)) + value[place:]
        return [*value[:place], _edit(value[place], rng), *value[place + 1 :]]
    return _value(rng)


def _json(data: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except ValueError:
        return _bytes(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _edit(value, rng)
    text = json.dumps(value)
    if rng.random() < 0.03:
        text = text.replace("1", "[" * 100_000 + "]" * 100_000, 1)
    return text.encode("utf-8", "surrogatepass")


def _labels(data: bytes, rng: random.Random) -> bytes:
    words = data.split(b" ")
    for _ in range(rng.choice((1, 1, 2))):
        said = _word(rng) if rng.random() < 0.3 else str(rng.choice((*_NUMBERS, "nan", "-inf", "1e-9", "0.999999")))
        words[rng.randrange(len(words))] = said.encode("utf-8", "surrogatepass")
    return b" ".join(words) * rng.choice((1, 1, 1, 1000))


def _slim(data: bytes, rng: random.Random) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with safe_open(file.name, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            fields = json.loads(opened.metadata()["slimkit"])
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.2:
            name = rng.choice(list(tensors))
            how = rng.randrange(4)
            changed = [tensors[name].int(), tensors[name][..., :1].contiguous(), tensors[name].half(), torch.zeros(0)][
                how
            ]
            tensors[_word(rng) if rng.random() < 0.2 else name] = changed
        else:
            fields = _edit(fields, rng)
    if isinstance(fields, dict) and rng.random() < 0.9:
        fields.pop("digest", None)
        fields["digest"] = metadata.digest(fields, tensors)
    clean = {name.encode("utf-8", "replace").decode(): tensor for name, tensor in tensors.items()}
    return to_safetensors(clean, {"slimkit": json.dumps(fields)})


def _state(data: bytes, rng: random.Random) -> bytes:
    import hashlib

    start = len(state._MAGIC) + hashlib.blake2b().digest_size
    payload = _archive(data[start:], rng)
    return state._MAGIC + hashlib.blake2b(payload).digest() + payload


def _toml(data: bytes, rng: random.Random) -> bytes:
    lines = data.decode().splitlines()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice(("arch", "data", "trust_pickle", "ratio", "max_macs", "seed", "input_shape", "latency_table"))
        value = rng.choice((json.dumps(_value(rng)), "[" * 5000, "1979-05-27", "0x" + "f" * 9000, "nan", "{a = 1}"))
        lines[rng.randrange(len(lines))] = f"{name} = {value}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _protobuf(data: bytes, rng: random.Random) -> bytes:
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        how, graph = rng.randrange(7), model.graph
        tensor = graph.input[0].type.tensor_type
        if how == 0:
            tensor.elem_type = rng.choice((1, 2, 3, 6, 7, 8, 9, 10, 11, 14, 16))
        elif how == 1 and len(tensor.shape.dim):
            dim = rng.choice(list(tensor.shape.dim))
            dim.dim_value = rng.choice((0, 1, -1, 7, 60_000, 2**31, 2**62))
        elif how == 2:
            del tensor.shape.dim[rng.randrange(len(tensor.shape.dim) + 1) :]
        elif how == 3:
            rng.choice(list(graph.node)).op_type = rng.choice(
                ("Conv", "Relu", "Expand", "Tile", "Loop", "NonZero", "X")
            )
        elif how == 4 and graph.initializer:
            weight = rng.choice(list(graph.initializer))
            weight.dims[:] = [rng.choice((0, 1, 3, -1, 2**40)) for _ in range(rng.randrange(5))]
        elif how == 5:
            graph.input.add().CopyFrom(graph.input[0])
        else:
            rng.choice(list(graph.node)).input[:] = [rng.choice(("x", "w", "y", "", "z"))] * rng.randrange(4)
    return bytes(model.SerializeToString())


# What reads it -----------------------------------------------------------------------------------------------


def _checkpoint(path: Path) -> None:
    inspect_checkpoint(path, CompressSpec())


def _settings(path: Path) -> None:
    make(CompressSpec, read_config(path))


def _report(path: Path) -> None:
    rebuild.rebuild([path], path.with_name("page.html"), force=True)


def _resumed(path: Path) -> None:
    store = training.Store(path.parent, resume=True, identity={"x": 1})
    found, _ = state.read(store)
    with state.fitting(store):
        assert found is not None
        small().load_state_dict(found["model"])


def _bench(path: Path) -> None:
    probe.check(path, seconds=SECONDS / 2)


def _pictures(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(_PICTURES):
        Image.new("RGB", (40, 30), (number,) * 3).save(folder / f"{number}.png")


def _boxes(path: Path, finds: Finds = _NOTHING) -> None:
    """Open a folder with the annotations, and read every picture of it."""
    _pictures(path.parent / "images")
    dataset = open_data(f"folder:{path.parent}", task=DETECTION, own=Provenance(finds=finds))
    for split in (dataset.train, dataset.validation, dataset.test):
        assert isinstance(split, LoaderSplit)
        for index in range(len(split)):
            for seed in (None, 1, 2):
                split.fetch(index, seed)


def _labelled(path: Path) -> None:
    (path.parent / "labels").mkdir(exist_ok=True)
    path.replace(path.parent / "labels" / "0.txt")
    for number in range(1, _PICTURES):
        (path.parent / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.25 0.5")
    _boxes(path)


READ: dict[str, Callable[[Path], None]] = {
    **dict.fromkeys(
        ("state dict", "old state dict", "arrays", "pickled module", "slim file", "exported program", "TorchScript"),
        _checkpoint,
    ),
    "run.toml": _settings,
    "report": _report,
    "resume state": _resumed,
    "ONNX": _bench,
    "latency table": lambda path: layer_table.load(path) and None,
    "annotations": lambda path: _boxes(path, Finds(masks=True, keypoints=2)),
    "YOLO labels": _labelled,
}
FILES = {"resume state": "state.bin", "report": "report.json", "annotations": "annotations.json"}
SHARE = {"ONNX": 0.25}  # each starts an engine in a process of its own


def child(kind: str, path: Path, answer: int) -> None:
    """Read one file within bounds, say what came of it through a pipe, and end."""
    work = str(path.parent.resolve())
    ran: list[str] = []

    def audit(event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(given[1], str) and set(given[1]) & set("wax+"):
            name = os.path.abspath(os.fsdecode(given[0])) if not isinstance(given[0], int) else work
            if not name.startswith((work, tempfile.gettempdir(), os.devnull)):
                ran.append(f"open {name}")
        elif event == "import":
            if given[0].partition(".")[0] not in _ROOTS and given[0].partition(".")[0] not in sys.modules:
                ran.append(f"import {given[0]}")
        elif event.startswith(("os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "os.mkdir")):
            if CANARY in str(given) or not event.startswith("os.mkdir"):
                ran.append(event)
        elif event == "subprocess.Popen" and kind != "ONNX":
            ran.append(f"{event} {given[0]}")

    with open("/proc/self/statm") as file:
        addresses = int(file.read().split()[0]) * resource.getpagesize() + ADDRESSES
    if kind != "ONNX":  # its own process is bounded by `probe`
        resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    faulthandler.disable()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    sys.addaudithook(audit)
    warnings.simplefilter("ignore")
    outcome, detail = "ok", ""
    try:
        READ[kind](path)
    except SlimkitError as error:
        outcome, detail = "refused", str(error)
        if "allocate memory" in detail or "MemoryError" in detail:
            outcome = "memory"
    except MemoryError as error:
        outcome, detail = "memory", str(error)
    except BaseException as error:
        outcome = "memory" if "allocate memory" in str(error) else "traceback"
        places = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(p.filename).name}:{p.lineno}" for p in places if "slimkit" in p.filename][-2:]
        detail = f"{type(error).__name__}: {str(error)[:200]} at {' '.join(ours)}"
    if ran:
        outcome, detail = "code run", "; ".join(ran[:3])
    os.write(answer, json.dumps([outcome, detail[:500]]).encode("utf-8", "replace"))
    os._exit(0)


def one(kind: str, data: bytes, folder: Path) -> dict[str, Any]:
    """Read one input in a child; give its outcome, wall seconds and largest memory in MB."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / FILES.get(kind, "input")
    path.write_bytes(data)
    reading, writing = os.pipe()
    began = time.perf_counter()
    number = os.fork()
    if number == 0:
        try:
            os.chdir(folder)
            child(kind, path, writing)
        finally:
            os._exit(99)
    os.close(writing)
    _, status, used = os.wait4(number, 0)
    said = os.read(reading, 65536)
    os.close(reading)
    if os.WIFSIGNALED(status):
        signal = os.WTERMSIG(status)
        outcome, detail = ("hang", "CPU time") if signal in (24, 9) else ("signal", str(signal))
    else:
        outcome, detail = json.loads(said) if said else ("signal", f"exit {os.WEXITSTATUS(status)}")
    if (folder / CANARY).exists():
        outcome = "code run"
    seconds = round(time.perf_counter() - began, 3)
    return {"outcome": outcome, "detail": detail, "seconds": seconds, "mb": used.ru_maxrss // 1024}


def run(count: int, seed: int, out: Path | None, kinds: Sequence[str] = ()) -> dict[str, Counter[str]]:
    """Read `count` changed files of all kinds; give how often each outcome came, by kind."""
    torch.set_num_threads(1)
    start = seeds()
    wanted = [kind for kind in start if not kinds or kind in kinds]
    weights = [SHARE.get(kind, 1.0) for kind in wanted]
    table: dict[str, Counter[str]] = {kind: Counter() for kind in wanted}
    folder = Path(tempfile.mkdtemp(prefix="slimkit-fuzz-"))
    kept = out.with_suffix("") if out else None
    gc.freeze()
    try:
        for kind in wanted:  # what is imported late is imported before the forks
            for data in start[kind][: 1 if kind == "ONNX" else None]:
                found = one(kind, data, folder / "input")
                if found["outcome"] not in HARMLESS:
                    raise RuntimeError(f"the sound {kind} ends in {found}")
        _warm(start, folder)
        for index in range(count):
            rng = random.Random(f"{seed} {index}")
            kind = rng.choices(wanted, weights)[0]
            sound = rng.choice(start[kind])
            try:
                data = change(kind, sound, rng)
            except Exception:  # a change after which the next one finds nothing
                data = _bytes(sound, rng)
            row = {"index": index, "seed": seed, "kind": kind, **one(kind, data, folder / "input")}
            table[kind][row["outcome"]] += 1
            if out:
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if kept and row["outcome"] not in HARMLESS:
                kept.mkdir(exist_ok=True)
                (kept / f"{index}-{kind.replace(' ', '-')}").write_bytes(data)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return table


def _warm(start: dict[str, list[bytes]], folder: Path) -> None:
    """Read sound files here, so that a child need not import anything; timm's tools look for packages by themselves."""
    with contextlib.suppress(ImportError):
        importlib.import_module("timm.utils")
    for kind, read in READ.items():
        if kind in start and kind != "ONNX":
            path = folder / "warm" / FILES.get(kind, "input")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(start[kind][0])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read(path)
                except SlimkitError:
                    continue


def show(table: dict[str, Counter[str]]) -> str:
    """Write the table of outcomes."""
    lines = [f"{'kind':<18}" + "".join(f"{outcome:>11}" for outcome in (*OUTCOMES, "all"))]
    total: Counter[str] = Counter()
    for kind, counts in table.items():
        total += counts
        lines.append(f"{kind:<18}" + "".join(f"{counts[o]:>11}" for o in OUTCOMES) + f"{counts.total():>11}")
    lines.append(f"{'all':<18}" + "".join(f"{total[o]:>11}" for o in OUTCOMES) + f"{total.total():>11}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--kind", action="append", default=[])
    given = parser.parse_args()
    began = time.perf_counter()
    print(show(run(given.count, given.seed, given.out, given.kind)))
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
