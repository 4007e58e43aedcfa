"""ONNX files side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimkit.measure.latency import Latency


@dataclass(frozen=True, kw_only=True)
class Row:
    """One ONNX file.

    Attributes:
        name: its path, as it was given.
        bytes: size of the file.
        latency_ms: as the report names the figures of a latency.
        share: its latency over that of the first file, by the clock that fits (see `Latency.clock`).
    """

    name: str
    bytes: int
    latency_ms: dict[str, Any]
    share: float


def rows(paths: Sequence[str | Path], times: Sequence[Latency]) -> list[Row]:
    """Return one row a file, of what was measured."""
    return [
        Row(
            name=str(path),
            bytes=Path(path).stat().st_size,
            latency_ms=latency.record(),
            share=latency.typical_ms / times[0].typical_ms,
        )
        for path, latency in zip(paths, times, strict=True)
    ]
