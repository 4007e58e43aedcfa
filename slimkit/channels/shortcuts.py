"""Convolutions and linear layers without their arithmetic: a tracing pass needs shapes, not values.

They give zeros of the right shape. Where values could matter after all, because an operator turns some into a
number, a shape or a choice, the pass starts again with the arithmetic.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


class ValuesMatterError(BaseException):
    """What runs next depends on values; no `except Exception` of the network's own may catch it."""


def zeros(func: Any, args: tuple[Any, ...]) -> Tensor | None:
    """Return zeros in place of the result of a convolution or linear layer; None where it has to run.

    It runs where its arguments do not fit, so that the error is torch's own.
    """
    packet = func.overloadpacket
    if packet is aten.convolution:
        return _convolution(*args)
    if packet is aten.mm:
        return _product(None, *args)
    return _product(*args) if packet is aten.addmm else None


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor | None:
    inputs = weight.shape[0] if transposed else weight.shape[1] * groups
    fits = x.dim() == weight.dim() and x.shape[1] == inputs and weight.shape[0] % groups == 0
    if not fits or not _alike(x, weight, bias):
        return None
    shape = [x.shape[0], weight.shape[1] * groups if transposed else weight.shape[0]]
    for dim in range(x.dim() - 2):
        step, pad, apart, extra = (_of(dim, given) for given in (stride, padding, dilation, output_padding))
        extent = apart * (weight.shape[dim + 2] - 1)
        size = x.shape[dim + 2]
        if transposed:
            shape.append((size - 1) * step - 2 * pad + extent + extra + 1)
        else:
            shape.append((size + 2 * pad - extent - 1) // step + 1)
    if min(shape) <= 0 or (bias is not None and bias.shape != (shape[1],)):
        return None
    out = x.new_zeros(shape)
    last = x.dim() == 4 and any(t.is_contiguous(memory_format=torch.channels_last) for t in (x, weight))
    if last and not (x.is_contiguous() and weight.is_contiguous()):
        out = out.contiguous(memory_format=torch.channels_last)
    return out


def _of(dim: int, given: list[int]) -> int:
    """Return the number of a dimension; one may stand for all, of each list by itself (`padding="valid"`)."""
    return given[0] if len(given) == 1 else given[dim]


def _product(bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor | None:
    if a.shape[1] != b.shape[0] or not _alike(a, b, bias):
        return None
    if bias is not None and bias.shape not in ((b.shape[1],), (1,), (a.shape[0], b.shape[1])):
        return None
    return a.new_zeros(a.shape[0], b.shape[1])


def _alike(a: Tensor, b: Tensor, bias: Tensor | None) -> bool:
    return all(t.dtype == a.dtype and t.device == a.device for t in (b, bias) if t is not None)


def needs_values(func: Any, args: tuple[Any, ...]) -> bool:
    """Tell whether an operator makes a number, a shape or a choice of values; operators of others may."""
    if func.overloadpacket is aten.index:
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return _is_data_dependent(func)


@cache
def _is_data_dependent(func: Any) -> bool:
    tags = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    return func.namespace not in ("aten", "prims") or any(tag in func.tags for tag in tags)
