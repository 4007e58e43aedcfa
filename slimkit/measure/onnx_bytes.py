"""How large an ONNX file is: with the weights that it keeps in files beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx


def bytes_of_onnx(path: Path) -> int:
    """Return the bytes of an ONNX file and of the files beside it that hold its tensors.

    Each of these counts whole and once; one that is missing, or lies outside the file's folder, counts nothing. So do
    those of a file that is no ONNX.

    Raises:
        OSError: the file cannot be read.
    """
    written = path.read_bytes()
    try:
        model = onnx.ModelProto.FromString(written)
    except Exception:  # protobuf's DecodeError, which has no types
        return len(written)
    nodes = (node for function in model.functions for node in function.node)
    names = {
        os.path.normpath(entry.value)
        for tensor in (*_of_graph(model.graph), *_of_nodes(nodes))
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    beside = {path.parent / name for name in names if not os.path.isabs(name) and name.partition(os.sep)[0] != ".."}
    return sum(file.stat().st_size for file in {path, *filter(os.path.isfile, beside)})


def _of_graph(graph: Any) -> Iterator[Any]:
    """Give the tensors of a graph, and of the graphs within it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _of_graph(graph)
