"""Is a copy of a network the network? All that is proven is proven of copies."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from slimkit.closures import Closures
from slimkit.errors import TraceError
from slimkit.example import Example, call, drawn_like, tensors
from slimkit.hardware import seeded
from slimkit.modules import evaluating, private, unwrapped
from slimkit.surgery.difference import relative_error
from slimkit.surgery.trials import placed

_SAME = 1e-3  # above it is another input's feature, below it rounding
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def check_copies(model: nn.Module, example: Example) -> None:
    """Refuse a network of whose code copies share a state with it, as a hook does that writes into a global network.

    A copy would compute from what the original has seen last, whatever its own input is. Only a network that holds
    functions can be so, in hooks or attributes: of others nothing is run.

    Args:
        model: called here, and left as it was.
        example: what it is called with.

    Raises:
        TraceError: copies compute something else than the network.
    """
    model = unwrapped(model)
    if not _functions(model):
        return
    copied = unwrapped(private(model))
    generator = torch.Generator().manual_seed(0)
    examples = [example, drawn_like(example, generator)]
    with torch.no_grad(), _as_it_was(model), evaluating(model):
        for given in examples:
            wanted = _returned(model, given)
            if isinstance(wanted, Exception):
                return  # tracing will tell
            found = _returned(copied, given)
            if isinstance(found, Exception) or not _alike(wanted, found):
                raise TraceError(_told(model, found))


def _returned(model: nn.Module, example: Example) -> list[Tensor] | Exception:
    try:
        with seeded(0):
            return [tensor.clone() for tensor in tensors(call(model, placed(example, model)))]
    except Exception as error:  # of a network's own code, which may raise any
        return error


def _alike(wanted: list[Tensor], found: list[Tensor]) -> bool:
    numbers = [[t.nan_to_num() for t in some] for some in (wanted, found)]
    return not wanted or relative_error(*numbers) <= _SAME


def _functions(model: nn.Module) -> list[str]:
    """Say which functions a network holds that know something: its hooks, and what it keeps in attributes."""
    hooks = [
        f"the hook {getattr(hook, '__qualname__', type(hook).__name__)!r} of {path or type(model).__name__!r}"
        for path, module in model.named_modules()
        for place in _HOOKS
        for hook in getattr(module, place).values()
    ]
    held = [f"the function {function.__qualname__!r}" for function in Closures(model).functions.values()]
    return hooks or held


def _told(model: nn.Module, found: object) -> str:
    named = _functions(model)
    more = f", and {len(named) - 1} more" if len(named) > 1 else ""
    does = f"raises {type(found).__name__} ({found})" if isinstance(found, Exception) else "computes something else"
    return (
        f"{type(model).__name__}: a copy of it {does}, so nothing could be proven of a smaller one. It holds functions "
        f"({named[0]}{more}) by which copies share with it what they note.\n"
        "  Let a hook keep what it notes with the module that it is given (`module.kept = output`) or close over "
        "`self`, or call the layers one by one in `forward`"
    )


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back what a network keeps while it runs: attributes, what is in their tables and lists, and buffers."""
    modules = [(vars(module), dict(vars(module))) for module in model.modules()]
    tables = [(one, one.copy()) for _, state in modules for one in state.values() if isinstance(one, dict | list | set)]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for state, before in modules:
            state.clear()
            state.update(before)
        for table, kept in tables:
            if isinstance(table, list):
                table[:] = kept
            else:
                table.clear()
                table.update(kept)
        for buffer, value in buffers:
            buffer.copy_(value)
