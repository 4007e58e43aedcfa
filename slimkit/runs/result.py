"""What a run gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from slimkit.selection.mask import Mask

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Result:
    """What `compress` gives: the smaller network, the mask it was cut by, and the report."""

    model: nn.Module
    mask: Mask
    report: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a command leaves: its report, and the folder with the five files."""

    report: dict[str, Any]
    folder: Path


def quiet(message: str, share: float | None) -> None:
    """Show no progress."""
