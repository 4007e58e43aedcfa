"""Where the time of an ONNX file goes: node by node, as the engine's own profiler sees it."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from slimkit.errors import EngineError
from slimkit.measure.engines import onnxruntime_runner, onnxruntime_session, openvino_model, openvino_runner, require
from slimkit.measure.latency import WARM_UPS, random_batch
from slimkit.settings.data import Shapes

PROFILED = ("onnxruntime", "openvino", "openvino-bf16")  # engines that say how long each node takes
_EVENT, _WHOLE = "_kernel_time", "SequentialExecutor::Execute"
_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul"}
_SHORT, _MANY = 0.02, 300  # seconds for more runs of a short network, and how many at most
_FINE = 0.1  # milliseconds of a node from which on whole microseconds are fine enough
_BETWEEN = 0.002  # milliseconds that an engine spends between two nodes, at most; ONNX Runtime, measured
_PROFILING = 0.01  # milliseconds that its profiler adds to a node, at most
_DEPTH = 6  # a hard swish is written as several nodes


@dataclass(frozen=True, kw_only=True)
class NodeTime:
    """What one node of the optimised graph costs.

    Attributes:
        layer: path of the module in the network, where the file was written by slimkit; "" for what the
            engine added itself (changes of memory layout) or what belongs to no module.
        operator: the engine's name of what runs.
        fastest_ms: wall time, milliseconds, least of the runs: an interruption only ever adds.
        turn_ms: from its start to the start of the next node, milliseconds. Profilers count whole microseconds, which
            is coarse for a node of three: for such ones it is the mean of the runs that were not interrupted, for
            longer ones the least. It holds what lies between two nodes too, the profiler's own work first of all.
    """

    layer: str
    operator: str
    fastest_ms: float
    turn_ms: float


def latency_by_node(
    path: str | Path,
    input_shape: Shapes | None = None,
    *,
    engine: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    repeats: int = 20,
) -> list[NodeTime]:
    """Time every node of an ONNX file, in the order of execution.

    A convolution, the BatchNorm folded into it and the activation fused with it are one node; it bears the
    convolution's layer. Profiling itself costs a few microseconds a node, so the sum is above the latency.

    Raises:
        CheckpointError: the file is missing or damaged.
        EngineError: the engine is unknown, not installed or has no profiler, or the input shape cannot be told.
    """
    require(engine)
    if engine not in PROFILED:
        raise EngineError(
            f"engine {engine!r}: it does not say how long a layer takes.\n  Choose one of: {', '.join(PROFILED)}"
        )
    if engine == "onnxruntime":
        return _onnxruntime(Path(path), input_shape, threads, batch, repeats)
    return _openvino(Path(path), input_shape, engine, threads, batch, repeats)


def unprofiled(nodes: Sequence[NodeTime], whole_ms: float) -> tuple[list[NodeTime], float]:
    """Return the nodes with turns that leave out what the profiler added, as much to each of them.

    Args:
        nodes: all of a network, one at least.
        whole_ms: what the network takes without a profiler, milliseconds.

    Returns:
        The nodes; and milliseconds that pass between two of them, where the network takes longer than they do.
    """
    each = (whole_ms - sum(node.turn_ms for node in nodes)) / len(nodes)
    added = min(max(-each, 0.0), _PROFILING)
    own = [replace(node, turn_ms=max(node.turn_ms - added, 0.1 * node.turn_ms)) for node in nodes]
    return own, min(max(each, 0.0), _BETWEEN)


def _onnxruntime(path: Path, input_shape: Shapes | None, threads: int, batch: int, repeats: int) -> list[NodeTime]:
    with tempfile.TemporaryDirectory() as folder:
        session = onnxruntime_session(path, threads, profile_prefix=str(Path(folder) / "profile"))
        runner = onnxruntime_runner(path, session)
        image = random_batch(path, runner, input_shape, batch)
        for _ in range(WARM_UPS):
            runner.run(image)
        began = time.perf_counter()
        for _ in range(repeats):
            runner.run(image)
        each = (time.perf_counter() - began) / repeats
        for _ in range(min(int(_SHORT / each), _MANY)):
            runner.run(image)
        try:
            events = json.loads(Path(session.end_profiling()).read_text())
        except (OSError, ValueError):  # ONNX Runtime says nothing where it cannot write
            raise EngineError(
                f"{path.name}: the profile that ONNX Runtime writes of it is not whole: the disk is full.\n"
                f"  Free some space in {Path(folder).parent}, or name another folder for such files: TMPDIR"
            ) from None
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    turns: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    last: list[float] | None = None
    at = 0.0
    for event in events:
        kernel = event.get("cat") == "Node" and event["name"].endswith(_EVENT)
        whole = event["name"] == _WHOLE
        if last is not None and (kernel or whole):
            last.append(((event["ts"] if kernel else event["ts"] + event["dur"]) - at) / 1e3)
            last = None
        if kernel:
            key = event["name"].removesuffix(_EVENT), event["args"]["op_name"]
            times[key].append(event["dur"] / 1e3)
            last, at = turns[key], event["ts"]
    layers = layers_of(path, list(times))
    return [
        NodeTime(layer=layer, operator=key[1], fastest_ms=min(runs[WARM_UPS:]), turn_ms=_typical(turns[key][WARM_UPS:]))
        for layer, (key, runs) in zip(layers, times.items(), strict=True)
    ]


def _typical(runs: list[float]) -> float:
    """Return the least of the runs, milliseconds; where microseconds count, the mean of those not interrupted."""
    if min(runs) >= _FINE:
        return min(runs)
    most = 1.5 * median(runs) + 0.001
    return fmean(run for run in runs if run <= most)


def _openvino(
    path: Path, input_shape: Shapes | None, engine: str, threads: int, batch: int, repeats: int
) -> list[NodeTime]:
    import onnx

    compiled = openvino_model(path, threads, engine, profile=True)
    image = random_batch(path, openvino_runner(path, compiled), input_shape, batch)
    request = compiled.create_infer_request()
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for turn in range(WARM_UPS + repeats):
        request.infer(dict(enumerate(image)), share_inputs=True)
        for node in request.get_profiling_info() if turn >= WARM_UPS else ():
            if node.status == node.Status.EXECUTED:
                times[node.node_name, node.node_type].append(node.real_time.total_seconds() * 1e3)
    nodes = onnx.load(str(path)).graph.node
    # A node is named as in the file; a convolution whose bias was split off, and the last one, are not.
    known = {name: node.name for node in nodes for name in (node.name, f"{node.name}/WithoutBiases", *node.output)}
    return [
        NodeTime(
            layer=known.get(name, "").rpartition("/")[0], operator=kind, fastest_ms=min(runs), turn_ms=_typical(runs)
        )
        for (name, kind), runs in times.items()
    ]


def layers_of(path: Path, ran: list[tuple[str, str]]) -> list[str]:
    """Return the module path of every node that ran, given as name and operator.

    The engine names a fused node after its last part, an activation or a sum: its layer is the nearest node
    of its own operator above it that doesn't run by itself.
    """
    import onnx

    graph = onnx.load(str(path)).graph
    nodes = {name: node for node in graph.node for name in (*node.output, node.name)}
    makers = {name: node for node in graph.node for name in node.output}
    names = [re.sub(r"(_bn)?_nchwc$", "", name) for name, _ in ran]
    alone = {n for n, (_, kind) in zip(names, ran, strict=True) if n in nodes and nodes[n].op_type == kind}
    found = []
    for name, (given, kind) in zip(names, ran, strict=True):
        node = nodes.get(name)
        if node is not None and name not in alone and not given.endswith("_bn_nchwc"):
            node = _nearest_above(node, _FUSED.get(kind, kind), makers, alone) or node
        found.append(node.name.rpartition("/")[0] if node is not None else "")
    return found


def _nearest_above(node: Any, kind: str, makers: dict[str, Any], alone: set[str]) -> Any:
    level = [node]
    for _ in range(_DEPTH):
        for candidate in level:
            if candidate.op_type == kind and candidate.name not in alone:
                return candidate
        level = [makers[name] for candidate in level for name in candidate.input if name in makers]
    return None
