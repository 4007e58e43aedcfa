"""Fold BatchNorm into the convolution or linear layer before it, in float64; the network stays as it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from slimkit.export.recording import Call, Constant, Recording, Value

_NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training")


def fold_batch_norms(recording: Recording) -> Recording:
    """Return the recording with every BatchNorm folded that is the only reader of a layer's output.

    The layer's weight and bias must be constants, and so must the norm's statistics; a transposed convolution
    with groups is left alone. The folded weight is a new constant: layers may share the old one.
    """
    uses = Counter(leaf for call in recording.calls for leaf in _values(call))
    uses.update(recording.outputs)
    makers = {call.result(): i for i, call in enumerate(recording.calls) if call.name in _FOLDERS}
    calls: list[Call | None] = list(recording.calls)
    for i, norm in enumerate(recording.calls):
        source = norm.args[0] if norm.name in _NORMS else None
        if not isinstance(source, Value) or source not in makers or uses[source] != 1:
            continue
        layer = calls[makers[source]]
        assert layer is not None
        folded = _FOLDERS[layer.name](layer, norm)
        if folded is not None:
            calls[makers[source]], calls[i] = replace(folded, outputs=norm.outputs[:1]), None
    return Recording(recording.inputs, [call for call in calls if call is not None], recording.outputs)


def _values(call: Call) -> list[Value]:
    return [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Value)]


def _scale_and_shift(norm: Call) -> tuple[Tensor, Tensor] | None:
    """Return the norm as y = scale x + shift, each [C], in float64."""
    settings = norm.arguments()
    mean, variance = settings["running_mean"], settings["running_var"]
    if not isinstance(mean, Constant) or not isinstance(variance, Constant):
        return None
    scale = (variance.tensor.double() + settings["eps"]).rsqrt()
    if settings["weight"] is not None:
        scale = scale * settings["weight"].tensor.double()
    shift = -mean.tensor.double() * scale
    if settings["bias"] is not None:
        shift = shift + settings["bias"].tensor.double()
    return scale, shift


def _fold_convolution(layer: Call, norm: Call) -> Call | None:
    settings, affine = layer.arguments(), _scale_and_shift(norm)
    weight, bias = settings["weight"], settings["bias"]
    transposed = settings["transposed"]
    if affine is None or not isinstance(weight, Constant) or (transposed and settings["groups"] != 1):
        return None
    scale, shift = affine
    along = [1, -1] if transposed else [-1, 1]
    column = scale.view(*along, *[1] * (weight.tensor.dim() - 2))
    folded = weight.tensor.double() * column
    return _with(layer, weight=folded, bias=_folded_bias(bias, scale, shift), like=weight)


def _fold_linear(layer: Call, norm: Call) -> Call | None:
    settings, affine = layer.arguments(), _scale_and_shift(norm)
    weight, bias = settings["mat2"], settings["self"]
    plain = settings["alpha"] == 1 and settings["beta"] == 1 and len(norm.result().shape) == 2
    if affine is None or not plain or not isinstance(weight, Constant) or not isinstance(bias, Constant):
        return None
    scale, shift = affine
    folded = (weight.tensor.t().double() * scale[:, None]).t()  # stays the transposed view of a linear layer
    return _with(layer, mat2=folded, self=_folded_bias(bias, scale, shift), like=weight)


def _folded_bias(bias: Any, scale: Tensor, shift: Tensor) -> Tensor:
    return shift if bias is None else bias.tensor.double() * scale + shift


def _with(layer: Call, *, like: Constant, **tensors: Tensor) -> Call:
    """Return the call with some of its arguments replaced by constants of the type of `like`."""
    with torch.no_grad():
        changed = {name: Constant(tensor.to(like.tensor.dtype)) for name, tensor in tensors.items()}
    names = [argument.name for argument in layer.op._schema.arguments]
    args = tuple(changed.get(name, value) for name, value in zip(names, layer.args, strict=False))
    return replace(layer, args=args)


_FOLDERS = {"convolution": _fold_convolution, "addmm": _fold_linear}
