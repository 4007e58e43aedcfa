"""Where a traced forward pass is: which module runs, and which node of an fx network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from slimkit.modules import raised_in


class Position:
    """The modules that are running, innermost last.

    Attributes:
        modules: path -> module of the network.
        paths: id of a module -> its path.
        called: ids of all modules that have run.
        node: the node that runs, of an fx network; else None.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.paths: dict[int, str] = {id(module): path for path, module in self.modules.items()}
        self.called: set[int] = set()
        self.node: fx.Node | None = None
        self._stack: list[tuple[nn.Module, tuple[Tensor, ...]]] = [(model, ())]

    def enter(self, module: nn.Module, args: Sequence[Any] = ()) -> None:
        self._stack.append((module, tuple(arg for arg in args if isinstance(arg, Tensor))))
        self.called.add(id(module))

    def leave(self, module: nn.Module) -> None:
        if len(self._stack) > 1 and self._stack[-1][0] is module:
            self._stack.pop()

    def back(self) -> None:
        """Return to the network itself, after a pass that may have been broken off."""
        del self._stack[1:]

    def at_node(self, node: fx.Node | None) -> None:
        self.node = node

    @property
    def module(self) -> nn.Module:
        """The module that is running."""
        return self._stack[-1][0]

    @property
    def given(self) -> tuple[Tensor, ...]:
        """The tensors that the running module was called with, one by one."""
        return self._stack[-1][1]

    @property
    def path(self) -> str:
        """The path of the module that is running; "" for the network itself."""
        for module, _ in reversed(self._stack):
            path = self.paths.get(id(module))
            if path is not None:
                return path
        return ""

    @property
    def name(self) -> str:
        """The path of the module that is running, the class of the network where it is that."""
        return self.path or type(self._stack[0][0]).__name__

    def name_at(self, error: BaseException) -> str:
        """Return the path of the innermost module in whose code an exception was raised."""
        model = self._stack[0][0]
        return raised_in(model, error) or type(model).__name__
