"""Energy counters of the hardware: RAPL of the processor, NVML of a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")


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

    def joules(self) -> float:
        """Return the energy since the meter was opened; to be read at least once per turn of the counter."""
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


def processor_meters(root: Path = POWERCAP) -> list[Meter]:
    """Open the counter of every processor package; none where they are missing or not readable."""
    try:
        return [RaplMeter(domain) for domain in sorted(root.glob("intel-rapl:?")) if _is_package(domain)]
    except (OSError, ValueError):
        return []


def _is_package(domain: Path) -> bool:
    return (domain / "name").read_text().startswith("package")


def gpu_meters() -> list[Meter]:
    """Open the counter of torch's GPU; none without `nvidia-ml-py`, the GPU or its counter."""
    import torch

    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(torch.device("cuda")).uuid
        return [NvmlMeter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))]
    except Exception:  # ImportError, NVMLError, or no GPU: all mean the same
        return []
