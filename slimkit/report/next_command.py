"""The command that retrains what a run has only cut: its settings, and data."""

import shlex
from dataclasses import fields
from typing import Any

from slimkit.results import Report
from slimkit.settings import CompressSpec


def next_command(report: Report, checkpoint: str = "") -> str:
    """Give the command that retrains: with the settings of the run, and data.

    `checkpoint`: path of the network, where its user knows it; else as the report says it, which names no machine.
    """
    source = _source(report)
    replaced = {"data", "epochs", source.split()[0].removeprefix("--")}
    words = ["slimkit compress", _checkpoint(checkpoint or report.arch.file)]
    for entry in fields(CompressSpec):
        value = report.spec.get(entry.name)
        value = tuple(value) if isinstance(value, list) else value
        named = entry.name == "input_shape" and (not _are_pictures(report) or "=" in str(value))  # data says it
        if value not in (None, entry.default) and entry.name not in replaced and not named:
            words.append(_flag(entry.name.replace("_", "-"), value))
    return " ".join([*words, source, "--epochs 10"])


def _checkpoint(name: str) -> str:
    """Give the file of a network as a shell takes it, where there was one that can be written down."""
    return shlex.quote(name) if name and name.isprintable() and not name.startswith("-") else "CHECKPOINT"


def _source(report: Report) -> str:
    """Give what to retrain on: labelled data, but of values, for which a folder has no labels, more inputs.

    Of a network that takes no pictures a folder holds none: a function gives what it takes.
    """
    data, fit = report.spec.get("data"), report.fit
    if isinstance(data, str):
        return f"--data {shlex.quote(data)}"
    if report.arch.name.startswith("ultralytics:"):  # retrained on its own kind of data sets alone
        return f"--data {'FOLDER' if report.arch.classes else 'DATA.yaml'}"
    pictures = _are_pictures(report)
    if report.spec.get("task") is None and fit is not None and fit.off is not None:
        return f"--calibration {'folder:MORE_IMAGES' if pictures else 'FILE.py:FUNCTION'}"
    if not pictures:
        return "--data FILE.py:FUNCTION"
    maps = report.spec.get("task") == "segmentation" or (fit is not None and fit.agreement_by == "mean IoU")
    return f"--data folder:{'IMAGES_AND_MASKS' if maps else 'IMAGES'}"


def _are_pictures(report: Report) -> bool:
    """Tell whether a folder of pictures has what the network takes: one input, of one or three channels."""
    shape = report.arch.input_shape
    return shape is not None and len(shape) == 3 and shape[0] in (1, 3)


def no_images(report: Report) -> str:
    """Say why nothing was there to recover on where no inputs were given, and what to give."""
    why = "they are to meet the statistics of BatchNorms, and none did"
    if report.arch.input_shape is None:
        why = "the network takes no image alone"
    elif report.gammas is None:
        why = "they are made by the statistics of BatchNorms, and the network has none"
    given = "folder:PHOTOS" if _are_pictures(report) else "FILE.py:FUNCTION"
    return f"No images could be made to fit it to: {why}. Some unlabelled inputs do instead: --calibration {given}."


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {shlex.quote(','.join(map(str, value)) if isinstance(value, tuple) else str(value))}"
