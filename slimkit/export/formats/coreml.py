"""Core ML: an ML program, model.mlpackage. Converter: Apple's coremltools; it runs on Apple's systems alone."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from slimkit.errors import EngineError
from slimkit.export.formats.source import Compute, Format, Source, needed
from slimkit.modules import quiet
from slimkit.usage import INPUT


def _convert(source: Source, path: Path) -> int | None:
    image = source.image("coreml")
    tools = needed("coremltools", "coreml")
    with quiet():
        made = tools.convert(
            source.scripted(),
            inputs=[tools.TensorType(name=INPUT, shape=tuple(image.shape))],
            outputs=None,
            convert_to="mlprogram",
            compute_precision=tools.precision.FLOAT16 if source.half else tools.precision.FLOAT32,
            minimum_deployment_target=tools.target.iOS16,
        )
        made.save(str(path))
        said = tools.models.MLModel(str(path), skip_model_load=True).get_spec().description
    shapes = {entry.name: list(entry.type.multiArrayType.shape) for entry in said.input}
    if shapes != {INPUT: list(image.shape)}:
        raise EngineError(f"coreml: the package takes {shapes}, not {list(image.shape)}.\n  Leave 'coreml' out of `to`")
    return int(image.shape[0])


def _run(path: Path) -> Compute:
    tools = needed("coremltools", "coreml")
    network = tools.models.MLModel(str(path))

    def run(given: Sequence[Tensor]) -> list[Tensor]:
        return [torch.as_tensor(value) for value in network.predict({INPUT: given[0].numpy()}).values()]

    return run


_APPLE = sys.platform == "darwin"
FORMAT = Format(
    "model.mlpackage",
    _convert,
    run=_run if _APPLE else None,
    note="" if _APPLE else "Core ML runs on Apple's systems alone: its inputs were read back, its outputs not compared",
    packages=("coremltools",),
)
