"""Formats by name."""

from slimkit.export.formats import coreml, ncnn, onnx_half, openvino, tflite, torchscript
from slimkit.export.formats.source import Format

FORMATS: dict[str, Format] = {
    "onnx": onnx_half.FORMAT,
    "openvino": openvino.FORMAT,
    "torchscript": torchscript.FORMAT,
    "coreml": coreml.FORMAT,
    "tflite": tflite.FORMAT,
    "ncnn": ncnn.FORMAT,
}
