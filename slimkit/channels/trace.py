"""One forward pass that carries channel names beside every tensor.

Values do not matter where only names are wanted, so most arithmetic is left out (`shortcuts`).
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from slimkit import out_of_memory
from slimkit.channels import shortcuts
from slimkit.channels.assemble import assemble
from slimkit.channels.graph import Graph
from slimkit.channels.observed import Observed
from slimkit.channels.walk import walking
from slimkit.dtypes import advice
from slimkit.errors import TraceError
from slimkit.example import Example, batch_size, call, describe, of_batch, tensors
from slimkit.modules import private, unwrapped


def trace(model: nn.Module, example_input: Example, sized: frozenset[type[nn.Module]] = frozenset()) -> Graph:
    """Find which channels live and die together, by one pass; arguments and errors are `surgery.traced.trace`'s.

    Modules of the classes `sized` are known to take counts from the shape of their input, which are tied to it.
    """
    if not isinstance(model, nn.Module):
        raise TraceError(
            f"model is {model.__name__ if isinstance(model, type) else type(model).__name__}, not a network.\n"
            "  Give a torch.nn.Module, made and loaded"
        )
    scripted = [path for path, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        raise TraceError(
            f"model is TorchScript ({scripted[0] or type(model).__name__!r}): its code was compiled for its widths, "
            "which cannot follow.\n"
            "  Give the nn.Module that it was scripted or traced from."
        )
    try:
        return _trace(model, example_input, sized, values=False)
    except shortcuts.ValuesMatterError:
        return _trace(model, example_input, sized, values=True)


def _trace(network: nn.Module, example_input: Example, sized: frozenset[type[nn.Module]], values: bool) -> Graph:
    """Trace a copy of a network."""
    model = private(unwrapped(network))
    seen = Observed(model, batch_size(example_input), sized)
    try:
        with torch.random.fork_rng(devices=[]):
            _forward(model, example_input, seen, values)
            if seen.batch > 1 and seen.ran:
                _share(seen, private(unwrapped(network)), of_batch(example_input, 1), values)
            if seen.uncalled():  # branches that run only in training: auxiliary heads
                for module in seen.start_training_pass():
                    module.training = True
                with suppress(TraceError):  # it may want targets
                    _forward(model, example_input, seen, values)
        return replace(assemble(seen), unseen=tuple(seen.uncalled()))
    finally:
        seen.clear()


def _share(seen: Observed, model: nn.Module, one: Example, values: bool) -> None:
    """Mend the multiply-adds of one image by what a network, which may be changed, computes of one."""
    single = Observed(model, 1)
    try:
        with suppress(Exception, shortcuts.ValuesMatterError):  # it may not run on one
            _forward(model, one, single, values, rules=False)
            seen.share(single)
    finally:
        single.clear()


def _forward(model: nn.Module, example_input: Example, seen: Observed, values: bool, rules: bool = True) -> None:
    with walking(seen, _run if values else _without_arithmetic) as walk:
        walk.rules = rules
        try:
            out = call(model, example_input)
        except Exception as error:
            if walk.fault is not None:
                raise walk.fault from None
            out_of_memory.pass_on(error)
            line = str(error).strip().splitlines()
            raise TraceError(
                f"the network cannot run on its example input {describe(example_input)}: "
                f"in {seen.at.name_at(error)!r}, "
                f"{type(error).__name__}: {line[0] if line else '(no message)'}\n"
                f"  {advice(error, 'Give an input of the shape that it expects, or mend the module named above')}"
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


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _without_arithmetic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if shortcuts.needs_values(func, args):
        raise shortcuts.ValuesMatterError
    out = shortcuts.zeros(func, args)
    return func(*args, **kwargs) if out is None else out
