"""The cost table of one network on one machine: each layer's time at a few widths, and the rest."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from math import ceil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slimkit.errors import EngineError, OutputError
from slimkit.latency.layers import DEPTHWISE, LINEAR, Layer, layers
from slimkit.latency.samples import Point, Progress, times
from slimkit.measure.environment import cpu_name, preferred_step
from slimkit.measure.latency import measure
from slimkit.measure.node_times import latency_by_node

_SHARES = (0.25, 0.5)  # of a layer's width; the whole width is always timed
_PART = 4  # inputs that are fewer than a block are computed in parts of it (ONNX Runtime, measured)
_NARROW = 4  # blocks of inputs up to which a layer may come to read less than one
_OWN_TIME = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
_NODE_MS = 0.002  # what an engine spends between two nodes; ONNX Runtime, measured
_TRUSTED = (0.5, 2.0)  # a layer's time in the network over its time alone


class Row(BaseModel):
    """The times of one layer.

    Attributes:
        layer: the layer.
        block: counts of outputs that take as long as the next multiple of it; so do counts of inputs above it,
            and those below it as long as the next multiple of 4.
        inputs, outputs: ascending widths that were timed; the last is the layer's own.
        ms: [inputs][outputs], batch and threads as in the table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: Layer
    block: int = Field(ge=1)
    inputs: list[int] = Field(min_length=1)
    outputs: list[int] = Field(min_length=1)
    ms: list[list[float]]

    @model_validator(mode="after")
    def _rectangular(self) -> Row:
        if len(self.ms) != len(self.inputs) or any(len(line) != len(self.outputs) for line in self.ms):
            raise ValueError("ms is not [inputs][outputs]")
        return self

    def at(self, inputs: int, outputs: int) -> float:
        """Return milliseconds at any width: linear between the widths that were timed, and below them."""
        part = self.block if inputs >= self.block else min(self.block, _PART)
        x, i = _place(self.inputs, min(_up(inputs, part), self.inputs[-1]))
        y, j = _place(self.outputs, min(_up(outputs, self.block * self.layer.shape.groups), self.outputs[-1]))
        a, b = self.ms[i], self.ms[min(i + 1, len(self.ms) - 1)]
        k = min(j + 1, len(a) - 1)
        return max((1 - x) * ((1 - y) * a[j] + y * a[k]) + x * ((1 - y) * b[j] + y * b[k]), 0.0)


class Table(BaseModel):
    """What the layers of a network cost on one machine.

    Attributes:
        engine: name and version; threads, batch, cpu: what was timed, and on what.
        network_ms: median latency of the whole network; CPU time where the machine was too noisy.
        rows: one a layer, in order of execution.
        fixed_ms, varying_ms: the rest: what does not depend on widths, and what follows the activations' size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: Literal["slimkit.latency-table/1"] = "slimkit.latency-table/1"
    engine: str
    threads: int = Field(ge=1)
    batch: int = Field(ge=1)
    cpu: str
    network_ms: float = Field(gt=0)
    rows: list[Row]
    fixed_ms: float = Field(ge=0)
    varying_ms: float = Field(ge=0)


def build(
    path: str | Path,
    input_shape: tuple[int, ...] | None = None,
    *,
    engine: str = "onnxruntime",
    threads: int = 1,
    batch: int = 1,
    progress: Progress = lambda message, share: None,
) -> Table:
    """Time the layers of an ONNX file at a few widths, and the file itself.

    Args:
        path: the whole network, as slimkit exports it.
        input_shape: (C, H, W), where the file leaves it free.
        engine, threads, batch: what the network will run on.
        progress: called with what is being done, and the share done.

    Raises:
        CheckpointError, EngineError: the file cannot be read, the engine is missing.
    """
    whole = measure([path], input_shape, threads=threads, batch=batch, engine=engine)[0]
    found = layers(path, input_shape)
    grids = [_grid(layer, preferred_step(engine)) for layer in found]
    points: list[Point] = [
        (layer.shape, i, o)
        for layer, (_, inputs, outputs) in zip(found, grids, strict=True)
        for i in inputs
        for o in outputs
    ]
    known = times(points, engine, threads, batch, progress)
    whole_ms = whole.cpu_ms if whole.noisy and threads == 1 else whole.median_ms
    inside: dict[int, float] = {}
    rest, nodes = 0.0, len(found)
    if engine == "onnxruntime":
        inside, rest, nodes = _inside(path, input_shape, found, threads, batch)
    rows = []
    for number, (layer, (block, inputs, outputs)) in enumerate(zip(found, grids, strict=True)):
        ms = [[known[layer.shape.key(i, o)] for o in outputs] for i in inputs]
        alone = max(ms[-1][-1], 1e-6)
        scale = min(max(inside.get(number, alone) / alone, _TRUSTED[0]), _TRUSTED[1])
        ms = [[value * scale for value in line] for line in ms]
        rows.append(Row(layer=layer, block=block, inputs=inputs, outputs=outputs, ms=ms))
    if engine != "onnxruntime":
        rest = max(whole_ms - sum(row.ms[-1][-1] for row in rows), 0.0)
    return Table(
        engine=whole.engine,
        threads=threads,
        batch=batch,
        cpu=cpu_name(),
        network_ms=whole_ms,
        rows=rows,
        fixed_ms=nodes * _NODE_MS,
        varying_ms=rest,
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


def _place(grid: list[int], value: int) -> tuple[float, int]:
    """Return where a value lies: the share of the way from grid point i to the next, and i."""
    if len(grid) == 1:
        return 0.0, 0
    i = min(max(bisect_left(grid, value) - 1, 0), len(grid) - 2)
    return (value - grid[i]) / (grid[i + 1] - grid[i]), i


def _inside(
    path: str | Path, input_shape: tuple[int, ...] | None, found: list[Layer], threads: int, batch: int
) -> tuple[dict[int, float], float, int]:
    """Return each layer's time within the network, the time of all other nodes, and the number of nodes."""
    nodes = latency_by_node(path, input_shape, threads=threads, batch=batch)
    own: defaultdict[str, list[float]] = defaultdict(list)
    rest = 0.0
    by_path: defaultdict[str, list[int]] = defaultdict(list)
    for number, layer in enumerate(found):
        by_path[layer.path].append(number)
    for node in nodes:
        if node.operator in _OWN_TIME and node.layer in by_path:
            own[node.layer].append(node.fastest_ms)
        else:
            rest += node.fastest_ms
    inside: dict[int, float] = {}
    for name, numbers in by_path.items():
        if len(own[name]) == len(numbers):  # else an operator of the path was fused away or split
            inside.update(zip(numbers, own[name], strict=True))
    return inside, rest, len(nodes)


def save(table: Table, path: str | Path) -> None:
    """Write a table to a JSON file.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        Path(path).write_text(table.model_dump_json(indent=1))
    except OSError as error:
        raise OutputError(f"{path}: the table cannot be written: {error.strerror or error}.") from error


def load(path: str | Path) -> Table:
    """Read a table that `save` wrote, perhaps on another machine.

    Raises:
        EngineError: the file is missing, damaged, or something else.
    """
    try:
        return Table.model_validate_json(Path(path).read_bytes())
    except (OSError, ValidationError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"
        else:
            reason = error.strerror or str(error)
        raise EngineError(
            f"{path}: not a latency table ({reason}).\n"
            "  Make one on the device with: slimkit bench MODEL.onnx --table table.json"
        ) from error


def check_fits(table: Table, path: str | Path, found: list[Layer], engine: str, threads: int, batch: int) -> None:
    """Check that a table that was read is one of this network, engine, thread count and batch.

    Raises:
        EngineError: it is not; the message says in what they differ.
    """
    asked: dict[str, object] = {"engine": engine, "threads": threads, "batch": batch}
    given = {"engine": table.engine.split()[0], "threads": table.threads, "batch": table.batch}
    for name, value in asked.items():
        if given[name] != value:
            raise EngineError(
                f"{path}: a latency table for {name} {given[name]}, but this run is for {name} {value}.\n"
                "  Make the table with the settings of this run, or change those of this run"
            )
    theirs = [(row.layer.shape, row.layer.inputs, row.layer.outputs) for row in table.rows]
    own = [(layer.shape, layer.inputs, layer.outputs) for layer in found]
    if theirs != own:
        where = next((i for i, pair in enumerate(zip(theirs, own, strict=False)) if pair[0] != pair[1]), None)
        what = f"{len(theirs)} layers, this one has {len(own)}"
        if where is not None:
            what = f"another layer {where + 1} ({found[where].path or found[where].weight})"
        raise EngineError(
            f"{path}: a latency table of another network: it has {what}.\n"
            "  Make the table from this network's ONNX file, at its input size"
        )
