"""An ONNX graph in the making: nodes, initialisers, names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from slimkit.export.recording import Batch, Constant, Size, Unsupported, Value

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
    """Collects the nodes and weights of one graph, each named after the module that ran it.

    Args:
        titles: name -> tensor, of parameters and buffers: they keep their names in the file.
        inputs: names of the graph's inputs.
        outputs: names of its outputs, which nothing else gets.
    """

    def __init__(self, titles: dict[str, Tensor], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, NDArray[Any]] = {}
        self.module = ""
        self._titles = {_memory(tensor): name for name, tensor in titles.items()}
        self._values: dict[Value, str] = {}
        self._constants: dict[Any, str] = {}
        self._held: list[Tensor] = []  # so that no other constant gets the same memory
        self._literals: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._inputs = inputs
        self._counts = dict.fromkeys((*inputs, *outputs), 1)
        self._batch_size: str | None = None

    def bind(self, value: Value, name: str) -> None:
        """Say under which name the graph holds a value."""
        self._values[value] = name

    def name(self, operand: Value | Constant | Any, role: str = "constant") -> str:
        """Return the name of an operand; a constant joins the weights, under its own name or its role's."""
        if isinstance(operand, Value):
            if operand not in self._values:
                raise Unsupported("reads an output that is not written, as the places of a pool's maxima")
            return self._values[operand]
        if isinstance(operand, Constant):
            name = self._constant(operand.tensor, role)
            return self.emit("Expand", [name, self.shape(operand.shape)]) if operand.repeats else name
        raise Unsupported(f"{operand!r} where a tensor was expected")

    def _constant(self, tensor: Tensor, role: str) -> str:
        key = _memory(tensor)
        if key not in self._constants:
            name = self._fresh(self._titles.get(key) or f"{self.module}.{role}".lstrip("."))
            onnx_type(tensor.dtype)
            self.weights[name] = tensor.detach().contiguous().numpy()
            self._constants[key] = name
            self._held.append(tensor)
        return self._constants[key]

    def literal(self, numbers: Any, dtype: torch.dtype = torch.int64) -> str:
        """Add a number or a few to the initialisers; equal ones share one entry."""
        array: NDArray[Any] = np.asarray(numbers, dtype=helper.tensor_dtype_to_np_dtype(onnx_type(dtype)))
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._literals:
            name = self._fresh("literal")
            self.weights[name] = array
            self._literals[key] = name
        return self._literals[key]

    def shape(self, sizes: Sequence[Size]) -> str:
        """Return a 1-D tensor of these sizes, computed from the input's where one follows the batch."""
        if not any(isinstance(size, Batch) for size in sizes):
            return self.literal(sizes)
        return self.emit("Concat", [self._size(size) for size in sizes], axis=0)

    def _size(self, size: Size) -> str:
        if not isinstance(size, Batch):
            return self.literal([size])
        if self._batch_size is None:
            self._batch_size = self.emit("Shape", [self._inputs[0]], start=0, end=1)
        return self.emit("Mul", [self._batch_size, self.literal([size.factor])])

    def emit(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        return self.emit_many(kind, inputs, 1, **attributes)[0]

    def emit_many(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs and return their names."""
        name = self._fresh(self._path(kind))
        produced = [name if outputs == 1 else f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, produced, name=name, **attributes))
        return produced

    def _path(self, kind: str) -> str:
        return f"{self.module}/{kind}" if self.module else kind

    def _fresh(self, name: str) -> str:
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        return self._fresh(f"{name}_{count}") if count else name


def _memory(tensor: Tensor) -> Any:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
