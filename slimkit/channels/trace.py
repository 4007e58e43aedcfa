"""One forward pass that carries channel names beside every tensor.

The pass runs under a dispatch mode, so that it sees the ATen operators that really run: control flow, reused
modules, functional calls and shared parameters need no care.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit.channels import rules, shortcuts
from slimkit.channels.build import build
from slimkit.channels.graph import Graph
from slimkit.channels.record import Record
from slimkit.channels.written import node_by_node
from slimkit.errors import TraceError

Example = Tensor | tuple[Any, ...] | dict[str, Any]


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Applies the rule of every operator to the labels of its inputs."""

    def __init__(self, record: Record, values: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = record
        self.values = values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):  # seen whole only in inference mode
            with self:
                return func.decompose(*args, **kwargs)
        self.record.read(args)
        if self.values:
            out = func(*args, **kwargs)
        elif shortcuts.needs_values(func, args):
            raise shortcuts.ValuesMatterError
        else:
            out = shortcuts.zeros(func, args)
            out = func(*args, **kwargs) if out is None else out
        rules.apply(self.record, func, args, kwargs, out)
        return out


@cache
def _is_composite(func: Any) -> bool:
    """Tell whether an operator without a rule of its own is made of others."""
    if func.overloadpacket in rules.RULES:
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def trace(model: nn.Module, example_input: Example) -> Graph:
    """Find which channels of a network live and die together.

    Args:
        model: any `nn.Module`; its mode, flags, hooks and buffers are left as found.
        example_input: what the model is called with: a tensor [N, C, H, W], a tuple of arguments, or a dict
            of keyword arguments. One image is enough.

    Returns:
        The graph: removable units in groups, and everything that must stay, with the reason.

    Raises:
        TraceError: the model raises on this input; the message has its own line and the module it came from.
    """
    try:
        return _trace(model, example_input, values=False)
    except shortcuts.ValuesMatterError:
        return _trace(model, example_input, values=True)


def _trace(model: nn.Module, example_input: Example, values: bool) -> Graph:
    record = Record(model, batch=batch_size(example_input))
    modes = [(module, module.training) for module in record.modules.values()]
    buffers = [t for t in record.tensors.values() if not isinstance(t, nn.Parameter) and not t.is_inference()]
    state = [(buffer, buffer._version, buffer.clone()) for buffer in buffers]
    try:
        with torch.random.fork_rng(devices=[]):
            if any(training for _, training in modes):
                model.eval()
            _forward(model, example_input, record, values)
            if record.uncalled():  # branches that run only in training: auxiliary heads
                for module in record.start_training_pass():
                    module.training = True
                with suppress(TraceError):  # it may want targets
                    _forward(model, example_input, record, values)
        return build(record)
    finally:
        record.clear()
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, version, before in state:
                if buffer._version != version:
                    buffer.copy_(before)


def _forward(model: nn.Module, example_input: Example, record: Record, values: bool) -> None:
    with torch.inference_mode(False), torch.no_grad(), _running(record), _Tracer(record, values):
        try:
            out = call(model.module if isinstance(model, nn.DataParallel) else model, example_input)
        except Exception as error:
            line = str(error).strip().splitlines()
            raise TraceError(
                f"the network cannot run on its example input {describe(example_input)}: "
                f"in {record.place_of(error)!r}, "
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
        labels = record.labels(tensor)
        for label in labels.axes if labels else ():
            record.names.freeze(label, "", "reaches the output of the network")


@contextmanager
def _running(record: Record) -> Iterator[None]:
    """Tell the record which module runs, and which node of an fx network."""

    def enter(module: nn.Module, args: Any) -> None:
        record.enter(module)

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        record.leave(module)

    handles = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    try:
        with node_by_node(list(record.modules.values()), record.at_node):
            yield
    finally:
        for handle in handles:
            handle.remove()


def call(model: Callable[..., Any], example_input: Example) -> Any:
    """Call a model with an example input: one tensor, a tuple of arguments or a dict of keyword arguments."""
    if isinstance(example_input, Tensor):
        return model(example_input)
    if isinstance(example_input, Mapping):
        return model(**example_input)
    return model(*example_input)


def tensors(tree: Any, depth: int = 9) -> list[Tensor]:
    """Return all tensors in a nest of tuples, lists, dicts and objects (as dataclasses are), in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    elif not isinstance(tree, (tuple, list)):
        tree = [] if callable(tree) else list(getattr(tree, "__dict__", {}).values())
    return [tensor for item in tree for tensor in tensors(item, depth - 1)] if depth else []


def describe(example_input: Example) -> str:
    """Return the shapes of an example input for a message."""
    return " and ".join(str(list(tensor.shape)) for tensor in tensors(example_input)) or "(no tensor)"


def batch_size(example_input: Example) -> int:
    """Return the number of images in an example input."""
    found = tensors(example_input)
    if not found or found[0].dim() == 0:
        raise TraceError(
            f"example input is {type(example_input).__name__} without a tensor: nothing to trace.\n"
            "  Give a tensor [N, C, H, W], a tuple of arguments, or a dict of keyword arguments."
        )
    return int(found[0].shape[0])


__all__ = ["Example", "call", "describe", "tensors", "trace"]
