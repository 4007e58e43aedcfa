"""TorchScript, by tracing: for PyTorch in C++ and on phones, without Python."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from slimkit.example import mapped, tensors
from slimkit.export.formats.source import Compute, Format, Source, jit
from slimkit.modules import quiet


def _convert(source: Source, path: Path) -> None:
    if not source.half:
        source.scripted().save(str(path))
        return
    network = source.network().half()
    example = mapped(source.example, lambda tensor: tensor.half() if tensor.is_floating_point() else tensor)
    with quiet(), torch.no_grad():
        jit.trace(network, tuple(tensors(example)), check_trace=False).save(str(path))


def _run(path: Path) -> Compute:
    with quiet():
        network = jit.load(str(path))
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)

    def run(given: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return tensors(network(*(t.to(dtype) if t.is_floating_point() else t for t in given)))

    return run


FORMAT = Format("model.torchscript", _convert, run=_run)
