"""Search in few bits: layers on fake-quantised numbers, after SWALP, Yang et al. 2019, arXiv:1904.11943.

Emulated: weights, activations and gradients are rounded to 8 bits and multiplied in float, so it shows what
the masks would be, not what it would cost.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LEVELS = 127  # of a signed 8-bit number
_QUANTISED = {F.conv1d, F.conv2d, F.conv3d, F.linear, torch.conv1d, torch.conv2d, torch.conv3d}


def rounded(x: Tensor, stochastic: bool = False) -> Tensor:
    """Return a tensor rounded to 255 levels between minus and plus its largest magnitude.

    Stochastic rounding goes up with the probability of the fraction, so that the mean is right.
    """
    scale = x.detach().abs().amax() / LEVELS
    if not bool(scale > 0):
        return x
    levels = x / scale
    levels = (levels + torch.rand_like(levels)).floor() if stochastic else levels.round()
    return levels.clamp(-LEVELS, LEVELS) * scale


class _Forward(torch.autograd.Function):
    """Rounds what goes forward; the gradient passes as if it hadn't."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return rounded(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Backward(torch.autograd.Function):
    """Passes what goes forward; rounds the gradient, stochastically."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return rounded(grads[0], stochastic=True)


class Int8Emulated(TorchFunctionMode):
    """Within it every convolution and linear layer works on fake-quantised numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = {**dict(zip(("input", "weight"), args, strict=False)), **kwargs}
        if func in _QUANTISED and {"input", "weight"} <= given.keys():
            x, weight = _Forward.apply(given.pop("input")), _Forward.apply(given.pop("weight"))
            return _Backward.apply(func(x, weight, *args[2:], **given))
        return func(*args, **kwargs)


class _Around:
    """Two hooks around a network's forward pass in training: one enters a context, one leaves it."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.entered: list[AbstractContextManager[Any]] = []

    def enter(self, module: nn.Module, inputs: Any) -> None:
        if module.training:
            self.entered.append(arithmetic(self.precision, next(module.parameters()).device.type))
            self.entered[-1].__enter__()

    def leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if self.entered:
            self.entered.pop().__exit__(None, None, None)


def arithmetic(precision: str, device: str) -> AbstractContextManager[Any]:
    """Let layers compute in `fp32`, `bf16` or `int8-emulated` on a kind of device."""
    if precision == "int8-emulated":
        return Int8Emulated()
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def lower_(model: nn.Module, precision: str) -> None:
    """Let a network's forward passes in training run in `fp32`, `bf16` or `int8-emulated`, until `restore_`."""
    around = _Around(precision)
    model.register_forward_pre_hook(around.enter)
    model.register_forward_hook(around.leave, always_call=True)


def restore_(model: nn.Module) -> None:
    """Undo `lower_`, also on a copy."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), _Around):
                del hooks[key]
                model._forward_hooks_always_called.pop(key, None)
