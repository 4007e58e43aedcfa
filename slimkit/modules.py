"""Run a network and leave it as it was: evaluation mode for a while, the module that is running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put a network in evaluation mode, and every module back to the mode it had, also after an exception."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
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
