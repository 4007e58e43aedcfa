"""Reports of real runs, small ones, for tests of what is shown; made once a session."""

import copy
import tempfile
from functools import cache
from pathlib import Path

from slimkit.cli import main
from slimkit.results import Report, report_file
from slimkit.zoo import CHECKPOINTS

CHECKPOINT = CHECKPOINTS["resnet8-digits"]
COMPRESS = ("--ratio", "0.5", "--data", "digits", "--epochs", "3", "--set", "int8=true")
TRAIN = ("--method", "early-bird", "--arch", "zoo:resnet8", "--data", "digits", "--ratio", "0.5", "--epochs", "5")
MORE = ("--set", "watch=0.3,0.7", "--set", "deadline=0.5")


@cache
def compress_report() -> Report:
    """ResNet-8 on digits, half of the channels removed, retrained for 3 epochs, with an INT8 file."""
    return made("compress", str(CHECKPOINT), *COMPRESS)


@cache
def bare_report() -> Report:
    """The same network without data: proven, not retrained."""
    return made("compress", str(CHECKPOINT), "--ratio", "0.5")


@cache
def train_report() -> Report:
    """ResNet-8 trained on digits for 5 epochs, drawn after half of them, two more ratios watched."""
    return made("train", *TRAIN, *MORE)


def made(*words: str) -> Report:
    """Run a command and read its report."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        assert main([*words, "--out", str(out), "--json"]) == 0
        return report_file.read(out)


def changed(report: Report, changes: dict[str, object]) -> Report:
    """Return a report with other values at some paths, such as `after/macs`."""
    new = copy.deepcopy(report.to_dict())
    for path, value in changes.items():
        *parts, last = path.split("/")
        place = new
        for part in parts:
            place = place[int(part)] if isinstance(place, list) else place[part]
        place[int(last) if isinstance(place, list) else last] = value
    return Report.from_dict(new)
