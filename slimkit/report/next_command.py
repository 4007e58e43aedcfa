"""The command that retrains what a run has only cut: its settings, and data."""

import shlex
from dataclasses import fields
from typing import Any

from slimkit.results import Report
from slimkit.settings import CompressSpec


def next_command(report: Report) -> str:
    """Give the command that retrains: with the settings of the run, and data."""
    source = _source(report)
    replaced = {"data", "epochs", source.split()[0].removeprefix("--")}
    words = ["slimkit compress", _checkpoint(report)]
    for entry in fields(CompressSpec):
        value = report.spec.get(entry.name)
        value = tuple(value) if isinstance(value, list) else value
        named = entry.name == "input_shape" and (not _are_pictures(report) or "=" in str(value))  # data says it
        if value not in (None, entry.default) and entry.name not in replaced and not named:
            words.append(_flag(entry.name.replace("_", "-"), value))
    return " ".join([*words, source, "--epochs 10"])


def _checkpoint(report: Report) -> str:
    """Give the file of the network as a shell takes it, where there was one that can be written down."""
    name = report.arch.file
    return shlex.quote(name) if name and not name.startswith("-") else "CHECKPOINT"


def _source(report: Report) -> str:
    """Give what to retrain on: labelled data, but of values, for which a folder has no labels, more inputs.

    Of a network that takes no pictures a folder holds none: a function gives what it takes.
    """
    data, fit = report.spec.get("data"), report.fit
    if isinstance(data, str):
        return f"--data {shlex.quote(data)}"
    pictures = _are_pictures(report)
    if report.spec.get("task") is None and fit is not None and fit.off is not None:
        return f"--calibration {'folder:MORE_IMAGES' if pictures else 'FILE.py:FUNCTION'}"
    return f"--data {'folder:IMAGES' if pictures else 'FILE.py:FUNCTION'}"


def _are_pictures(report: Report) -> bool:
    """Tell whether a folder of pictures has what the network takes: one input, of one or three channels."""
    shape = report.arch.input_shape
    return shape is not None and len(shape) == 3 and shape[0] in (1, 3)


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {shlex.quote(','.join(map(str, value)) if isinstance(value, tuple) else str(value))}"
