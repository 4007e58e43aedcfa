"""The general road to ONNX: torch's own exporter, for networks that the direct road does not cover."""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import onnx
import onnx.version_converter
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from slimkit import out_of_memory
from slimkit.errors import EngineError
from slimkit.example import Example, batch_size, named, of_batch, own_batch
from slimkit.export.file import OnnxModel
from slimkit.modules import evaluating, quiet
from slimkit.settings.files import OPSET
from slimkit.usage import OUTPUT

_SCOPES = "pkg.torch.onnx.name_scopes"  # the modules around a node, from the network itself inwards
_EMPTY_AXES = 18  # the opset that gave reductions this attribute
_BY_NUMBER = ("Add", "Div", "Mul", "Pow")
_SPATIAL = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}  # by the rank of an input


def translate(
    model: nn.Module,
    example_input: Example,
    outputs: Sequence[str] = (OUTPUT,),
    opset: int = OPSET,
    free_batch: bool = True,
    free_size: bool = False,
) -> OnnxModel:
    """Return the network in evaluation mode as an ONNX model whose first dimension, `batch`, is free.

    Args:
        outputs: their names.
        free_batch: without it the model is bound to the example's batch.
        free_size: leave the dimensions after the second free too: `height` and `width`.

    Raises:
        EngineError: the exporter cannot express the network; its own line is in the message.
    """
    images = of_batch(example_input, own_batch(example_input, 2)) if free_batch else example_input
    free = tree_map(lambda t: _free(t, batch_size(images), free_batch, free_size), images)
    positional = images if isinstance(images, tuple) else () if isinstance(images, Mapping) else (images,)
    nest = isinstance(images, (tuple, Mapping))
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
                dynamic_shapes=None if not free_batch and not free_size else free if nest else (free,),
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:
            out_of_memory.pass_on(error)
            raise EngineError(
                f"{type(model).__name__} cannot be exported to ONNX: {_reason(error)}.\n"
                "  Rewrite that operation, or keep the network as slimkit's own file (.safetensors or .pt2)"
            ) from error
    assert program is not None
    proto: onnx.ModelProto = _of_version(program.model_proto, opset)
    _rename_outputs(proto, outputs)
    _name_after_modules(proto)
    _reorder_gelus(proto)
    strip(proto)
    return OnnxModel(proto)


def _of_version(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a model in the operators that were asked for: the exporter keeps to its own where it cannot convert.

    Raises:
        EngineError: they cannot be had.
    """
    [written] = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if written == opset:
        return proto
    try:
        found: onnx.ModelProto = onnx.version_converter.convert_version(proto, opset)
    except Exception as error:  # of ONNX's C++ code
        raise EngineError(
            f"opset is {opset}: the network is in opset {written}, and cannot be converted ({_reason(error)}).\n"
            "  Give another `opset`, or leave it out"
        ) from error
    for node in found.graph.node if opset < _EMPTY_AXES else ():
        kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
        del node.attribute[:]
        node.attribute.extend(kept)  # else ONNX refuses what its own converter has left there
    return found


def _free(tensor: Any, batch: int, free_batch: bool, free_size: bool) -> dict[int, str] | None:
    """Return the names of the dimensions that one input leaves free."""
    if not isinstance(tensor, Tensor) or not tensor.dim():
        return None
    names = {0: "batch"} if free_batch and len(tensor) == batch else {}
    if free_size and tensor.is_floating_point():
        spatial = _SPATIAL.get(tensor.dim(), ())
        names |= {tensor.dim() - len(spatial) + place: name for place, name in enumerate(spatial)}
    return names or None


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


def _name_after_modules(proto: onnx.ModelProto) -> None:
    """Name each node, and what it gives, by the module that ran it, as our own road does: so its time can be told."""
    if any(attribute.HasField("g") for node in proto.graph.node for attribute in node.attribute):
        return  # a loop's body reads values of the graph by their names
    fixed = {entry.name for entry in (*proto.graph.output, *proto.graph.input, *proto.graph.initializer)}
    seen = Counter(fixed)
    new: dict[str, str] = {}
    for node in proto.graph.node:
        said = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ast.literal_eval(said.get(_SCOPES, "[]"))
        weight = next((name for name in node.input if name.endswith(".weight")), "")
        path = weight.removesuffix(".weight") or (scopes[-2] if len(scopes) > 1 and scopes[0] == "" else "")
        name = f"{path}/{node.op_type}".lstrip("/")
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1
        if len(node.output) == 1 and node.output[0] not in fixed:
            new[node.output[0]] = node.name
    _rename(proto, new)


def _reorder_gelus(proto: onnx.ModelProto) -> None:
    """Write each GELU, x (0.5 (1 + erf)), as (x (1 + erf)) 0.5, with tanh as (x 0.5) (1 + tanh).

    ONNX Runtime makes one operator of these; of what torch writes it runs all five.
    """
    graph = proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    scalars = {entry.name for entry in graph.initializer if math.prod(entry.dims) == 1}
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(entry.name for entry in graph.output)

    def made_by(kind: str, name: str) -> onnx.NodeProto | None:
        node = makers.get(name)
        return node if node is not None and node.op_type == kind else None

    def of(x: str, name: str, steps: int = 4) -> bool:
        """Tell whether a value is computed of `x` in a few steps, number by number."""
        node = makers.get(name) if steps else None
        inputs = node.input if node is not None and node.op_type in _BY_NUMBER else ()
        return name == x or any(of(x, one, steps - 1) for one in inputs)

    def curve(name: str) -> onnx.NodeProto | None:
        """Return the erf or tanh that a sum is of."""
        raised = made_by("Add", name)
        found = (made_by(kind, one) for one in (raised.input if raised else ()) for kind in ("Erf", "Tanh"))
        return next(filter(None, found), None)

    changed = set()
    for node in graph.node:
        for name, x in permutations(node.input, 2) if node.op_type == "Mul" else ():
            half = made_by("Mul", name)
            for factor, raised in permutations(half.input, 2) if half is not None and reads[name] == 1 else ():
                found = curve(raised)
                if half is not None and factor in scalars and found is not None and of(x, found.input[0]):
                    half.input[:] = [x, raised if found.op_type == "Erf" else factor]
                    node.input[:] = [name, factor if found.op_type == "Erf" else raised]
                    changed.add(name)
    kept = [entry for entry in graph.value_info if entry.name not in changed]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _rename_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    held = {entry.name: f"{entry.name}_inside" for entry in proto.graph.initializer if entry.name in names}
    _rename(proto, held)
    for output in proto.graph.output:  # a buffer that is returned under its own name
        output.name = held.get(output.name, output.name)
    old = [output.name for output in proto.graph.output]
    _rename(proto, {name: f"{name}_inside" for name in names if name not in old})
    new = dict(zip(old, names, strict=True))
    for output in proto.graph.output:
        output.name = new[output.name]
    for name in [entry.name for entry in proto.graph.initializer if entry.name in new]:  # which no node gives
        proto.graph.node.append(onnx.helper.make_node("Identity", [name], [new.pop(name)]))
    given = {entry.name for entry in proto.graph.input}
    for node in proto.graph.node:  # the exporter may call an output that is an input by the input's name
        node.output[:] = [new[name] if name in given else name for name in node.output]
    _rename(proto, {name: output for name, output in new.items() if name not in given})


def _rename(proto: onnx.ModelProto, new: Mapping[str, str]) -> None:
    for value in (*proto.graph.value_info, *proto.graph.initializer):
        value.name = new.get(value.name, value.name)
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]


def _reason(error: BaseException) -> str:
    """Return the line of the first cause: the exporter wraps it in advice of many lines."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
