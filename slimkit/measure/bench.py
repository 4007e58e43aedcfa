"""ONNX files side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimkit.measure.latency import measure


@dataclass(frozen=True, kw_only=True)
class Row:
    """One ONNX file.

    Attributes:
        name: its path, as it was given.
        bytes: size of the file.
        latency_ms: as the report names the figures of a latency.
        share: its median latency over that of the first file.
    """

    name: str
    bytes: int
    latency_ms: dict[str, Any]
    share: float


def bench(
    paths: Sequence[str | Path],
    input_shape: tuple[int, ...] | None = None,
    *,
    threads: int = 1,
    batch: int = 1,
    engine: str = "onnxruntime",
    seconds: float = 3.0,
) -> list[Row]:
    """Measure ONNX files side by side; arguments and errors as in `latency.measure`."""
    times = measure(paths, input_shape, threads=threads, batch=batch, engine=engine, seconds=seconds)
    return [
        Row(
            name=str(path),
            bytes=Path(path).stat().st_size,
            latency_ms=latency.record(),
            share=latency.median_ms / times[0].median_ms,
        )
        for path, latency in zip(paths, times, strict=True)
    ]
