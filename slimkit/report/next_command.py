"""The command that retrains what a run made: its settings, and data."""

import shlex
from dataclasses import fields
from typing import Any

from slimkit.results import Report
from slimkit.settings import CompressSpec


def next_command(report: Report) -> str:
    """Give the command that retrains: with the settings of the run, and data."""
    source = _source(report)
    replaced = {"data", "epochs", source.split()[0].removeprefix("--")}
    words = ["slimkit compress CHECKPOINT"]
    for entry in fields(CompressSpec):
        value = report.spec.get(entry.name)
        value = tuple(value) if isinstance(value, list) else value
        named = entry.name == "input_shape" and "=" in str(value)  # of several inputs data says it
        if value not in (None, entry.default) and entry.name not in replaced and not named:
            words.append(_flag(entry.name.replace("_", "-"), value))
    return " ".join([*words, source, "--epochs 10"])


def _source(report: Report) -> str:
    """Give what to retrain on: labelled data, but of values, for which a folder has no labels, more inputs."""
    data, fit = report.spec.get("data"), report.fit
    if isinstance(data, str):
        return f"--data {shlex.quote(data)}"
    if report.spec.get("task") is not None or fit is None or fit.off is None:
        return "--data folder:IMAGES"
    images = report.arch.input_shape is not None and len(report.arch.input_shape) == 3
    return f"--calibration {'folder:MORE_IMAGES' if images else 'own.py:more_inputs'}"


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {shlex.quote(','.join(map(str, value)) if isinstance(value, tuple) else str(value))}"
