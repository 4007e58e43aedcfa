"""What each stage of a run costs: seconds, CPU seconds, memory."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from slimkit.hardware import pick_device
from slimkit.measure.power import Meter, gpu_meters, processor_meters, read_along
from slimkit.results import Stage


@dataclass
class Stages:
    """Collects stages in the order in which they end: `with stages.stage("trace"): ...`.

    `meters` are the machine's energy counters, opened when the run begins and read along.
    """

    finished: list[Stage] = field(default_factory=list)
    meters: list[Meter] = field(default_factory=processor_meters)

    def branch(self) -> Stages:
        """Return stages that go on from those finished so far: of one of several runs that share a beginning.

        Without meters, which could not tell the runs apart.
        """
        return Stages(list(self.finished), [])

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block; one that raises is recorded as well."""
        wall, cpu = time.perf_counter(), cpu_seconds()
        try:
            with read_along(self.meters):
                yield
        finally:
            self.finished.append(
                Stage(
                    name=name,
                    seconds=time.perf_counter() - wall,
                    cpu_seconds=cpu_seconds() - cpu,
                    peak_mb=peak_mb(),
                )
            )


def stages_on(device: str) -> Stages:
    """Return the stages of a run on a device, told as to `hardware.pick_device`, with the counters that see it."""
    return Stages(meters=[*processor_meters(), *gpu_meters(pick_device(device))])


def cpu_seconds() -> float:
    """Return the CPU seconds spent so far by this process and its finished children."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def peak_mb() -> float:
    """Return the most resident memory this process has had, in MB of 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` would start at the size of the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
