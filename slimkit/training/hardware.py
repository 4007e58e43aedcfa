"""Where to compute, and in which precision."""

import platform

import torch

from slimkit.errors import EngineError


def pick_device(name: str) -> torch.device:
    """Return the device of that name, as `cpu` or `cuda:1`; `auto`: CUDA, else MPS, else CPU.

    Raises:
        EngineError: the device asked for is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    kind, _, number = name.partition(":")
    if not there[kind] or (number and int(number) >= torch.cuda.device_count()):
        raise EngineError(f"`device={name}`: PyTorch {torch.__version__} finds none here.\n  Use `device='auto'`")
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Tell whether the hardware computes in bf16 itself; emulated, it would be slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Return float32, or bfloat16 if asked for or, with `auto`, if the hardware has it."""
    return torch.bfloat16 if name == "bf16" or (name == "auto" and has_bf16(device)) else torch.float32
