"""What a command is told of the folder that it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where a command leaves its run, and what becomes of an earlier one there.

    Attributes:
        out: the folder; None: one that has the network's name.
        force: replace the folder of an earlier run.
        resume: go on with the interrupted run of the same settings; what is complete stays.
        track: trackers to log a training to, by name.
    """

    out: Path | None = None
    force: bool = False
    resume: bool = False
    track: Sequence[str] = ()

    def folder(self, name: str) -> Path:
        """Return the folder, of a network of this name."""
        return self.out or Path(f"{name}-slim")
