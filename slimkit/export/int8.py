"""INT8: an ONNX file whose convolutions and products run on 8-bit integers, calibrated on real images.

Static quantisation with QuantizeLinear / DequantizeLinear pairs: activations unsigned with one scale a
tensor, weights signed with one scale an output channel. Made on x86 without VNNI, where two products of full range can
saturate a sum, weights take 7 of their 8 bits, as ONNX Runtime advises.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from slimkit.errors import CheckpointError, DataError, EngineError
from slimkit.example import Example, batch_size, fed, parts, tensors
from slimkit.hardware import sums_whole_bytes
from slimkit.modules import quiet
from slimkit.whole_file import write_whole


def quantise(onnx_path: str | Path, out_path: str | Path, calibration_batches: Iterable[Example]) -> None:
    """Write an ONNX file in INT8; inputs and outputs stay as they are, under the same names.

    Args:
        onnx_path: a float32 file, as `export_onnx` writes it.
        out_path: the file to write; one that is there is replaced.
        calibration_batches: inputs as the network expects them, normalised; a few hundred in all suffice. Their ranges
            become the ranges of the activations.

    Raises:
        DataError: there are no inputs.
        CheckpointError: the file is missing or damaged.
        EngineError: ONNX Runtime cannot quantise it.
        OutputError: the new file cannot be written; nothing is left of it.
    """
    source, target = Path(onnx_path), Path(out_path)
    batches = [batch for batch in calibration_batches if len(tensors(batch)[0])]
    if not batches:
        raise DataError(
            "INT8: there are no images to calibrate on.\n"
            "  Name a data set with `data`, or leave `int8` out: ranges that were guessed would cost accuracy"
        )
    try:
        loaded = onnx.load(str(source))
        reader = _Reader(loaded.graph, batches)
    except Exception as error:  # OSError, protobuf's DecodeError
        raise CheckpointError(f"{source}: is not a readable ONNX file.\n  Give an intact one") from error
    whole = sums_whole_bytes()
    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(made),
                reader,
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=not whole,
                extra_options={"TensorQuantOverrides": {name: [{}] for name in _whole(onnx.load(str(prepared)).graph)}},
            )
            model = onnx.load(str(made))
        except Exception as error:  # the quantiser's exceptions share no base class
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise EngineError(f"{source}: ONNX Runtime cannot quantise it: {reason}.\n  Leave `int8` out") from error
    metadata = {entry.key: entry.value for entry in loaded.metadata_props}
    metadata |= {"int8": "static, QDQ, activations U8, weights S8 per channel" + ("" if whole else ", 7 bits")}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    write_whole(target, model.SerializeToString(deterministic=True), "the INT8 file")


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands the inputs to the quantiser, by name and as many at a time as the file takes."""

    def __init__(self, graph: onnx.GraphProto, batches: Sequence[Example]) -> None:
        stored = {tensor.name for tensor in graph.initializer}
        ports = [port for port in graph.input if port.name not in stored]
        bound = next((sizes[0].dim_value for port in ports if (sizes := port.type.tensor_type.shape.dim)), 0)
        cut = (part for batch in batches for part in parts(batch, bound or batch_size(batch)))
        self._fed = (fed(part, [port.name for port in ports]) for part in cut)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        given = next(self._fed, None)
        return None if given is None else {name: tensor.contiguous().numpy() for name, tensor in given.items()}


def _whole(graph: onnx.GraphProto) -> set[str]:
    """Return the weights that get one scale in all: of a transposed convolution in groups no axis is its outputs."""
    grouped = [
        node
        for node in graph.node
        if node.op_type == "ConvTranspose" and any(entry.name == "group" and entry.i > 1 for entry in node.attribute)
    ]
    return {node.input[1] for node in grouped}
