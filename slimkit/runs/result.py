"""What a run gives back."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from slimkit.results import Report
from slimkit.selection.mask import Mask


@dataclass(frozen=True)
class Result:
    """What `compress` and `train` give.

    Attributes:
        model: the smaller network: on the CPU, in eval mode, in the number format of the one that was given.
        mask: what it was cut by.
        report: all that was measured and proven, as `report.json` has it.
        folder: where the files of the run lie; None where none were asked for.
    """

    model: nn.Module
    mask: Mask
    report: Report
    folder: Path | None = None

    def __repr__(self) -> str:
        return f"Result({type(self.model).__name__}, {self.report.verdict!r})"


@dataclass(frozen=True)
class Outcome:
    """What a command leaves: its report, None of a process that only helped, and the folder with the five files."""

    report: Report | None
    folder: Path
