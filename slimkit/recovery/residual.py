"""What the outputs of weights are added to: an error that is there already can be made up for by what is added.

    found = shortcuts(model, example)      # {3: Shortcut(...), 6: ...}, of calls of weights, counted from 0

He et al. 2017 (arXiv:1707.06168) fit the branch of a residual block to the sum less what the shortcut gives by then,
so that errors of a stream do not add up from block to block. Here whatever runs last of what is added does it.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from slimkit.example import Example, call
from slimkit.recovery.readers import parameters, reader

aten = torch.ops.aten
_LEAST = 0.02  # of a BatchNorm's largest scale: what is to pass through less of it would have to be huge


@dataclass(frozen=True)
class Shortcut:
    """What the output of a call of a weight is added to, after a BatchNorm or not.

    Attributes:
        made_by: number of the operator whose result it is, counted from 0; it runs before the call.
        inverse: [C], what an error of the sum is at the output of the call, channel by channel; 0 where it cannot be
            made up for. None: the same.
    """

    made_by: int
    inverse: Tensor | None


def result(out: Any) -> Any:
    """Return what an operator makes: of several tensors the first."""
    return out[0] if isinstance(out, tuple) and out else out


@torch.no_grad()
def shortcuts(model: nn.Module, example: Example) -> dict[int, Shortcut]:
    """Return, for calls of weights that read something, what their output is added to; by the number of the call.

    Args:
        model: in evaluation mode.
        example: its input.
    """
    watch = _Watch(model)
    with watch:
        call(model, example)
    return watch.found


@dataclass(frozen=True)
class _Made:
    """A tensor that is a weight's output, through a BatchNorm or not."""

    call: int
    operator: int  # that the call is
    inverse: Tensor | None = None


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = parameters(model)
        self.operators = self.calls = 0
        # Of tensors that are alive: all maps of a chunk of inputs would take gigabytes.
        self.made_by: MutableMapping[Tensor, int] = WeakIdKeyDictionary()
        self.made: MutableMapping[Tensor, _Made] = WeakIdKeyDictionary()
        self.found: dict[int, Shortcut] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = self._made(func, args)
        if func.overloadpacket in (aten.add, aten.add_) and not kwargs and len(args) == 2:
            self._add(*args)
            self._add(*reversed(args))
        out = func(*args, **(kwargs or {}))
        tensor = result(out)
        if isinstance(tensor, Tensor):
            self.made_by[tensor] = self.operators
            self.made.pop(tensor, None)
            if made is not None:
                self.made[tensor] = made
        self.operators += 1
        return out

    def _made(self, func: Any, args: tuple[Any, ...]) -> _Made | None:
        if reader(func, args, self.names) is not None:
            self.calls += 1
            return _Made(self.calls - 1, self.operators)
        before = self.made.get(args[0]) if args and isinstance(args[0], Tensor) else None
        if before is None or before.inverse is not None or "batch_norm" not in func.overloadpacket.__name__:
            return None
        weight, variance, eps = args[1], args[4], args[-1]
        if variance is None:  # of the batch itself
            return None
        scale = (variance + eps).rsqrt() * (1.0 if weight is None else weight)
        passes = scale.abs() > _LEAST * scale.abs().max()
        return _Made(before.call, before.operator, torch.where(passes, 1 / scale, 0.0))

    def _add(self, own: Any, other: Any) -> None:
        if not (isinstance(own, Tensor) and isinstance(other, Tensor)):
            return
        made, made_by = self.made.get(own), self.made_by.get(other)
        if made is not None and made_by is not None and made_by < made.operator and own.shape == other.shape:
            self.found[made.call] = Shortcut(made_by, made.inverse)
