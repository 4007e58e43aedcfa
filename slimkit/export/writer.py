"""An ONNX graph in the making: nodes, initialisers, names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from slimkit.export.record import Batch, Constant, Unsupported, Value

ONNX_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}


def onnx_type(dtype: torch.dtype) -> int:
    """Return ONNX's number of a type."""
    if dtype not in ONNX_TYPES:
        raise Unsupported(f"tensors of type {dtype}")
    return int(ONNX_TYPES[dtype])


class Writer:
    """Collects the nodes of one graph. Every node is named after the module that ran it."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.module = ""
        self._names: dict[Value | Tensor, str] = {}
        self._literals: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._used: dict[str, int] = {}
        self._batch_size: str | None = None
        self.input_name = "input"

    def bind(self, value: Value, name: str) -> None:
        """Say under which name the graph holds a value."""
        self._names[value] = name

    def name(self, operand: Value | Constant | int | float) -> str:
        """Return the name of an operand, adding it to the initialisers where it is a constant."""
        if isinstance(operand, Value):
            return self._names[operand]
        if isinstance(operand, Constant):
            return self.constant(operand.tensor)
        raise Unsupported(f"a number where a tensor was expected: {operand!r}")

    def constant(self, tensor: Tensor, title: str = "") -> str:
        """Add a tensor to the initialisers, each once, named `title` or after the module that reads it."""
        if tensor not in self._names:
            name = self._fresh(title or self._path("constant"))
            array = tensor.detach().cpu().contiguous().numpy()
            self.initializers[name] = numpy_helper.from_array(array, name)
            self._names[tensor] = name
        return self._names[tensor]

    def literal(self, array: Any, dtype: torch.dtype = torch.int64) -> str:
        """Add a few numbers to the initialisers; equal ones share one entry."""
        values: NDArray[Any] = np.asarray(array, dtype=helper.tensor_dtype_to_np_dtype(onnx_type(dtype)))
        key = (str(values.dtype), values.shape, values.tobytes())
        if key not in self._literals:
            name = self._fresh("literal")
            self.initializers[name] = numpy_helper.from_array(values, name)
            self._literals[key] = name
        return self._literals[key]

    def shape(self, sizes: tuple[int | Batch, ...] | list[int | Batch]) -> str:
        """Return a 1-D tensor with these sizes, computed from the input's where one follows the batch."""
        if not any(isinstance(size, Batch) for size in sizes):
            return self.literal(sizes)
        parts = [self._size(size) for size in sizes]
        return self.emit("Concat", parts, axis=0) if len(parts) > 1 else parts[0]

    def _size(self, size: int | Batch) -> str:
        if not isinstance(size, Batch):
            return self.literal([size])
        if self._batch_size is None:
            self._batch_size = self.emit("Shape", [self.input_name], start=0, end=1)
        return self._batch_size if size.factor == 1 else self.emit(
            "Mul", [self._batch_size, self.literal([size.factor])]
        )

    def emit(self, kind: str, inputs: list[str], *, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node and return the name of its output, or the list of them where there are several."""
        node_name = self._fresh(self._path(kind))
        produced = [node_name if outputs == 1 else f"{node_name}.{i}" for i in range(outputs)]
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, inputs, produced, name=node_name, **given))
        return produced[0] if outputs == 1 else produced

    def _path(self, kind: str) -> str:
        return f"{self.module}/{kind}" if self.module else kind

    def _fresh(self, name: str) -> str:
        count = self._used.get(name, 0)
        self._used[name] = count + 1
        return self._fresh(f"{name}_{count}") if count else name
