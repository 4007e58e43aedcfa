"""ATen operators that compute (convolutions, products, norms, activations) -> ONNX nodes that do the same.

A rule takes the graph being written and one recorded call, and returns the name of the output, or a list of
names where there are several. What a rule doesn't cover is `Unsupported`, never approximated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from slimkit.export.recording import Call, Constant, Unsupported, Value, plain
from slimkit.export.writer import Writer, onnx_type

Translation = Callable[[Writer, Call], str | list[str]]


def tensor(writer: Writer, operand: Any, dtype: torch.dtype) -> str:
    """Return an operand of an elementwise operator as a tensor of the type that torch promotes it to."""
    if isinstance(operand, (bool, int, float)):
        return writer.literal(operand, dtype)
    if isinstance(operand, Constant):
        return writer.name(replace(operand, tensor=operand.tensor.to(dtype)))
    if not isinstance(operand, Value):
        raise Unsupported(f"computes with {operand!r}")
    name = writer.name(operand)
    return name if operand.dtype == dtype else writer.emit("Cast", [name], to=onnx_type(dtype))


def spread(setting: Sequence[int] | int, count: int) -> list[int]:
    """Return a setting for each spatial dimension; one number stands for all."""
    values = [setting] if isinstance(setting, int) else list(setting)
    return values * count if len(values) == 1 else values


def unary(kind: str, **attributes: Any) -> Translation:
    """Make the rule of an elementwise operator with one operand."""

    def rule(writer: Writer, call: Call) -> str:
        return writer.emit(kind, [tensor(writer, call.args[0], call.result().dtype)], **attributes)

    return rule


def binary(kind: str, swap: bool = False) -> Translation:
    """Make the rule of an elementwise operator with two operands."""

    def rule(writer: Writer, call: Call) -> str:
        settings = call.arguments()
        if settings.get("alpha", 1) != 1 or settings.get("rounding_mode") is not None:
            raise Unsupported(f"{call.op} with alpha or a rounding mode")
        operands = [tensor(writer, operand, call.result().dtype) for operand in call.args[:2]]
        return writer.emit(kind, operands[::-1] if swap else operands)

    return rule


def _same(writer: Writer, call: Call) -> str:
    return writer.name(call.args[0])


def _convolution(writer: Writer, call: Call) -> str:
    settings = call.arguments()
    weight, bias = settings["weight"], settings["bias"]
    tensors = [writer.name(settings["input"]), writer.name(weight, "weight")]
    if bias is not None:
        tensors.append(writer.name(bias, "bias"))
    if not isinstance(weight, Constant):
        raise Unsupported("a convolution with computed weights")
    kernel = list(weight.tensor.shape[2:])
    attributes = {
        "kernel_shape": kernel,
        "strides": spread(settings["stride"], len(kernel)),
        "pads": spread(settings["padding"], len(kernel)) * 2,
        "dilations": spread(settings["dilation"], len(kernel)),
        "group": settings["groups"],
    }
    if settings["transposed"]:
        attributes["output_padding"] = spread(settings["output_padding"], len(kernel))
        return writer.emit("ConvTranspose", tensors, **attributes)
    return writer.emit("Conv", tensors, **attributes)


def _batch_norm(writer: Writer, call: Call) -> str:
    settings = call.arguments()
    mean, variance = settings["running_mean"], settings["running_var"]
    if not isinstance(mean, Constant) or not isinstance(variance, Constant):
        raise Unsupported("BatchNorm without running statistics")
    scale = settings["weight"] or Constant(torch.ones_like(mean.tensor))
    shift = settings["bias"] or Constant(torch.zeros_like(mean.tensor))
    tensors = [writer.name(t) for t in (settings["input"], scale, shift, mean, variance)]
    return writer.emit("BatchNormalization", tensors, epsilon=settings["eps"])


def _layer_norm(writer: Writer, call: Call) -> str:
    settings = call.arguments()
    image, sizes, bias = settings["input"], plain(settings["normalized_shape"]), settings["bias"]
    scale = settings["weight"] or Constant(torch.ones(sizes, dtype=image.dtype))
    tensors = [writer.name(t) for t in (image, scale, bias) if t is not None]
    return writer.emit("LayerNormalization", tensors, axis=-len(sizes), epsilon=settings["eps"])


def _group_norm(writer: Writer, call: Call) -> str:
    settings = call.arguments()
    image, groups = settings["input"], settings["group"]
    split = writer.emit("Reshape", [writer.name(image), writer.literal([0, groups, -1])])
    unit = [writer.literal([fill] * groups, image.dtype) for fill in (1.0, 0.0)]
    normed = writer.emit("InstanceNormalization", [split, *unit], epsilon=settings["eps"])
    out = writer.emit("Reshape", [normed, writer.literal([-1, *plain(image.shape[1:])])])
    for kind, operand in (("Mul", settings["weight"]), ("Add", settings["bias"])):
        if operand is not None:
            column = operand.tensor.reshape(-1, *[1] * (len(image.shape) - 2))
            out = writer.emit(kind, [out, writer.name(Constant(column))])
    return out


def _addmm(writer: Writer, call: Call) -> str:
    settings = call.arguments()
    left, right, bias = settings["mat1"], settings["mat2"], settings["self"]
    attributes: dict[str, Any] = {"alpha": float(settings["alpha"]), "beta": float(settings["beta"])}
    if isinstance(right, Constant) and right.tensor.t().is_contiguous():  # a linear layer's weight
        right, attributes["transB"] = Constant(right.tensor.t()), 1
    tensors = [writer.name(left), writer.name(right, "weight"), writer.name(bias, "bias")]
    return writer.emit("Gemm", tensors, **attributes)


def _matmul(writer: Writer, call: Call) -> str:
    once = [replace(a, repeats=0) if isinstance(a, Constant) else a for a in call.args]  # MatMul broadcasts
    return writer.emit("MatMul", [writer.name(operand) for operand in once])


def _baddbmm(writer: Writer, call: Call) -> str:
    settings = call.arguments()
    if settings["alpha"] != 1 or settings["beta"] != 1:
        raise Unsupported("baddbmm with alpha or beta")
    product = writer.emit("MatMul", [writer.name(settings["batch1"]), writer.name(settings["batch2"])])
    return writer.emit("Add", [writer.name(settings["self"]), product])


def _addcmul(writer: Writer, call: Call) -> str:
    settings, dtype = call.arguments(), call.result().dtype
    product = writer.emit("Mul", [tensor(writer, settings[name], dtype) for name in ("tensor1", "tensor2")])
    if settings["value"] != 1:
        product = writer.emit("Mul", [product, writer.literal(settings["value"], dtype)])
    return writer.emit("Add", [tensor(writer, settings["self"], dtype), product])


def _clip(low: str, high: str) -> Translation:
    """Make the rule of an operator that clips, whose bounds have these names."""

    def rule(writer: Writer, call: Call) -> str:
        settings, dtype = call.arguments(), call.result().dtype
        bounds = [settings.get(low), settings.get(high)]
        if any(isinstance(bound, (Value, Constant)) for bound in bounds):
            raise Unsupported("clipping at computed bounds")
        names = ["" if bound is None else writer.literal(bound, dtype) for bound in bounds]
        return writer.emit("Clip", [tensor(writer, call.args[0], dtype), *names])

    return rule


def _silu(writer: Writer, call: Call) -> str:
    name = writer.name(call.args[0])
    return writer.emit("Mul", [name, writer.emit("Sigmoid", [name])])


def _gelu(writer: Writer, call: Call) -> str:
    """Write the steps in the order in which ONNX Runtime knows them: it makes one of them."""
    name, dtype = writer.name(call.args[0]), call.result().dtype

    def step(kind: str, operand: str, other: str | float) -> str:
        return writer.emit(kind, [operand, other if isinstance(other, str) else writer.literal(other, dtype)])

    if call.arguments()["approximate"] == "none":
        inner = writer.emit("Erf", [step("Div", name, math.sqrt(2))])
        return step("Mul", step("Mul", name, step("Add", inner, 1.0)), 0.5)
    square = step("Mul", step("Mul", name, 0.044715), name)
    inner = step("Mul", step("Add", square, 1.0), step("Mul", name, math.sqrt(2 / math.pi)))
    return step("Mul", step("Mul", name, 0.5), step("Add", writer.emit("Tanh", [inner]), 1.0))


def _leaky_relu(writer: Writer, call: Call) -> str:
    slope = float(call.arguments()["negative_slope"])
    return writer.emit("LeakyRelu", [writer.name(call.args[0])], alpha=slope)


def _elu(writer: Writer, call: Call) -> str:
    settings = call.arguments()
    if settings["input_scale"] != 1:
        raise Unsupported("ELU with an input scale")
    name, alpha, scale = writer.name(call.args[0]), float(settings["alpha"]), float(settings["scale"])
    return (
        writer.emit("Elu", [name], alpha=alpha) if scale == 1 else writer.emit("Selu", [name], alpha=alpha, gamma=scale)
    )


def _prelu(writer: Writer, call: Call) -> str:
    return writer.emit("PRelu", [writer.name(call.args[0]), writer.name(call.args[1])])


def _softplus(writer: Writer, call: Call) -> str:
    if call.arguments()["beta"] != 1:
        raise Unsupported("softplus with beta")
    return writer.emit("Softplus", [writer.name(call.args[0])])


def _softmax(kind: str) -> Translation:
    def rule(writer: Writer, call: Call) -> str:
        return writer.emit(kind, [writer.name(call.args[0])], axis=call.arguments()["dim"])

    return rule


def _power(writer: Writer, call: Call) -> str:
    dtype = call.result().dtype
    base, exponent = (tensor(writer, operand, dtype) for operand in call.args[:2])
    return writer.emit("Mul", [base, base]) if call.args[1] == 2 else writer.emit("Pow", [base, exponent])


def _rsqrt(writer: Writer, call: Call) -> str:
    return writer.emit("Reciprocal", [writer.emit("Sqrt", [writer.name(call.args[0])])])


def _cast(writer: Writer, call: Call) -> str:
    return tensor(writer, call.args[0], call.result().dtype)


ARITHMETIC: dict[str, Translation] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "addmm": _addmm,
    "mm": _matmul,
    "bmm": _matmul,
    "baddbmm": _baddbmm,
    "addcmul": _addcmul,
    "add": binary("Add"),
    "sub": binary("Sub"),
    "mul": binary("Mul"),
    "div": binary("Div"),
    "maximum": binary("Max"),
    "minimum": binary("Min"),
    "rsub": binary("Sub", swap=True),
    "pow": _power,
    "relu": unary("Relu"),
    "sigmoid": unary("Sigmoid"),
    "tanh": unary("Tanh"),
    "exp": unary("Exp"),
    "log": unary("Log"),
    "sqrt": unary("Sqrt"),
    "neg": unary("Neg"),
    "abs": unary("Abs"),
    "erf": unary("Erf"),
    "reciprocal": unary("Reciprocal"),
    "hardsigmoid": unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish": unary("HardSwish"),
    "mish": unary("Mish"),
    "rsqrt": _rsqrt,
    "silu": _silu,
    "gelu": _gelu,
    "hardtanh": _clip("min_val", "max_val"),
    "clamp": _clip("min", "max"),
    "clamp_min": _clip("min", "max"),
    "clamp_max": _clip("min", "max"),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "_prelu_kernel": _prelu,
    "softplus": _softplus,
    "_softmax": _softmax("Softmax"),
    "_safe_softmax": _softmax("Softmax"),
    "_log_softmax": _softmax("LogSoftmax"),
    "clone": _same,
    "alias": _same,
    "detach": _same,
    "lift_fresh": _same,
    "_to_copy": _cast,
}
