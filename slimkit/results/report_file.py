"""`report.json`: the report of a run as a file."""

import json
from pathlib import Path
from typing import Any

from slimkit.errors import RecordError
from slimkit.results.earlier import EARLIER, upgraded
from slimkit.results.report import REPORT_SCHEMA, Report

NAME = "report.json"
_LARGEST = 100_000_000  # bytes; a long search on a deep network takes less than one of these millions
_HINT = "Give the output folder of a run"


def to_json(record: dict[str, Any]) -> str:
    """Write what a record's `to_dict` gave as JSON text."""
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(report: Report, folder: Path) -> Path:
    """Write `report.json` into a folder and give its path."""
    path = folder / NAME
    path.write_text(to_json(report.to_dict()), encoding="utf-8")
    return path


def read(path: Path) -> Report:
    """Read the report of a run from its folder, or from the file itself; those of earlier versions too.

    Raises:
        RecordError: there is none, or it is damaged or not a report that this version can read.
    """
    file = path / NAME if path.is_dir() else path
    if file != path and not file.exists():
        raise RecordError(f"{path}: no report can be read there (the folder holds no {NAME}).\n  {_HINT}")
    report = upgraded(_parsed(file))
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != REPORT_SCHEMA:
        raise RecordError(
            f"{file}: its schema is {schema!r}, but this version reads {', '.join([*EARLIER, REPORT_SCHEMA])}.\n"
            "  Make the report with the slimkit that made the run"
        )
    try:
        return Report.from_dict(report)
    except RecordError as error:
        raise RecordError(f"{file}: {error}\n  {_HINT} as it was written") from None


def _parsed(file: Path) -> Any:
    try:
        if file.exists() and not file.is_file():
            raise RecordError(f"{file}: it is no file.\n  {_HINT}")  # a pipe, or a device that never ends
        if file.stat().st_size > _LARGEST:
            raise RecordError(f"{file}: it is too large for a report.\n  {_HINT}")
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{file}: no report can be read there ({error.strerror}).\n  {_HINT}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{file}: it is not valid JSON ({error}).\n  {_HINT}") from None
