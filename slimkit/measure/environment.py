"""The machine and the versions a figure was measured with; no host names, users or paths."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from slimkit.hardware import cores


def environment() -> dict[str, str | int]:
    """Return what a reader needs to judge a latency: processor, cores, system, versions."""
    found: dict[str, str | int] = {
        "cpu": cpu_name(),
        "cores": cores(),
        "avx512": "yes" if has_avx512() else "no",
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in ("torch", "onnxruntime", "openvino"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def preferred_step() -> int:
    """Return the channel count whose multiples engines run fast: one vector register of floats.

    ONNX Runtime and OpenVINO both lay channels out in blocks of 16 floats on AVX-512 and of 8 elsewhere;
    between two multiples the block is computed whole, or a slower kernel runs.

    It is that of every engine that runs here, in bfloat16 too: 3x3 convolutions of 40, 48, 56 and 64 channels took
    0.58, 0.38, 0.47 and 0.36 us a pair of channels in ONNX Runtime, 0.33, 0.24, 0.28 and 0.21 in OpenVINO in
    bfloat16, and multiples of 32 gained nothing (AVX-512 without AMX, one thread, 28x28 pixels, six of them).
    """
    return 16 if has_avx512() else 8


def has_avx512() -> bool:
    """Return whether kernels may use AVX-512 here (torch's own detection)."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability()).startswith("AVX512")


def cpu_name() -> str:
    """Return the processor's name as its maker calls it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
