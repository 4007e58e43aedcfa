"""What a method is, and what it gives."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from slimkit import training
from slimkit.errors import MaskError
from slimkit.methods.cut import Cut
from slimkit.methods.job import Job
from slimkit.results import Search
from slimkit.results.ledger import Leg
from slimkit.selection.budget import nothing
from slimkit.selection.measured import Aim
from slimkit.settings import Budget, Settings
from slimkit.surgery.prove import Slimmed


@dataclass(frozen=True)
class Found:
    """What a method gives.

    Attributes:
        model: the network to deliver, trained to the end, on the CPU and in eval mode; what was done to it stands in
            its provenance.
        trained: every training of the run, the last one last.
        legs: images trained on, network by network.
        search: how the network was found, for the report.
        cut: what was cut from the dense network; None where no channel went.
        error: of whatever else was done to the network, against its reference; relative, as `proof` has it.
        notes: what the user should know, beside the notes of `trained`.
    """

    model: nn.Module
    trained: tuple[training.Trained, ...]
    legs: tuple[Leg, ...]
    search: Search
    cut: Cut | None = None
    error: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def slimmed(self) -> Slimmed | None:
        """The proven cut."""
        return self.cut.slimmed if self.cut else None

    @property
    def warnings(self) -> list[str]:
        """All that the user should know."""
        return [*(note for one in self.trained for note in one.notes), *self.notes]

    @property
    def earlier(self) -> tuple[float, float]:
        """Seconds and CPU-seconds of training before the run was resumed."""
        return math.fsum(one.earlier[0] for one in self.trained), math.fsum(one.earlier[1] for one in self.trained)


@dataclass(frozen=True)
class Method:
    """One published way to a smaller network.

    Attributes:
        name: what `--method` calls it.
        summary: what it does, on one line, with its source.
        config: its own settings, a frozen dataclass of `setting`s.
        run: does it.
        ranking: criterion that it ranks channels by where the run names none.
        removes: it removes channels, so that there must be some that can go.
        aim: what is wanted of masks for a budget that has to be measured, see `LatencySolver`.
        idle: (its settings, budget of the run) -> the settings of the run that it has then no use for, and why.
        needs: refuses, before anything is trained, a network that it cannot work on.
    """

    name: str
    summary: str
    config: type[Settings]
    run: Callable[[Job, Any], Found]
    ranking: str = "gamma"
    removes: bool = True
    aim: Callable[[Any], Aim] = lambda config: "importance"
    idle: Callable[[Any, Budget], dict[str, str]] = lambda config, budget: {}
    needs: Callable[[Job, Any], object] = lambda job, config: None

    def __call__(self, job: Job, config: Settings) -> Found:
        """Run, after a look at what is needed.

        Raises:
            MaskError: the method removes channels, and none of this network's can go.
        """
        self.check(job, config)
        return self.run(job, config)

    def check(self, job: Job, config: Settings) -> None:
        """Look at what is needed, without training anything.

        Raises:
            MaskError: the method removes channels, and none of this network's can go; or it needs BatchNorm.
        """
        if self.removes and not job.graph.units:
            raise MaskError(nothing(job.graph, job.selection.widths))
        self.needs(job, config)


def leg(macs: int, phases: Sequence[training.Phase], search: bool) -> Leg:
    """Add up what one network was trained for."""
    images = sum(phase.images for phase in phases)
    seconds, cpu = math.fsum(phase.seconds for phase in phases), math.fsum(phase.cpu_seconds for phase in phases)
    return Leg(macs, images, search, seconds, cpu)
