"""TensorFlow Lite (LiteRT): model.tflite, of one image at a time. Converter: Google's litert-torch."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from slimkit.errors import EngineError
from slimkit.export.formats.source import Compute, Format, Source, needed
from slimkit.modules import quiet


def _convert(source: Source, path: Path) -> int | None:
    image = source.image("tflite")
    if source.half:
        raise EngineError("tflite: litert-torch writes 32-bit floats.\n  Leave out `fp16`, or 'tflite' of `to`")
    litert = needed("litert_torch", "tflite")
    with quiet():
        litert.convert(source.network(), (image,)).export(str(path))
    return 1


def _run(path: Path) -> Compute:
    interpreter = needed("ai_edge_litert.interpreter", "tflite").Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (place,), ends = interpreter.get_input_details(), interpreter.get_output_details()

    def run(given: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for image in given[0]:
            interpreter.set_tensor(place["index"], image[None].numpy())
            interpreter.invoke()
            found.append([torch.tensor(interpreter.get_tensor(end["index"])[0]) for end in ends])
        return [torch.stack(outputs) for outputs in zip(*found, strict=True)]

    return run


FORMAT = Format("model.tflite", _convert, run=_run)
