"""Run a network and leave it as it was: copies to look at, evaluation mode for a while, the module that is running."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.swa_utils import AveragedModel

from slimkit.closures import Closures, has_state
from slimkit.errors import ArchitectureError

_ATOMS = {int, float, bool, str, type(None), torch.dtype, torch.Size}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside `torch.compile`, `DataParallel`, `DistributedDataParallel` and `AveragedModel`.

    Raises:
        ArchitectureError: it is no module.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ArchitectureError(f"model is {kind}, not a torch.nn.Module.\n  Give the network itself")
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name, without whatever else modules keep there (`get_extra_state`)."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; one that several modules share by each of its names."""
    named = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {name: tensor for pairs in named for name, tensor in pairs}


def keeps_more(model: nn.Module) -> bool:
    """Tell whether a module keeps something in its state dict that is neither parameter nor buffer."""
    return any(type(module).get_extra_state is not nn.Module.get_extra_state for module in model.modules())


def private(model: nn.Module) -> nn.Module:
    """Return a copy to look at, in evaluation mode: what it does to itself while it runs, the original never sees.

    Attributes and buffers are its own; parameters, which nothing writes without gradients, are the same tensors.
    """
    twin = copied(model, {id(parameter): parameter for parameter in model.parameters()})
    return twin.eval()


def copied(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return what `copy.deepcopy` does, in a fifth of its time, and for more networks.

    A tensor that was computed, and kept, loses its history; what nobody can copy (a lock, an open file) is shared.
    Functions that hold the network, as hooks do that write to `self`, hold the copy in the copy.

    Args:
        memo: id of an object -> what stands for it in the copy.
    """
    memo = {} if memo is None else memo
    closures = Closures(module)
    closures.rebind(memo)
    twin = _copied(module, memo)
    closures.fill(lambda value: _copied_value(value, memo))
    return twin


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        found: nn.Module = memo[id(module)]
        return found
    kind: Any = type(module)
    if not _is_plain(kind):
        made: nn.Module = copy.deepcopy(module, memo)
        for name, value in vars(module).items():  # a graph of fx leaves behind what is noted with it
            if name.startswith("_slimkit"):
                vars(made).setdefault(name, value)
        return made
    twin: nn.Module = kind.__new__(kind)
    memo[id(module)] = twin
    state = vars(twin)
    for name, value in vars(module).items():
        if name == "_compiled_call_impl":
            continue
        if name == "_modules":
            state[name] = type(value)((n, None if c is None else _copied(c, memo)) for n, c in value.items())
        elif name in ("_parameters", "_buffers"):
            state[name] = type(value)((n, _copied_value(t, memo)) for n, t in value.items())
        elif type(value) in _ATOMS or (type(value) is tuple and all(type(v) in _ATOMS for v in value)):
            state[name] = value
        elif type(value) in (dict, OrderedDict, set) and not value:
            state[name] = memo.setdefault(id(value), type(value)())
        else:
            state[name] = _copied_value(value, memo)
    return twin


def _copied_value(value: Any, memo: dict[int, Any]) -> Any:
    if id(value) in memo:
        return memo[id(value)]
    known = len(memo)
    try:
        for tensor in _computed(value, set()):
            memo.setdefault(id(tensor), tensor.detach().clone())
        return copy.deepcopy(value, memo)
    except (MemoryError, torch.OutOfMemoryError):  # else the copy would share it
        raise
    except Exception:
        for half in list(memo)[known:]:  # begun, and never finished
            del memo[half]
        return value


def _computed(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Give the tensors in a nest, also of objects, that hold a history of gradients, which torch refuses to copy."""
    if isinstance(value, Tensor):
        if not value.is_leaf:
            yield value
        return
    if type(value) in _ATOMS or isinstance(value, (type, ModuleType, nn.Module)) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (list, tuple, set)):
        inside: Iterable[Any] = value
    elif isinstance(value, dict):
        inside = tuple(value.values())
    else:
        owner = getattr(value, "__self__", value)  # of a bound method
        inside = tuple(vars(owner).values()) if has_state(owner) and not isinstance(owner, nn.Module) else ()
    for item in inside:
        yield from _computed(item, seen)


@cache
def _is_plain(kind: Any) -> bool:
    """Tell whether a class leaves copying to torch, whose own `__setstate__` only mend old files.

    torch.compile puts another one in their place, for the rest of the process, that counts copies.
    """
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__getstate__ in (object.__getstate__, getattr(nn.Module, "__getstate__", None))
        and kind.__setstate__.__module__.startswith(("torch.nn.modules.", "torch._dynamo."))
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put a network in evaluation mode, and every module back to the mode it had, also after an exception."""
    with modes_kept(model.modules()):
        model.eval()
        yield model


@contextmanager
def modes_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put every module back to the mode, training or evaluation, that it has now."""
    modes = [(module, module.training) for module in modules]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def module_paths(model: nn.Module) -> Iterator[list[str]]:
    """Give a list whose last entry is the path of the module that is running, "" for the network itself.

    The hooks are global ones, so that those of the modules stay as they are; they are gone afterwards.
    """
    names = {module: name for name, module in model.named_modules()}
    running: list[str] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        running.append(names.get(module, running[-1] if running else ""))

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        running.pop()

    handles = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def heard(
    modules: Iterable[nn.Module],
    note: Callable[[nn.Module, Tensor, Any], None],
    before: bool = False,
    alone: bool = False,
) -> Iterator[None]:
    """Tell of each call of some modules, for a while.

    Args:
        note: is told the module, the first tensor that it is called with, by place or by name, and what it gave.
        before: tell it before the module runs, which may change what it is called with; it has given None by then.
        alone: leave calls out with anything beside that tensor.
    """

    def hook(module: nn.Module, args: Any, kwargs: Any, out: Any = None) -> None:
        values = (*args, *kwargs.values())
        given = next((value for value in values if isinstance(value, Tensor)), None)
        if given is not None and not (alone and len(values) > 1):
            note(module, given, out)

    handles = [
        module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
        if before
        else module.register_forward_hook(hook, with_kwargs=True)
        for module in modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def raised_in(model: nn.Module, error: BaseException) -> str:
    """Return the path of the innermost module in whose code an exception was raised; "" for the network itself."""
    paths = {id(module): name for name, module in model.named_modules()}
    path, frame = "", error.__traceback__
    while frame is not None:
        path = paths.get(id(frame.tb_frame.f_locals.get("self")), path)
        frame = frame.tb_next
    return path


@contextmanager
def unlogged(level: int) -> Iterator[None]:
    """Keep back what is logged up to a level, whoever logs it."""
    disabled = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextmanager
def unwarned() -> Iterator[None]:
    """Keep the warnings of other people's code from the user's terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what an exporter prints, warns of, and logs up to errors."""
    with unlogged(logging.ERROR), unwarned(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
