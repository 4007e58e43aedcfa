"""A forward pass that carries channel names beside every tensor, operator by operator.

It runs under a dispatch mode, so that it sees the ATen operators that really run: control flow, reused modules,
functional calls and shared parameters need no care.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit.channels import operators
from slimkit.channels.observed import Observed
from slimkit.channels.position import Position
from slimkit.channels.written import node_by_node
from slimkit.multiply_adds import multiply_adds

RunOperator = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]  # operator and arguments -> what it gives


class Walk(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Applies the rule of every operator to the labels of its inputs.

    `fault` is what a rule raised: our own mistake, which must not be taken for the network's. Without `rules` it
    counts multiply-adds, and no more.
    """

    def __init__(self, seen: Observed, run: RunOperator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen
        self.run = run
        self.rules = True
        self.fault: Exception | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):  # seen whole only in inference mode
            with self:
                return func.decompose(*args, **kwargs)
        self.seen.before(args)
        out = self.run(func, args, kwargs)
        noted = len(self.seen.works)
        try:
            if self.rules:
                operators.apply(self.seen, func, args, kwargs, out)
            self.seen.account(noted, multiply_adds(func.overloadpacket, args, kwargs, out))
        except Exception as error:
            self.fault = error
            raise
        return out


@cache
def _is_composite(func: Any) -> bool:
    """Tell whether an operator without a rule of its own is made of others."""
    if func.overloadpacket in operators.OPERATORS:
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


@contextmanager
def walking(seen: Observed, run: RunOperator, width: Callable[[Tensor], int] = lambda x: x.shape[-1]) -> Iterator[Walk]:
    """Carry names through what a network computes, for a while, without gradients.

    Args:
        seen: the labels of the network.
        run: gives the result of an operator; it need not run it.
        width: how many channels of queries count, by the root of which attention is divided.
    """
    walk = Walk(seen, run)
    with torch.inference_mode(False), torch.no_grad(), _located(seen.at), operators.Scaled(seen, width), walk:
        yield walk


@contextmanager
def _located(at: Position) -> Iterator[None]:
    """Tell where the pass is: which module runs, and which node of an fx network."""

    def enter(module: Any, args: Any) -> None:
        at.enter(module, args)

    def leave(module: Any, args: Any, out: Any) -> None:
        at.leave(module)

    handles = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    try:
        with node_by_node(list(at.modules.values()), at.at_node):
            yield
    finally:
        for handle in handles:
            handle.remove()
