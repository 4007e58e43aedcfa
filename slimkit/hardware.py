"""Where to compute, and in which precision."""

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain

import torch
from torch import nn

from slimkit.errors import EngineError
from slimkit.modules import copied

CPU = torch.device("cpu")


def own_random(device: torch.device) -> AbstractContextManager[None]:
    """Leave the random numbers of the CPU and of a device as they were before the block."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def draw_from(seed: int, device: torch.device = CPU) -> None:
    """Let the random numbers of the CPU and of a device begin at a seed; those of no other: they are the caller's."""
    torch.default_generator.manual_seed(seed)
    if device != CPU:
        torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random numbers from a seed, on GPUs too; afterwards they go on as if none had been drawn.

    GPUs that nobody has used stay so: to begin with them takes memory, and keeps this process from being forked.
    """
    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=used):
        draw_from(seed, torch.device("cuda") if used else CPU)
        yield


def cores() -> int:
    """Return the cores of the processor that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def pick_device(name: str) -> torch.device:
    """Return the device of that name, as `cpu` or `cuda:1`; `auto`: the accelerator that PyTorch finds, else the CPU.

    Raises:
        EngineError: the device asked for is not there.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return torch.device(found.type) if found else CPU
    device = torch.device(name)
    if device.type == CPU.type:
        return device
    if found is None or found.type != device.type or (device.index or 0) >= torch.accelerator.device_count():
        raise EngineError(f"`device={name!r}`: PyTorch {torch.__version__} finds none here.\n  Use `device='auto'`")
    return device


def take_accelerator(place: int) -> None:
    """Let this process use the accelerator that is its own where several share a machine; nothing where there is none.

    Args:
        place: of the process among them, 0 and up.
    """
    if count := torch.accelerator.device_count():
        torch.accelerator.set_device_index(place % count)


def working_device(name: str) -> torch.device:
    """Return the device of that name for what sums over many rows; MPS has no double precision, so the CPU for it."""
    found = pick_device(name)
    return CPU if found.type == "mps" else found


def device_of(model: nn.Module) -> torch.device:
    """Return where a network is."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), CPU)


def on_device(model: nn.Module, device: torch.device | None) -> nn.Module:
    """Return a network as it is where it is on that device, or anywhere with None; else a copy there."""
    if device is None or all(_is_on(tensor.device, device) for tensor in chain(model.parameters(), model.buffers())):
        return model
    return copied(model).to(device)


def _is_on(found: torch.device, device: torch.device) -> bool:
    return found.type == device.type and device.index in (None, found.index)


def sums_whole_bytes() -> bool:
    """Tell whether this CPU sums products of 8-bit numbers in 32 bits; x86 without VNNI adds pairs in 16."""
    return platform.machine().lower() not in ("x86_64", "amd64") or bool(torch.cpu._is_vnni_supported())


def has_bf16(device: torch.device) -> bool:
    """Tell whether the hardware computes in bf16 itself; emulated, it would be slower than fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False


@contextmanager
def plain_precision() -> Iterator[None]:
    """Let numbers that are given no type be float32, and all be computed in the type that they have.

    Whatever the caller's default, and whatever autocast the call is in: what is proven and held against files is the
    network itself. So too on GPUs, whose float32 is by default rounded to TF32 in convolutions: statistics by 0.5 %.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    kinds = {CPU.type, pick_device("auto").type}
    try:
        with ExitStack() as stack:
            stack.enter_context(_unrounded())
            for kind in filter(torch.is_autocast_enabled, kinds):  # not every device knows autocast at all
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Let torch's own attention run as the operators that it is made of.

    Otherwise it is one operator, which hides what its weights read, where there is an even number of heads, and takes
    another way where one of them has gone.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _unrounded() -> Iterator[None]:
    """Let nothing compute float32 in less than float32."""
    try:
        matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # somebody has chosen for some operators apart, and no longer has one answer for all
        yield
        return
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn


@contextmanager
def with_gradients() -> Iterator[None]:
    """Compute with gradients where they are asked for, in whatever mode the call is made."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Return float32, or bfloat16 if asked for or, with `auto`, if the hardware has it."""
    return torch.bfloat16 if name == "bf16" or (name == "auto" and has_bf16(device)) else torch.float32
