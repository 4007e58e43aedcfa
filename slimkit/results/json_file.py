"""`report.json`: a run's report as data."""

import json
import math
from pathlib import Path
from typing import Any

from slimkit.errors import OutputError

NAME = "report.json"
SCHEMA = "slimkit.report/1"


def to_json(report: dict[str, Any]) -> str:
    """Write a report as JSON text, `schema` first; numbers that JSON lacks (NaN, infinity) become null."""
    ordered = {"schema": report.get("schema", SCHEMA), **report}
    return json.dumps(_finite(ordered), indent=1, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def write(report: dict[str, Any], folder: Path) -> Path:
    """Write `report.json` into a folder and give its path."""
    path = folder / NAME
    path.write_text(to_json(report), encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    """Read the report of a run from its folder, or from the file itself.

    Raises:
        OutputError: there is none, or it is not a report that this version can read.
    """
    file = path / NAME if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(
            f"{path}: no report can be read there ({error.strerror}).\n  Give the output folder of a run"
        ) from None
    except ValueError as error:
        raise OutputError(f"{file}: it is not valid JSON ({error}).\n  Give the output folder of a run") from None
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        raise OutputError(
            f"{file}: its schema is {schema!r}, but this version reads {SCHEMA!r}.\n  Make the report anew"
        )
    return dict(report)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    """Turn numbers of NumPy and torch, and paths, into what JSON has."""
    return _finite(value.tolist()) if hasattr(value, "tolist") else str(value)
