"""Network -> ONNX file; INT8."""

from slimkit.export.onnx import export_onnx

__all__ = ["export_onnx"]
