"""ONNX files side by side, and the latency table that another machine can aim at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimkit.errors import SpecError
from slimkit.measure import layer_table as tables
from slimkit.measure import probe
from slimkit.measure.engines import require
from slimkit.measure.latency import Latency, measure
from slimkit.measure.onnx_bytes import bytes_of_onnx
from slimkit.progress import Progress, quiet
from slimkit.results import Benched
from slimkit.settings.data import Shapes
from slimkit.whole_file import refuse_inputs


def bench(
    paths: Sequence[Path],
    engines: Sequence[str] = ("onnxruntime",),
    *,
    threads: int = 1,
    batch: int = 1,
    input_shape: Shapes | None = None,
    progress: Progress = quiet,
) -> list[Benched]:
    """Measure ONNX files, those of an engine in turns: one row a file and engine.

    Args:
        paths: the files.
        engines: names in `slimkit.measure.engines.ENGINES`.
        threads, batch: threads of the engine, and images at once; a file that is bound to a batch keeps its own.
        input_shape: (C, H, W) of one image, or name -> shape of several inputs, where a file leaves it free.
        progress: called with what is being done, and the share done.

    Raises:
        CheckpointError, EngineError: a file cannot be read, an engine is unknown or not installed.
    """
    for engine in engines:
        require(engine)
    rows: list[Benched] = []
    for engine in engines:
        progress(f"opening the models in {engine}", None)
        for path in paths:
            probe.check(path, engine, input_shape, batch)
        times = measure(paths, input_shape, threads=threads, batch=batch, engine=engine, progress=progress)
        rows += beside(paths, times)
    return rows


def make_table(
    path: Path,
    file: Path,
    engine: str = "onnxruntime",
    *,
    threads: int = 1,
    batch: int = 1,
    input_shape: Shapes | None = None,
    force: bool = False,
    progress: Progress = quiet,
) -> tuple[list[Benched], tables.LatencyTable]:
    """Measure an ONNX file and its layers at a few widths, and write the table; give the file's row too.

    Args:
        path: the whole network.
        file: JSON file to write.
        engine, threads, batch, input_shape, progress: as for `bench`.
        force: replace an earlier table.

    Raises:
        OutputError: the table cannot be written, or would take the place of the network.
        CheckpointError, EngineError: the model cannot be read, the engine is unknown or not installed.
    """
    require(engine)
    if isinstance(input_shape, dict):
        raise SpecError(f"{path}: the layers of a network of several inputs are not timed.\n  Leave `table` out")
    refuse_inputs(file, [path], "table")
    tables.check_free(file, force)
    progress(f"opening the model in {engine}", None)
    probe.check(path, engine, input_shape, batch)
    settings: dict[str, Any] = {"threads": threads, "batch": batch, "engine": engine, "progress": progress}
    whole = measure([path], input_shape, **settings)
    made = tables.time_layers(path, input_shape, **settings, whole=whole[0])
    tables.save(made, file, force)
    return beside([path], whole), made


def beside(paths: Sequence[Path], times: Sequence[Latency]) -> list[Benched]:
    """Return one row a file, of what was measured: its time of one image over that of the first file too."""
    first = times[0].typical_ms / times[0].batch
    return [
        Benched(
            name=str(path),
            bytes=bytes_of_onnx(path),
            latency_ms=time.record(),
            share=time.typical_ms / time.batch / first,
        )
        for path, time in zip(paths, times, strict=True)
    ]


def one_model(paths: Sequence[Path], engines: Sequence[str]) -> tuple[Path, str]:
    """Return the model and the engine that a table is to be of.

    Raises:
        SpecError: several were given.
    """
    for what, given in (("models", paths), ("engines", engines)):
        if len(given) > 1:
            raise SpecError(
                f"`table` with {len(given)} {what}: a table is of one network on one engine.\n"
                "  Give one, and call again with another `table` for the next"
            )
    return paths[0], engines[0]
