"""How long one layer takes at given widths: a small ONNX model each, timed once a machine and kept."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from statistics import median

import onnx
from onnx import TensorProto, helper

from slimkit.measure.engines import open_runner
from slimkit.measure.environment import cpu_name
from slimkit.measure.layers import DEPTHWISE, LINEAR, Shape
from slimkit.measure.node_times import latency_by_node
from slimkit.progress import Progress
from slimkit.whole_file import whole

_REPEATS = 8
_ROUNDED = 0.0005  # milliseconds that a profiler of whole microseconds leaves out, on average
_SCHEMA = "slimkit.layer-times/3"
LayerSize = tuple[Shape, int, int]  # shape, inputs (of one group), outputs


def times(points: Iterable[LayerSize], engine: str, threads: int, batch: int, progress: Progress) -> dict[str, float]:
    """Return milliseconds by `Shape.key`, of what is kept from before and of what is measured now.

    A layer is timed from its start to that of the next node, finer than the profiler's whole microseconds. What the
    profiler itself takes between them is about as much for each; the median of all says how much.
    """
    wanted = {shape.key(inputs, outputs): (shape, inputs, outputs) for shape, inputs, outputs in points}
    store = _store(engine, threads, batch)
    known = _read(store)
    missing = [key for key in wanted if key not in known]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number, key in enumerate(missing):
                progress(f"timing layers, {len(missing)} widths", number / len(missing))
                known[key] = _time(wanted[key], Path(folder, "layer.onnx"), engine, threads, batch)
    finally:
        if missing:
            _write(store, known)
    whole = {key: known[key] for key in wanted}
    between = median(turn - fastest - _ROUNDED for turn, fastest in whole.values())
    return {key: max(turn - between, fastest) for key, (turn, fastest) in whole.items()}


def _time(point: LayerSize, path: Path, engine: str, threads: int, batch: int) -> tuple[float, float]:
    """Time one layer by the engine's profiler, without changes of layout around it: `turn_ms` and `fastest_ms`."""
    path.write_bytes(small_model(*point, batch).SerializeToString())
    nodes = latency_by_node(path, engine=engine, threads=threads, batch=batch, repeats=_REPEATS)
    own = [node for node in nodes if not node.operator.startswith("Reorder")]
    return sum(node.turn_ms for node in own), sum(node.fastest_ms for node in own)


def small_model(shape: Shape, inputs: int, outputs: int, batch: int) -> onnx.ModelProto:
    """Return a model of one layer; its weights are made when it is opened, so that the file stays small."""
    if shape.kind == LINEAR:
        size = [batch * shape.space[0], inputs]
        weight = [outputs, inputs]
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    else:
        groups = outputs // shape.per_group if shape.kind == DEPTHWISE else shape.groups
        size = [batch, inputs * groups, *shape.space]
        weight = [outputs, inputs, *shape.kernel]
        node = helper.make_node(
            "Conv", ["x", "w", "b"], ["y"], group=groups, kernel_shape=shape.kernel,
            strides=shape.strides, pads=shape.pads, dilations=shape.dilations,
        )  # fmt: skip
    filled = [
        helper.make_node(
            "ConstantOfShape", [f"{name}_shape"], [name],
            value=helper.make_tensor("value", TensorProto.FLOAT, [1], [0.01]),
        )
        for name in ("w", "b")
    ]  # fmt: skip
    graph = helper.make_graph(
        [*filled, node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(size))],
        [
            helper.make_tensor("w_shape", TensorProto.INT64, [len(weight)], weight),
            helper.make_tensor("b_shape", TensorProto.INT64, [1], [outputs]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def folder() -> Path:
    """Return the user's cache folder of slimkit."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base, "slimkit", "layer-times")


def engine_version(engine: str) -> str:
    """Return the name and version of an engine, as a latency record has it."""
    shape = Shape(kind=LINEAR, space=(1,))
    with tempfile.TemporaryDirectory() as work:
        path = Path(work, "layer.onnx")
        path.write_bytes(small_model(shape, 1, 1, 1).SerializeToString())
        return open_runner(path, engine).engine


def _store(engine: str, threads: int, batch: int) -> Path:
    words = f"{engine_version(engine)}, {cpu_name()}, {os.cpu_count()} cores, {threads} threads, batch {batch}"
    return folder() / f"{engine}-{hashlib.sha256(words.encode()).hexdigest()[:16]}.json"


def _read(store: Path) -> dict[str, tuple[float, float]]:
    """Return what was kept; a damaged file is as good as none, and so is a time that can be none."""
    try:
        found = json.loads(store.read_text())
        if found["schema"] == _SCHEMA:
            kept = {str(key): (float(turn), float(fastest)) for key, (turn, fastest) in found["ms"].items()}
            return {key: times for key, times in kept.items() if all(0 <= one < math.inf for one in times)}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _write(store: Path, known: dict[str, tuple[float, float]]) -> None:
    """Keep times beside those that others have kept meanwhile; where that cannot be, they are measured again."""
    with suppress(OSError):
        store.parent.mkdir(parents=True, exist_ok=True)
        with whole(store) as part:
            part.write_text(json.dumps({"schema": _SCHEMA, "ms": _read(store) | known}, indent=0))
