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
        mask: what it was cut by: of the network as given, or of `plain_weights(model, example)` where the report says
            that computed weights were stored.
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
class CommandOutcome:
    """What a command leaves.

    Attributes:
        report: of the run; None of a process that only helped.
        folder: with the files of the run.
        before: the run was complete before the command began, which did nothing.
    """

    report: Report | None
    folder: Path
    before: bool = False
