"""Energy counters of the hardware: RAPL of the processor, NVML of a GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

POWERCAP = Path("/sys/class/powercap")
SECONDS = 60.0  # in which no processor turns its counter: of the smallest, 65 kJ, that would take a kilowatt


class Meter(Protocol):
    """A running counter."""

    name: str

    def joules(self) -> float:
        """Return the energy since the meter was opened, joules."""
        ...


class RaplMeter:
    """One processor package, with all its cores and caches, idle ones included.

    The counter is in microjoules and wraps around: https://docs.kernel.org/power/powercap/powercap.html
    """

    name = "RAPL"

    def __init__(self, domain: Path) -> None:
        self._counter = domain / "energy_uj"
        self._range = int((domain / "max_energy_range_uj").read_text())
        self._last = int(self._counter.read_text())
        self._total = 0
        self._one_at_a_time = threading.Lock()

    def joules(self) -> float:
        """Return the energy since the meter was opened; to be read once per turn of the counter: see `read_along`."""
        with self._one_at_a_time:
            now = int(self._counter.read_text())
            self._total += (now - self._last) % (self._range + 1)
            self._last = now
            return self._total / 1e6


class NvmlMeter:
    """One NVIDIA GPU, its memory included (Volta or later)."""

    name = "NVML"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._start = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # millijoules

    def joules(self) -> float:
        """Return the energy since the meter was opened."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._start) / 1e3


@contextmanager
def read_along(meters: Sequence[Meter]) -> Iterator[None]:
    """Read meters every `SECONDS` while the block runs, and when it ends: meanwhile a counter may turn many times."""
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(SECONDS):
            for meter in meters:
                meter.joules()

    reader = threading.Thread(target=read, daemon=True)
    if meters:
        reader.start()
    try:
        yield
    finally:
        ended.set()
        for meter in meters:
            meter.joules()


def processor_meters(root: Path = POWERCAP) -> list[Meter]:
    """Open the counter of every processor package; none where they are missing or not readable."""
    try:
        return [RaplMeter(domain) for domain in sorted(root.glob("intel-rapl:?")) if _is_package(domain)]
    except (OSError, ValueError):
        return []


def _is_package(domain: Path) -> bool:
    return (domain / "name").read_text().startswith("package")


def gpu_meters(device: torch.device) -> list[Meter]:
    """Open the counter of a GPU; none without `nvidia-ml-py` or its counter, or where the device is no such GPU."""
    if device.type != "cuda":
        return []
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        return [NvmlMeter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))]
    except Exception:  # ImportError, NVMLError: all mean the same
        return []
