"""The table of operators of the direct road: ATen operator -> the ONNX nodes that compute the same.

A rule takes the graph being written and one recorded call, and returns the name of the output, or a list of names
where there are several. What a rule doesn't cover is `Unsupported`, never approximated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from slimkit.export.record import Batch, Call, Constant, Unsupported, Value, plain
from slimkit.export.writer import Writer, onnx_type

Rule = Callable[[Writer, Call], Any]


def _settings(call: Call, *defaults: Any) -> list[Any]:
    """Return the arguments after the first, filled up with the operator's own defaults."""
    given = list(call.args[1:])
    names = [a.name for a in call.op._schema.arguments[1:]]
    filled = [*given, *defaults[len(given) :]]
    for position, name in enumerate(names[: len(filled)]):
        filled[position] = call.kwargs.get(name, filled[position])
    return filled


def _dtype(call: Call) -> torch.dtype:
    assert call.outputs[0] is not None
    return call.outputs[0].dtype


def _shape(operand: Any) -> tuple[int | Batch, ...]:
    return tuple(operand.tensor.shape) if isinstance(operand, Constant) else tuple(operand.shape)


def _rank(operand: Any) -> int:
    return len(_shape(operand))


def _operand(writer: Writer, operand: Any, dtype: torch.dtype) -> str:
    """Return an operand of an elementwise operator as a tensor of the type that torch promotes it to."""
    if isinstance(operand, (bool, int, float)):
        return writer.literal(operand, dtype)
    if isinstance(operand, Constant):
        same = operand.tensor.dtype == dtype
        return writer.name(operand if same else Constant(operand.tensor.to(dtype)))
    if not isinstance(operand, Value):
        raise Unsupported(f"operand {operand!r}")
    name = writer.name(operand)
    return name if operand.dtype == dtype else str(writer.emit("Cast", [name], to=onnx_type(dtype)))


def _unary(kind: str, **attributes: Any) -> Rule:
    return lambda writer, call: writer.emit(kind, [_operand(writer, call.args[0], _dtype(call))], **attributes)


def _same(writer: Writer, call: Call) -> str:
    return writer.name(call.args[0])


def _binary(kind: str) -> Rule:
    def rule(writer: Writer, call: Call) -> Any:
        left, right = call.args[:2]
        if call.kwargs.get("alpha", 1) != 1 or call.kwargs.get("rounding_mode") is not None or len(call.args) > 2:
            raise Unsupported(f"{call.op} with further settings")
        dtype = _dtype(call)
        return writer.emit(kind, [_operand(writer, left, dtype), _operand(writer, right, dtype)])

    return rule


def _reversed_subtract(writer: Writer, call: Call) -> Any:
    if len(call.args) > 2 or call.kwargs:
        raise Unsupported("rsub with alpha")
    dtype = _dtype(call)
    return writer.emit("Sub", [_operand(writer, call.args[1], dtype), _operand(writer, call.args[0], dtype)])


def _convolution(writer: Writer, call: Call) -> Any:
    image, weight, bias, stride, padding, dilation, transposed, output_padding, groups = plain_args(call)
    tensors = [writer.name(image), writer.name(weight)] + ([writer.name(bias)] if bias is not None else [])
    kernel = [int(k) for k in _shape(weight)[2:]]
    spatial = len(kernel)
    settings = {
        "kernel_shape": kernel,
        "strides": _spread(stride, spatial),
        "pads": _spread(padding, spatial) * 2,
        "dilations": _spread(dilation, spatial),
        "group": groups,
    }
    if transposed:
        return writer.emit("ConvTranspose", tensors, output_padding=_spread(output_padding, spatial), **settings)
    return writer.emit("Conv", tensors, **settings)


def plain_args(call: Call) -> list[Any]:
    """Return the arguments, none of which may be a size that follows the batch."""
    return [a if isinstance(a, (Value, Constant)) else plain(a) for a in call.args]


def _spread(setting: Sequence[int] | int, count: int) -> list[int]:
    values = [setting] if isinstance(setting, int) else list(setting)
    return values * count if len(values) == 1 else values


def _batch_norm(writer: Writer, call: Call) -> Any:
    image, weight, bias, mean, variance = call.args[:5]
    epsilon = call.args[-1]
    if not isinstance(mean, Constant) or not isinstance(variance, Constant):
        raise Unsupported("BatchNorm without running statistics")
    ones = weight if weight is not None else Constant(torch.ones_like(mean.tensor))
    zeros = bias if bias is not None else Constant(torch.zeros_like(mean.tensor))
    tensors = [writer.name(t) for t in (image, ones, zeros, mean, variance)]
    return writer.emit("BatchNormalization", tensors, epsilon=float(epsilon))


def _layer_norm(writer: Writer, call: Call) -> Any:
    image, sizes, weight, bias, epsilon = plain_args(call)
    scale = weight if weight is not None else Constant(torch.ones(sizes, dtype=image.dtype))
    tensors = [writer.name(image), writer.name(scale)] + ([writer.name(bias)] if bias is not None else [])
    return writer.emit("LayerNormalization", tensors, axis=-len(sizes), epsilon=float(epsilon))


def _group_norm(writer: Writer, call: Call) -> Any:
    image, weight, bias = call.args[:3]
    groups, epsilon = call.args[6], call.args[7]
    split = writer.emit("Reshape", [writer.name(image), writer.literal([0, groups, -1])])
    unit = [writer.literal([1.0] * groups, image.dtype), writer.literal([0.0] * groups, image.dtype)]
    normed = writer.emit("InstanceNormalization", [split, *unit], epsilon=float(epsilon))
    out = writer.emit("Reshape", [normed, writer.shape([-1, *image.shape[1:]])])
    for kind, tensor in (("Mul", weight), ("Add", bias)):
        if tensor is not None:
            column = Constant(tensor.tensor.reshape(-1, *[1] * (_rank(image) - 2)))
            out = writer.emit(kind, [out, writer.name(column)])
    return out


def _addmm(writer: Writer, call: Call) -> Any:
    bias, left, right = call.args
    if call.kwargs:
        raise Unsupported("addmm with alpha or beta")
    return writer.emit("Gemm", [writer.name(left), writer.name(right), writer.name(bias)])


def _matmul(writer: Writer, call: Call) -> Any:
    return writer.emit("MatMul", [writer.name(call.args[0]), writer.name(call.args[1])])


def _baddbmm(writer: Writer, call: Call) -> Any:
    product = writer.emit("MatMul", [writer.name(call.args[1]), writer.name(call.args[2])])
    if call.kwargs.get("alpha", 1) != 1 or call.kwargs.get("beta", 1) != 1:
        raise Unsupported("baddbmm with alpha or beta")
    return writer.emit("Add", [writer.name(call.args[0]), product])


def _clip(writer: Writer, call: Call) -> Any:
    low, high = _settings(call, None, None)
    dtype = _dtype(call)
    bounds = [writer.literal(b, dtype) if b is not None else "" for b in (low, high)]
    return writer.emit("Clip", [writer.name(call.args[0]), *bounds])


def _hardtanh(writer: Writer, call: Call) -> Any:
    low, high = _settings(call, -1.0, 1.0)
    return writer.emit("Clip", [writer.name(call.args[0]), *(writer.literal(b, _dtype(call)) for b in (low, high))])


def _clamp_min(writer: Writer, call: Call) -> Any:
    return writer.emit("Clip", [writer.name(call.args[0]), writer.literal(call.args[1], _dtype(call))])


def _silu(writer: Writer, call: Call) -> Any:
    name = writer.name(call.args[0])
    return writer.emit("Mul", [name, writer.emit("Sigmoid", [name])])


def _hardswish(writer: Writer, call: Call) -> Any:
    return writer.emit("HardSwish", [writer.name(call.args[0])])


def _gelu(writer: Writer, call: Call) -> Any:
    name, dtype = writer.name(call.args[0]), _dtype(call)
    if call.kwargs.get("approximate", "none") == "none":
        inner = writer.emit("Erf", [writer.emit("Div", [name, writer.literal(math.sqrt(2), dtype)])])
    else:
        cube = writer.emit("Mul", [writer.emit("Mul", [name, name]), name])
        summed = writer.emit("Add", [name, writer.emit("Mul", [cube, writer.literal(0.044715, dtype)])])
        inner = writer.emit("Tanh", [writer.emit("Mul", [summed, writer.literal(math.sqrt(2 / math.pi), dtype)])])
    shifted = writer.emit("Mul", [name, writer.emit("Add", [inner, writer.literal(1.0, dtype)])])
    return writer.emit("Mul", [shifted, writer.literal(0.5, dtype)])


def _leaky_relu(writer: Writer, call: Call) -> Any:
    (slope,) = _settings(call, 0.01)
    return writer.emit("LeakyRelu", [writer.name(call.args[0])], alpha=float(slope))


def _elu(writer: Writer, call: Call) -> Any:
    alpha, scale, input_scale = _settings(call, 1.0, 1.0, 1.0)
    if scale != 1 or input_scale != 1:
        raise Unsupported("scaled ELU")
    return writer.emit("Elu", [writer.name(call.args[0])], alpha=float(alpha))


def _prelu(writer: Writer, call: Call) -> Any:
    return writer.emit("PRelu", [writer.name(call.args[0]), writer.name(call.args[1])])


def _softplus(writer: Writer, call: Call) -> Any:
    beta, _ = _settings(call, 1, 20)
    if beta != 1:
        raise Unsupported("softplus with beta")
    return writer.emit("Softplus", [writer.name(call.args[0])])


def _softmax(kind: str) -> Rule:
    return lambda writer, call: writer.emit(kind, [writer.name(call.args[0])], axis=int(call.args[1]))


def _power(writer: Writer, call: Call) -> Any:
    name, exponent, dtype = writer.name(call.args[0]), call.args[1], _dtype(call)
    if exponent == 2:
        return writer.emit("Mul", [name, name])
    return writer.emit("Pow", [name, writer.literal(exponent, dtype)])


def _rsqrt(writer: Writer, call: Call) -> Any:
    return writer.emit("Reciprocal", [writer.emit("Sqrt", [writer.name(call.args[0])])])


def _cast(writer: Writer, call: Call) -> Any:
    return _operand(writer, call.args[0], _dtype(call))


RULES: dict[str, Rule] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "addmm": _addmm,
    "mm": _matmul,
    "bmm": _matmul,
    "baddbmm": _baddbmm,
    "add": _binary("Add"),
    "sub": _binary("Sub"),
    "mul": _binary("Mul"),
    "div": _binary("Div"),
    "maximum": _binary("Max"),
    "minimum": _binary("Min"),
    "rsub": _reversed_subtract,
    "pow": _power,
    "relu": _unary("Relu"),
    "sigmoid": _unary("Sigmoid"),
    "tanh": _unary("Tanh"),
    "exp": _unary("Exp"),
    "log": _unary("Log"),
    "sqrt": _unary("Sqrt"),
    "neg": _unary("Neg"),
    "abs": _unary("Abs"),
    "erf": _unary("Erf"),
    "reciprocal": _unary("Reciprocal"),
    "hardsigmoid": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "mish": _unary("Mish"),
    "rsqrt": _rsqrt,
    "hardswish": _hardswish,
    "silu": _silu,
    "gelu": _gelu,
    "hardtanh": _hardtanh,
    "clamp": _clip,
    "clamp_min": _clamp_min,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "_prelu_kernel": _prelu,
    "softplus": _softplus,
    "_softmax": _softmax("Softmax"),
    "_log_softmax": _softmax("LogSoftmax"),
    "clone": _same,
    "alias": _same,
    "detach": _same,
    "lift_fresh": _same,
    "dropout": _same,
    "_to_copy": _cast,
}
