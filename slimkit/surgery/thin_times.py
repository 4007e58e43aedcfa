"""Up to which rank two thin layers are faster than the one they replace: measured, since MACs do not tell."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from slimkit.export import export_onnx
from slimkit.measure.conditions import Conditions
from slimkit.measure.latency import measure
from slimkit.models.factors import pair
from slimkit.progress import Progress, quiet
from slimkit.surgery.ranks import Spectrum

_SECONDS = 0.3  # that each layer is timed, each way


@dataclass(frozen=True)
class ThinTime:
    """Milliseconds of one layer alone, as it is and as two of a rank: the highest that is faster, 1 where none is."""

    path: str
    rank: int
    dense_ms: float
    thin_ms: float

    @property
    def faster(self) -> bool:
        """Two are faster than one."""
        return self.thin_ms < self.dense_ms


def times(
    model: nn.Module, found: Sequence[Spectrum], conditions: Conditions, progress: Progress = quiet
) -> list[ThinTime]:
    """Time layers both ways in turns, at ranks that halve in on the highest that is faster; shapes alone decide.

    Args:
        model: holds the layers; not changed.
        found: its layers.
        conditions: what times are of.
        progress: called with what is being done, and the share done.
    """
    timed = []
    for number, layer in enumerate(found):
        progress("timing layers as one and as two", number / len(found))
        timed.append(_time(model.get_submodule(layer.path), layer, conditions))
    return timed


def _time(module: nn.Module, layer: Spectrum, conditions: Conditions) -> ThinTime:
    image = torch.zeros(1, *layer.shape)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "dense.onnx", Path(folder) / "thin.onnx"
        export_onnx(nn.Sequential(module).eval(), files[0], image)

        def at(rank: int) -> ThinTime:
            thin = pair(module, rank).to_empty(device=image.device)
            for parameter in thin.parameters():
                nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))  # numbers make no difference
            export_onnx(nn.Sequential(thin).eval(), files[1], image)
            one, two = measure(files, **asdict(conditions), seconds=_SECONDS)
            return ThinTime(layer.path, rank, one.typical_ms, two.typical_ms)

        best = at(1)
        paying = [
            rank
            for rank in range(1, len(layer.energy) + 1)
            if layer.paying(rank, "params") or layer.paying(rank, "macs")
        ]
        low, high = 1, max(paying, default=1) + 1
        while best.faster and high - low > 1:
            middle = (low + high) // 2
            tried = at(middle)
            low, high, best = (middle, high, tried) if tried.faster else (low, middle, best)
    return best


def bounded(found: Sequence[Spectrum], timed: Sequence[ThinTime]) -> list[Spectrum]:
    """Return layers that are two at no rank at which two are slower; of such as were not timed nothing is known."""
    most = {time.path: time.rank if time.faster else 0 for time in timed}
    return [replace(layer, most=most.get(layer.path)) for layer in found]
