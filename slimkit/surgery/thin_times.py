"""Whether two thin layers are faster than the one they replace: measured, since MACs do not tell."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from slimkit.export import export_onnx
from slimkit.measure.latency import measure
from slimkit.surgery.factorise import split
from slimkit.surgery.ranks import Spectrum

_SECONDS = 0.3  # that each layer is timed, each way


@dataclass(frozen=True)
class ThinTime:
    """Milliseconds of one layer alone, as it is and as two of a rank; one image, one thread."""

    path: str
    rank: int
    dense_ms: float
    thin_ms: float

    @property
    def faster(self) -> bool:
        """Two are faster than one."""
        return self.thin_ms < self.dense_ms


def times(model: nn.Module, found: Sequence[Spectrum], ranks: Mapping[str, int]) -> list[ThinTime]:
    """Time every layer that is to be two, both ways in turns, in ONNX Runtime.

    Args:
        model: holds the layers; not changed.
        found: its layers.
        ranks: path -> rank.
    """
    shapes = {layer.path: layer.shape for layer in found}
    timed = []
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "dense.onnx", Path(folder) / "thin.onnx"
        for path, rank in ranks.items():
            layer, image = model.get_submodule(path), torch.zeros(1, *shapes[path])
            for file, network in zip(files, (layer, split(layer, rank)), strict=True):
                export_onnx(nn.Sequential(network).eval(), file, image)
            dense, thin = measure(files, seconds=_SECONDS)
            timed.append(ThinTime(path, rank, dense.typical_ms, thin.typical_ms))
    return timed
