"""TensorFlow Lite (LiteRT): model.tflite, of one image at a time. Converter: Google's litert-torch.

In 16-bit floats by its companion ai-edge-quantizer: weights are kept so, and are made 32-bit floats as they are read.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from slimkit.export.formats.source import Compute, Format, Source, needed
from slimkit.modules import quiet


def _convert(source: Source, path: Path) -> int | None:
    image = source.image("tflite")
    litert = needed("litert_torch", "tflite")
    with quiet():
        litert.convert(source.network(), (image,)).export(str(path))
        if source.half:
            _halve(path)
    return 1


def _halve(path: Path) -> None:
    casting = needed("ai_edge_quantizer.quantizer", "tflite")
    types = needed("ai_edge_quantizer.qtyping", "tflite")
    names = needed("ai_edge_quantizer.algorithm_manager", "tflite")
    half = types.TensorQuantizationConfig(num_bits=16, dtype=types.TensorDataType.FLOAT)
    quantizer = casting.Quantizer(str(path))
    quantizer.update_quantization_recipe(
        regex=".*",
        operation_name=types.TFLOperationName.ALL_SUPPORTED,
        op_config=types.OpQuantizationConfig(weight_tensor_config=half, explicit_dequantize=True),
        algorithm_key=names.AlgorithmName.FLOAT_CASTING,
    )
    quantizer.quantize().export_model(str(path), overwrite=True)


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


FORMAT = Format("model.tflite", _convert, run=_run, packages=("litert_torch",))
