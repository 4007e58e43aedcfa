"""TorchScript, by tracing: for PyTorch in C++ and on phones, without Python."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from slimkit.example import tensors
from slimkit.export.formats.source import Compute, Format, Source, jit
from slimkit.modules import quiet


def _convert(source: Source, path: Path) -> int | None:
    source.scripted(source.half).save(str(path))
    return None


def _run(path: Path) -> Compute:
    with quiet():
        network = jit.load(str(path))

    def run(given: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return tensors(network(*given))

    return run


FORMAT = Format("model.torchscript", _convert, run=_run)
