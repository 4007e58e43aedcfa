"""The direct road to ONNX: one recorded forward pass, translated operator by operator.

Many times faster than the general exporter, which decomposes, translates and optimises a symbolic graph; it
covers the operators of convolutional networks and says `Unsupported` to anything else.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from slimkit.example import Example
from slimkit.export.arithmetic import ARITHMETIC
from slimkit.export.file import OnnxModel
from slimkit.export.fold import fold_batch_norms
from slimkit.export.movement import MOVEMENT
from slimkit.export.recording import Batch, Recording, Size, Unsupported, Value, capture
from slimkit.export.writer import Writer, onnx_type
from slimkit.settings.files import OPSET
from slimkit.usage import OUTPUT

IR_VERSION = 8  # the one that belongs to this opset
_RULES = {**ARITHMETIC, **MOVEMENT}


def translate(model: nn.Module, example_input: Example, outputs: Sequence[str] = (OUTPUT,)) -> OnnxModel:
    """Return the network in evaluation mode as an ONNX model whose first dimension, `batch`, is free.

    Args:
        model: float network; left as it was found.
        example_input: of tensors [N, ...], any N.
        outputs: their names.

    Raises:
        Unsupported: an operator, or its use, has no rule here.
    """
    recording = fold_batch_norms(capture(model, example_input))
    titles = dict([*model.named_parameters(), *model.named_buffers()])
    with torch.no_grad():
        return _assemble(recording, _write(recording, titles, outputs), outputs)


def _write(recording: Recording, titles: dict[str, Tensor], outputs: Sequence[str]) -> Writer:
    writer = Writer(titles, list(recording.inputs), outputs)
    for title, given in recording.inputs.items():
        writer.bind(given, title)
    for call in recording.calls:
        if call.name not in _RULES:
            raise Unsupported(f"{call.op} in {call.module or 'the network itself'}")
        writer.module = call.module
        produced = _RULES[call.name](writer, call)
        names = [produced] if isinstance(produced, str) else produced
        for value, name in zip(call.outputs, names, strict=False):  # a pool's indices are not written
            if value is not None:
                writer.bind(value, name)
    writer.module = ""
    for value, name in zip(recording.outputs, outputs, strict=True):
        writer.nodes.append(helper.make_node("Identity", [writer.name(value)], [name], name=name))
    return writer


def _assemble(recording: Recording, writer: Writer, outputs: Sequence[str]) -> OnnxModel:
    nodes = _without_identities(_needed(writer.nodes, set(outputs)))
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "slimkit",
        [_info(name, value) for name, value in recording.inputs.items()],
        [_info(name, value) for name, value in zip(outputs, recording.outputs, strict=True)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return OnnxModel(proto, {name: array for name, array in writer.weights.items() if name in read})


def _info(name: str, value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx_type(value.dtype), [_size(size) for size in value.shape])


def _size(size: Size) -> int | str:
    if not isinstance(size, Batch):
        return size
    return "batch" if size.factor == 1 else f"{size.factor}*batch"


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the wanted tensors depend on."""
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def _without_identities(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Let the maker of an output carry its name, where nothing else reads that output under the old one."""
    makers = {name: node for node in nodes for name in node.output}
    readers: dict[str, int] = {}
    for node in nodes:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    kept = []
    for node in nodes:
        source = node.input[0] if node.op_type == "Identity" else ""
        if source in makers and readers[source] == 1:
            outputs = makers[source].output
            outputs[list(outputs).index(source)] = node.output[0]
        else:
            kept.append(node)
    return kept
