"""The cost table of one network on one machine: each layer's time at a few widths, and the rest."""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal

from slimkit import whole_file
from slimkit.errors import EngineError, OutputError, RecordError
from slimkit.measure.engines import runs_here
from slimkit.measure.environment import cpu_name, preferred_step
from slimkit.measure.latency import Latency, measure
from slimkit.measure.layer_times import LayerSize, times
from slimkit.measure.layers import DEPTHWISE, LINEAR, Layer, layers
from slimkit.measure.node_times import NodeTime, latency_by_node, unprofiled
from slimkit.progress import Progress, quiet
from slimkit.record import Amount, Positive, Record
from slimkit.results import TableSummary

_NAME = "slimkit.latency-table/"
_SHARES = (0.25, 0.5)  # of a layer's width; the whole width is always timed
_PART = 4  # inputs that are fewer than a block are computed in parts of it (ONNX Runtime, measured)
_NARROW = 4  # blocks of inputs up to which a layer may come to read less than one
_OWN_TIME = (
    "Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul",  # ONNX Runtime
    "Convolution", "GroupConvolution", "FullyConnected",  # OpenVINO
)  # fmt: skip
_TRUSTED = (0.5, 2.0)  # a layer's time in the network over its time alone


@dataclass(frozen=True, kw_only=True)
class LayerTimes(Record):
    """The times of one layer.

    Attributes:
        layer: the layer.
        block: counts of outputs that take as long as the next multiple of it; so do counts of inputs above it,
            and those below it as long as the next multiple of 4.
        inputs, outputs: widths that were timed, in ascending order, each once; the last is the layer's own.
        ms: [inputs][outputs], batch and threads as in the table.
    """

    layer: Layer
    block: Positive
    inputs: tuple[Positive, ...]
    outputs: tuple[Positive, ...]
    ms: tuple[tuple[Amount, ...], ...]

    def __post_init__(self) -> None:
        for name, widths, own in (
            ("inputs", self.inputs, self.layer.inputs),
            ("outputs", self.outputs, self.layer.outputs),
        ):
            if list(widths) != sorted(set(widths)) or widths[-1:] != (own,):
                raise ValueError(f"{name} must be widths in ascending order, each once, and the last the layer's {own}")
        if len(self.ms) != len(self.inputs) or any(len(line) != len(self.outputs) for line in self.ms):
            raise ValueError("ms must be [inputs][outputs]")

    def at(self, inputs: int, outputs: int) -> float:
        """Return milliseconds at any width: linear between the widths that were timed, and below them."""
        part = self.block if inputs >= self.block else min(self.block, _PART)
        x, i = _place(self.inputs, min(_up(inputs, part), self.inputs[-1]))
        y, j = _place(self.outputs, min(_up(outputs, self.block * self.layer.shape.groups), self.outputs[-1]))
        a, b = self.ms[i], self.ms[min(i + 1, len(self.ms) - 1)]
        k = min(j + 1, len(a) - 1)
        return max((1 - x) * ((1 - y) * a[j] + y * a[k]) + x * ((1 - y) * b[j] + y * b[k]), 0.0)


@dataclass(frozen=True, kw_only=True)
class LatencyTable(Record):
    """What the layers of a network cost on one machine.

    Attributes:
        runtime: the engine, as `--engine` names it, or one that slimkit does not run; engine: its name and version.
        threads, batch, cpu: what was timed, and on what.
        step: channel counts that the engine runs fast there are multiples of this.
        network_ms: latency of the whole network.
        clock: what that is: the `wall` time's median, or the `cpu` time where the machine was too noisy.
        rows: one a layer, in order of execution.
        fixed_ms, varying_ms: the rest: what does not depend on widths, and what follows the activations' size.
    """

    table: Literal["slimkit.latency-table/1"] = "slimkit.latency-table/1"
    runtime: str
    engine: str
    threads: Positive
    batch: Positive
    cpu: str
    step: Positive
    network_ms: Amount
    clock: Literal["wall", "cpu"]
    rows: tuple[LayerTimes, ...]
    fixed_ms: Amount
    varying_ms: Amount

    def __post_init__(self) -> None:
        if not self.rows or not self.network_ms:
            raise ValueError("there must be one layer at least, and a time of the network")

    def summary(self, path: Path) -> TableSummary:
        """Return what a person wants to know of it: where it lies and was made, and the network's time."""
        return TableSummary(
            path=str(path),
            layers=len(self.rows),
            runtime=self.runtime,
            engine=self.engine,
            threads=self.threads,
            batch=self.batch,
            cpu=self.cpu,
            step=self.step,
            network_ms=self.network_ms,
            clock=self.clock,
        )


def time_layers(
    path: str | Path,
    input_shape: tuple[int, ...] | None = None,
    *,
    engine: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    progress: Progress = quiet,
    whole: Latency | None = None,
) -> LatencyTable:
    """Time the layers of an ONNX file at a few widths, and the file itself.

    Args:
        path: the whole network, as slimkit exports it.
        input_shape: (C, H, W), where the file leaves it free.
        engine, threads, batch: what the network will run on.
        progress: called with what is being done, and the share done.
        whole: what the file itself takes, where that has been measured already.

    Raises:
        CheckpointError, EngineError: the file cannot be read or has no layers, the engine is missing.
    """
    if whole is None:
        progress("timing the network", None)
        whole = measure([path], input_shape, threads=threads, batch=batch, engine=engine, progress=progress)[0]
    found = layers(path, input_shape)
    if not found:
        raise EngineError(
            f"{path}: no convolution and no linear layer with known sizes is in it.\n"
            "  Give the whole network in 32-bit floats, as slimkit or torch.onnx export it"
        )
    batch = whole.batch  # that of the file, where it is fixed
    grids = [_grid(layer, preferred_step()) for layer in found]
    points: list[LayerSize] = [
        (layer.shape, i, o)
        for layer, (_, inputs, outputs) in zip(found, grids, strict=True)
        for i in inputs
        for o in outputs
    ]
    known = times(points, engine, threads, batch, progress)
    progress("timing the layers within the network", None)
    nodes = latency_by_node(path, input_shape, engine=engine, threads=threads, batch=batch)
    nodes, between = unprofiled(nodes, whole.fastest_ms)
    inside, rest = _inside(nodes, found)
    rows = []
    for number, (layer, (block, inputs, outputs)) in enumerate(zip(found, grids, strict=True)):
        ms = [[known[layer.shape.key(i, o)] for o in outputs] for i in inputs]
        alone = max(ms[-1][-1], 1e-6)
        within = inside.get(number, alone)
        scale = min(max(within / alone, _TRUSTED[0]), _TRUSTED[1])
        scaled = tuple(tuple(value * scale for value in line) for line in ms)
        rows.append(LayerTimes(layer=layer, block=block, inputs=tuple(inputs), outputs=tuple(outputs), ms=scaled))
    return LatencyTable(
        runtime=engine,
        engine=whole.engine,
        threads=threads,
        batch=batch,
        cpu=cpu_name(),
        step=preferred_step(),
        network_ms=whole.typical_ms,
        clock="cpu" if whole.clock == "cpu" else "wall",
        rows=tuple(rows),
        fixed_ms=len(nodes) * between,
        varying_ms=sum(rest),
    )


def _grid(layer: Layer, step: int) -> tuple[int, list[int], list[int]]:
    """Return the block of a layer, and the widths at which it is timed: inputs (of a group), outputs."""
    groups = layer.shape.groups
    block = step if min(layer.inputs, layer.outputs // groups) >= step or groups == 1 else 1
    if layer.shape.kind == DEPTHWISE:
        return block, [1], _widths(layer.outputs, block)
    if layer.shape.kind == LINEAR:
        block = 1
    inputs = _widths(layer.inputs, block)
    if groups == 1 and block > _PART and _PART < layer.inputs <= _NARROW * block:
        inputs = sorted({*inputs, _PART, *((block // 2,) if block // 2 < layer.inputs else ())})
    return block, inputs, [groups * n for n in _widths(layer.outputs // groups, block)]


def _widths(n: int, block: int) -> list[int]:
    return sorted({n, *(min(_up(max(int(n * share), 1), block), n) for share in _SHARES)})


def _up(count: int, block: int) -> int:
    return ceil(count / block) * block


def _place(grid: Sequence[int], value: int) -> tuple[float, int]:
    """Return where a value lies: the share of the way from grid point i to the next, and i."""
    if len(grid) == 1:
        return 0.0, 0
    i = min(max(bisect_left(grid, value) - 1, 0), len(grid) - 2)
    return (value - grid[i]) / (grid[i + 1] - grid[i]), i


def _inside(nodes: list[NodeTime], found: list[Layer]) -> tuple[dict[int, float], list[float]]:
    """Return each layer's time within the network by its number, and the times of all nodes that are no layer's."""
    own: defaultdict[str, list[float]] = defaultdict(list)
    rest = []
    by_path: defaultdict[str, list[int]] = defaultdict(list)
    for number, layer in enumerate(found):
        by_path[layer.path].append(number)
    for node in nodes:
        if node.operator in _OWN_TIME and node.layer in by_path:
            own[node.layer].append(node.turn_ms)
        else:
            rest.append(node.turn_ms)
    inside: dict[int, float] = {}
    for name, numbers in by_path.items():
        if len(own[name]) == len(numbers):  # else an operator of the path was fused away or split
            inside.update(zip(numbers, own[name], strict=True))
    return inside, rest


def save(table: LatencyTable, path: str | Path, force: bool = False) -> None:
    """Write a table to a JSON file, whole or not at all; an earlier one is replaced only with `force`.

    Raises:
        OutputError: the file exists, or is no table, or cannot be written.
    """
    check_free(path, force)
    whole_file.write_whole(Path(path), json.dumps(table.to_dict(), indent=1, allow_nan=False) + "\n", "the table")


def check_free(path: str | Path, force: bool) -> None:
    """Check, before any work, that a table can be written to a path.

    Raises:
        OutputError: a table is there (without `force`), or something else, or there is no folder to write it in.
    """
    path = Path(path)
    whole_file.check_free(path, force, _is_table, "table")
    if not os.access(path.absolute().parent, os.W_OK):
        raise OutputError(f"{path}: its folder is missing or cannot be written to.\n  Give another `table`")


def _is_table(path: Path) -> bool:
    """Tell whether a file is a latency table, of whatever version, and even where it can be of no use."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and str(found.get("table")).startswith(_NAME)


def load(path: str | Path) -> LatencyTable:
    """Read a table that `save` wrote, perhaps on another machine.

    Raises:
        EngineError: the file is missing, damaged, or something else.
    """
    try:
        return LatencyTable.from_dict(json.loads(Path(path).read_bytes()))
    except OSError as error:
        wrong = f"the latency table cannot be read ({error.strerror or error})"
    except RecordError as error:
        wrong = f"not a latency table ({str(error).rstrip('.')})"
    except (ValueError, RecursionError) as error:
        wrong = f"not a latency table ({error})"
    raise EngineError(f"{path}: {wrong}.\n  Make one on the device: slimkit bench MODEL.onnx --table table.json")


def check_fits(
    table: LatencyTable, path: str | Path, found: list[Layer], engine: str, threads: int, batch: int
) -> None:
    """Check that a table that was read is one of this network, engine, thread count and batch.

    One of an engine that does not run here is aimed at whatever engine latency is measured in.

    Raises:
        EngineError: it is not; the message says in what they differ.
    """
    asked: dict[str, object] = {"engine": engine, "threads": threads, "batch": batch}
    given = {"engine": table.runtime, "threads": table.threads, "batch": table.batch}
    if not runs_here(table.runtime):
        asked["engine"] = table.runtime
    differing = [name for name, value in asked.items() if given[name] != value]
    if differing:
        theirs, own = (", ".join(f"{name} {side[name]}" for name in differing) for side in (given, asked))
        words = {"runtime" if name == "engine" else name: given[name] for name in differing}
        arguments = ", ".join(f"`{name}={value!r}`" for name, value in words.items())
        raise EngineError(
            f"{path}: a latency table for {theirs}, but this run is for {own}.\n"
            f"  Add {arguments}, or make a table with the settings of this run"
        )
    there = [(row.layer.shape, row.layer.inputs, row.layer.outputs) for row in table.rows]
    here = [(layer.shape, layer.inputs, layer.outputs) for layer in found]
    if there != here:
        where = next((i for i, pair in enumerate(zip(there, here, strict=False)) if pair[0] != pair[1]), None)
        what = f"{len(there)} layers, this one has {len(here)}"
        if where is not None:
            what = f"another layer {where + 1} ({found[where].path or found[where].weight})"
        raise EngineError(
            f"{path}: a latency table of another network: it has {what}.\n"
            "  Make the table from this network's ONNX file, before anything is removed, at its input size"
        )
