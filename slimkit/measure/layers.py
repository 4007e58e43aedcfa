"""The layers of an ONNX file whose time depends on how many channels they read and make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from slimkit.errors import EngineError
from slimkit.record import Count, Positive, Record

CONVOLUTION, DEPTHWISE, LINEAR = "convolution", "depthwise", "linear"


@dataclass(frozen=True, kw_only=True)
class Shape(Record):
    """What a layer is, but for its channels.

    Attributes:
        kind: `convolution` (also in groups), `depthwise` or `linear`.
        kernel, strides, dilations: one entry a spatial dimension.
        pads: begins, then ends.
        groups: of a convolution; 1 for a depthwise one, whose groups are its channels.
        per_group: outputs a group of a depthwise convolution makes; else 1.
        space: size of the input in each spatial dimension; for a linear layer the rows that it is applied to.
    """

    kind: str
    kernel: tuple[Positive, ...] = ()
    strides: tuple[Positive, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[Positive, ...] = ()
    groups: Positive = 1
    per_group: Positive = 1
    space: tuple[Positive, ...] = ()

    def key(self, inputs: int, outputs: int) -> str:
        """Return the name under which a time is kept."""
        words = [self.kind, *("x".join(map(str, part)) for part in (self.kernel, self.strides, self.pads))]
        words += ["x".join(map(str, self.dilations)), f"g{self.groups}", f"m{self.per_group}"]
        return " ".join([*words, "x".join(map(str, self.space)), f"{inputs}->{outputs}"])


@dataclass(frozen=True, kw_only=True)
class Layer(Record):
    """One layer of a network.

    Attributes:
        path: of the module, as slimkit's export names nodes.
        weight: name of the weight in the file.
        shape: what it is.
        inputs: channels that one output channel reads: all, those of its group, or 1 (depthwise).
        outputs: channels that it makes.
        area: output positions of one channel.
    """

    path: str
    weight: str
    shape: Shape
    inputs: Positive
    outputs: Positive
    area: Count


def layers(path: str | Path, input_shape: tuple[int, ...] | None = None) -> list[Layer]:
    """Return the convolutions and linear layers of an ONNX file, in the order of execution.

    Args:
        path: the file.
        input_shape: (C, H, W) of one image, where the file leaves it free.

    Raises:
        EngineError: ONNX cannot infer the shapes in the file.
    """
    model = onnx.load(str(path))
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    inputs = [value.type.tensor_type.shape.dim for value in model.graph.input if value.name not in weights]
    inputs = [dims for dims in inputs if dims]  # a single number has no batch
    free = [dims for dims in inputs if not dims[0].dim_value]
    for dims in free or inputs:  # beside a free batch, one that is set is no batch
        dims[0].dim_value = 1
    for dims in inputs:
        for dim, size in zip(list(dims)[1:], input_shape or (), strict=False):
            dim.dim_value = size
    del model.graph.value_info[:]  # what is noted there is of the batch that the exporter saw
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:  # onnx has no base class of its own
        raise EngineError(
            f"{path}: its shapes cannot be inferred ({str(error).splitlines()[0]}).\n"
            "  Give a file that slimkit's export wrote"
        ) from error
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    found = []
    for node in inferred.node:
        if len(node.input) > 1 and node.input[1] in weights and node.op_type in ("Conv", "Gemm", "MatMul"):
            layer = _layer(node, weights[node.input[1]], shapes.get(node.input[0], ()), shapes.get(node.output[0], ()))
            if layer is not None:
                found.append(layer)
    return found


def _layer(node: Any, weight: tuple[int, ...], read: tuple[int, ...], made: tuple[int, ...]) -> Layer | None:
    """Return a node as a layer; None where its shapes are not known, or it is none."""
    stacked = node.op_type != "Conv" and len(weight) != 2  # a vector, or a matrix for each place
    if not read or not made or 0 in (*read, *made) or stacked:
        return None
    path = node.name.rpartition("/")[0]
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type != "Conv":
        outputs, inputs = weight if given.get("transB") else weight[::-1]
        rows = 1
        for size in made[:-1]:
            rows *= size
        shape = Shape(kind=LINEAR, space=(rows,))
        return Layer(path=path, weight=node.input[1], shape=shape, inputs=inputs, outputs=outputs, area=rows)
    dims = len(weight) - 2
    groups = int(given.get("group", 1))
    depthwise = weight[1] == 1 and groups > 1
    shape = Shape(
        kind=DEPTHWISE if depthwise else CONVOLUTION,
        kernel=weight[2:],
        strides=tuple(given.get("strides", [1] * dims)),
        pads=tuple(given.get("pads", [0] * 2 * dims)),
        dilations=tuple(given.get("dilations", [1] * dims)),
        groups=1 if depthwise else groups,
        per_group=weight[0] // groups if depthwise else 1,
        space=read[2:],
    )
    area = 1
    for size in made[2:]:
        area *= size
    return Layer(path=path, weight=node.input[1], shape=shape, inputs=weight[1], outputs=weight[0], area=area)


__all__ = ["CONVOLUTION", "DEPTHWISE", "LINEAR", "Layer", "Shape", "layers"]
