"""The general road to ONNX: torch's own exporter, for networks that the direct road does not cover."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from slimkit.errors import EngineError
from slimkit.example import Example, batch_size, of_batch
from slimkit.export.direct import OPSET, output_names
from slimkit.export.file import OnnxModel
from slimkit.export.writer import named
from slimkit.modules import evaluating, quiet


def translate(model: nn.Module, example_input: Example, opset: int = OPSET, free_batch: bool = True) -> OnnxModel:
    """Return the network in evaluation mode as an ONNX model whose first dimension, `batch`, is free.

    Args:
        free_batch: without it the model is bound to the example's batch.

    Raises:
        EngineError: the exporter cannot express the network; its own line is in the message.
    """
    images = of_batch(example_input, 2) if free_batch else example_input
    batch, size = torch.export.Dim("batch"), batch_size(images)
    free = tree_map(lambda t: {0: batch} if isinstance(t, Tensor) and t.dim() and len(t) == size else None, images)
    positional = images if isinstance(images, tuple) else () if isinstance(images, Mapping) else (images,)
    with evaluating(model), torch.no_grad(), quiet():
        try:
            program = torch.onnx.export(
                model,
                positional,
                None,
                kwargs=dict(images) if isinstance(images, Mapping) else None,
                dynamo=True,
                external_data=False,
                input_names=list(named(images)),
                dynamic_shapes=(free if isinstance(images, (tuple, Mapping)) else (free,)) if free_batch else None,
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:
            raise EngineError(
                f"{type(model).__name__} cannot be exported to ONNX: {_reason(error)}.\n"
                "  Rewrite that operation, or keep the network as the .safetensors file"
            ) from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    _rename_outputs(proto)
    strip(proto)
    return OnnxModel(proto)


def strip(proto: onnx.ModelProto) -> None:
    """Remove what tells of the machine it was made on: stack traces, source paths, class names of torch."""
    for holder in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output):
        del holder.metadata_props[:]
        holder.doc_string = ""
    for tensor in (*proto.graph.initializer, *proto.graph.value_info):
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    for function in proto.functions:
        for holder in (function, *function.node):
            del holder.metadata_props[:]
            holder.doc_string = ""
    proto.graph.name = "slimkit"


def _rename_outputs(proto: onnx.ModelProto) -> None:
    old = [output.name for output in proto.graph.output]
    new = dict(zip(old, output_names(len(old)), strict=True))
    for output in proto.graph.output:
        output.name = new[output.name]
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]


def _reason(error: BaseException) -> str:
    """Return the line of the first cause: the exporter wraps it in advice of many lines."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
