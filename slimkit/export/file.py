"""An ONNX model and its weights, written to one file without copying the weights.

`protobuf` would copy each weight three times (into the message, into the graph, into the serialised bytes),
so the wire format is put together here: a field of a message is a tag, a length and its bytes, in any order.
Source: https://protobuf.dev/programming-guides/encoding/, field numbers from `onnx.proto`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # of ModelProto, GraphProto, TensorProto


@dataclass
class OnnxModel:
    """A model; `weights` are initialisers that are not in the message: name -> array."""

    proto: onnx.ModelProto
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file; the same model gives the same bytes."""
        shell = onnx.ModelProto()
        shell.CopyFrom(self.proto)
        graph = shell.graph.SerializeToString(deterministic=True)
        shell.ClearField("graph")
        pieces = [(_tensor_header(name, array), _raw(array)) for name, array in self.weights.items()]
        size = len(graph)
        for header, raw in pieces:
            length = len(header) + raw.nbytes
            size += len(_prefix(_INITIALIZER, length)) + length
        with path.open("wb") as file:
            file.write(shell.SerializeToString(deterministic=True))
            file.write(_prefix(_GRAPH, size) + graph)
            file.writelines(_initializers(pieces))


def _initializers(pieces: Iterable[tuple[bytes, memoryview]]) -> Iterator[bytes | memoryview]:
    for header, raw in pieces:
        yield _prefix(_INITIALIZER, len(header) + raw.nbytes) + header
        yield raw


def _tensor_header(name: str, array: NDArray[Any]) -> bytes:
    """Return all of a TensorProto but the numbers themselves."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=kind)
    return bytes(tensor.SerializeToString(deterministic=True)) + _prefix(_RAW_DATA, array.nbytes)


def _raw(array: NDArray[Any]) -> memoryview:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return memoryview(little.reshape(-1).view("uint8"))


def _prefix(number: int, length: int) -> bytes:
    """Return tag and length of a field that holds bytes or a message."""
    return varint(number << 3 | 2) + varint(length)


def varint(value: int) -> bytes:
    """Return a number, 0 or more, as protobuf writes lengths: in groups of seven bits, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
