"""What several networks are compared by: their files, measured beside each other; else what is counted of them."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from slimkit.errors import EngineError, ProofError, TraceError
from slimkit.example import Example, of_batch
from slimkit.measure import energy, latency
from slimkit.measure.macs import count_macs
from slimkit.measure.onnx_bytes import bytes_of_onnx
from slimkit.measure.size import count_params
from slimkit.runs.figures import shapes_of
from slimkit.runs.folder.files import export_network
from slimkit.runs.folder.resume import shapes
from slimkit.runs.start import conditions
from slimkit.settings import CompressSpec
from slimkit.training import Store, state

COUNTED = {"latency": "macs", "energy": "macs", "bytes": "params"}  # instead, of networks without a file
_ALIKE = 1.02  # times the least: nearer than that, two times are the same


@dataclass(frozen=True)
class Contenders:
    """Figures of several networks.

    Attributes:
        by: what they are of: `latency` (ms), `energy` (mJ), `bytes`, `macs` or `params`.
        figures: one a network.
    """

    by: str
    figures: tuple[float, ...]

    @property
    def least(self) -> int:
        """The place of the least; of times that are alike, of the last one."""
        limit = min(self.figures) * (_ALIKE if self.by in ("latency", "energy") else 1.0)
        return max(place for place, figure in enumerate(self.figures) if figure <= limit)


def compared(spec: CompressSpec, models: Sequence[nn.Module], example: Example, store: Store | None) -> Contenders:
    """Compare networks by what the settings make small.

    Args:
        spec: says what, and under which conditions times are.
        models: what is compared.
        example: what they are called with.
        store: where the answer is kept: a resumed run would measure other times, and so retrain another network. It
            counts for networks of these shapes.
    """
    found, _ = state.read(store) if store else (None, None)
    of = [shapes(model) for model in models]
    if (
        found is None or found.get("of") != of
    ):  # on GPUs a network is not trained twice to the bit, and another may pass
        measured = _measured(spec, models, example) if spec.onnx and spec.minimise in COUNTED else None
        by, figures = measured or _counted(COUNTED.get(spec.minimise, spec.minimise), models, example)
        found = {"of": of, "by": by, "figures": figures}
        if store:
            state.write(store, found)
    return Contenders(found["by"], tuple(found["figures"]))


def _measured(spec: CompressSpec, models: Sequence[nn.Module], example: Example) -> tuple[str, list[float]] | None:
    """Measure networks by their files, in turns; None where one cannot be written."""
    one_size = replace(spec, free_size=False) if spec.minimise != "bytes" else spec  # as for budgets
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.onnx") for number in range(len(models))]
        try:
            for model, path in zip(models, paths, strict=True):
                export_network(model, path, example, one_size)
        except (EngineError, TraceError, ProofError):
            return None
        if spec.minimise == "bytes":
            return "bytes", [float(bytes_of_onnx(path)) for path in paths]
        times = latency.measure(paths, shapes_of(example), **asdict(conditions(spec)))
    if spec.minimise == "energy":
        return "energy", [energy.per_inference(time).value for time in times]
    return "latency", [time.typical_ms for time in times]


def _counted(by: str, models: Sequence[nn.Module], example: Example) -> tuple[str, list[float]]:
    if by == "params":
        return by, [float(count_params(model)) for model in models]
    return by, [float(count_macs(model, of_batch(example, 1))) for model in models]
