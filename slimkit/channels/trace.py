"""One forward pass that carries channel names beside every tensor.

The pass runs under a dispatch mode, so that it sees the ATen operators that really run: control flow, reused
modules, functional calls and shared parameters need no care.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit.channels import operators, shortcuts
from slimkit.channels.assemble import assemble
from slimkit.channels.graph import Graph
from slimkit.channels.observed import Observed
from slimkit.channels.position import Position
from slimkit.channels.written import node_by_node
from slimkit.errors import TraceError
from slimkit.example import Example, batch_size, call, describe, tensors
from slimkit.modules import private, unwrapped


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Applies the rule of every operator to the labels of its inputs.

    `fault` is what a rule raised: our own mistake, which must not be taken for the network's.
    """

    def __init__(self, seen: Observed, values: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen
        self.values = values
        self.fault: Exception | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):  # seen whole only in inference mode
            with self:
                return func.decompose(*args, **kwargs)
        self.seen.before(args)
        if self.values:
            out = func(*args, **kwargs)
        elif shortcuts.needs_values(func, args):
            raise shortcuts.ValuesMatterError
        else:
            out = shortcuts.zeros(func, args)
            out = func(*args, **kwargs) if out is None else out
        try:
            operators.apply(self.seen, func, args, kwargs, out)
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


def trace(model: nn.Module, example_input: Example) -> Graph:
    """Find which channels of a network live and die together.

    Args:
        model: any `nn.Module`, untouched: the pass runs on a copy. `torch.compile` and `DataParallel` are looked
            through.
        example_input: what the model is called with: a tensor [N, ...] (an image is [N, C, H, W]), a tuple of
            arguments, or a dict of keyword arguments. One image is enough.

    Returns:
        The graph: removable units in groups, and everything that must stay, with the reason.

    Raises:
        TraceError: the model raises on this input (the message has its own line and the module it came from), gives
            no tensor, or is a compiled TorchScript.
    """
    scripted = [path for path, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        raise TraceError(
            f"model is TorchScript ({scripted[0] or type(model).__name__!r}): its code was compiled for its widths, "
            "which cannot follow.\n"
            "  Give the nn.Module that it was scripted or traced from."
        )
    try:
        return _trace(private(model), example_input, values=False)
    except shortcuts.ValuesMatterError:
        return _trace(private(model), example_input, values=True)


def _trace(model: nn.Module, example_input: Example, values: bool) -> Graph:
    """Trace a network that may be changed."""
    seen = Observed(model, batch=batch_size(example_input))
    try:
        with torch.random.fork_rng(devices=[]):
            _forward(model, example_input, seen, values)
            if seen.uncalled():  # branches that run only in training: auxiliary heads
                for module in seen.start_training_pass():
                    module.training = True
                with suppress(TraceError):  # it may want targets
                    _forward(model, example_input, seen, values)
        return assemble(seen)
    finally:
        seen.clear()


def _forward(model: nn.Module, example_input: Example, seen: Observed, values: bool) -> None:
    tracer = _Tracer(seen, values)
    with torch.inference_mode(False), torch.no_grad(), _running(seen.at), tracer:
        try:
            out = call(unwrapped(model), example_input)
        except Exception as error:
            if tracer.fault is not None:
                raise tracer.fault from None
            line = str(error).strip().splitlines()
            raise TraceError(
                f"the network cannot run on its example input {describe(example_input)}: "
                f"in {seen.at.name_at(error)!r}, "
                f"{type(error).__name__}: {line[0] if line else '(no message)'}\n"
                "  Give an input of the shape that it expects, or mend the module named above."
            ) from error
    outputs = tensors(out)
    if not outputs:
        raise TraceError(
            f"the network gives {type(out).__name__} without a tensor: there is nothing to compare.\n"
            "  Give a network whose output is a tensor, or a nest of lists, dicts and objects that hold some."
        )
    for tensor in outputs:
        for label in seen.axes(tensor)[0]:
            seen.names.freeze_output(label)


@contextmanager
def _running(at: Position) -> Iterator[None]:
    """Tell where the pass is: which module runs, and which node of an fx network."""

    def enter(module: nn.Module, args: Any) -> None:
        at.enter(module)

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        at.leave(module)

    handles = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    try:
        with node_by_node(list(at.modules.values()), at.at_node):
            yield
    finally:
        for handle in handles:
            handle.remove()
