"""Functions that a network holds and that hold it in turn: hooks and lambdas that close over `self`.

`copy.deepcopy` shares functions. A copy's hook that writes `self.features` would write into the original, and the copy
compute from what the original has seen last.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

_DEPTH = 6  # of containers and objects in each other
_NESTS = (list, tuple, set, frozenset, deque)
_TABLES = (dict, OrderedDict, defaultdict)
_CLOSED = (Tensor, nn.Module, type, ModuleType, str, bytes, int, float, complex, type(None))  # not looked into
_HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks"))
_MODULE = frozenset(vars(nn.Module())) - _HOOKS  # what torch keeps of every module: no functions, but for hooks


class Closures:
    """The functions of a network that hold it, or something that a copy has its own of.

    Attributes:
        functions: all that it holds in hooks and attributes and that close over anything, or have defaults.
    """

    def __init__(self, model: nn.Module) -> None:
        self.functions: dict[int, FunctionType] = {}
        self._own: set[int] = set()
        self._seen: set[int] = set()
        self._cells: dict[int, tuple[CellType, CellType]] = {}
        self._made: list[tuple[FunctionType, FunctionType]] = []
        for module in model.modules():
            self._own.add(id(module))
            for name, value in vars(module).items():
                if name not in _MODULE and (name not in _HOOKS or value):
                    self._look(value, _DEPTH, own=True)

    def rebind(self, memo: dict[int, Any]) -> None:
        """Put functions that are to hold the copy into the memo of a deep copy, still without what they hold."""
        for function in self.functions.values():
            if not self._reaches(function, _DEPTH):
                continue
            cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
            made = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)
            made.__qualname__, made.__module__, made.__doc__ = (
                function.__qualname__, function.__module__, function.__doc__,
            )  # fmt: skip
            made.__dict__.update(function.__dict__)
            memo[id(function)] = made
            self._made.append((function, made))

    def fill(self, copy: Callable[[Any], Any]) -> None:
        """Give the new functions what they hold, of the copy; `copy`: a value -> that of the copy."""

        def of_copy(value: Any) -> Any:
            return copy(value) if self._reaches(value, _DEPTH) else value

        for old, new in self._cells.values():
            new.cell_contents = copy(old.cell_contents)
        for function, made in self._made:
            made.__defaults__ = function.__defaults__ and tuple(map(of_copy, function.__defaults__))
            made.__kwdefaults__ = {name: of_copy(value) for name, value in (function.__kwdefaults__ or {}).items()}

    def _cell(self, cell: CellType) -> CellType:
        """Return the cell of a copy; one that holds nothing of the network stays shared, as by several functions."""
        if id(cell) in self._cells:
            return self._cells[id(cell)][1]
        if not any(self._reaches(value, _DEPTH) for value in _content(cell)):
            return cell
        self._cells[id(cell)] = cell, CellType()
        return self._cells[id(cell)][1]

    def _look(self, value: Any, depth: int, own: bool) -> None:
        """Note functions, and which containers and objects a copy has its own of: those not held by functions alone."""
        if isinstance(value, _CLOSED) or not depth or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, FunctionType):
            if value.__closure__ or value.__defaults__ or value.__kwdefaults__:
                self.functions[id(value)] = value
            own = False
        elif own and not isinstance(value, (tuple, frozenset, MethodType)):
            self._own.add(id(value))
        for part in _parts(value) if isinstance(value, _LOOKED) else vars(value).values() if has_state(value) else ():
            self._look(part, depth - 1, own)

    def _reaches(self, value: Any, depth: int) -> bool:
        """Tell whether a value is, or holds, something that a copy has its own of; strange objects are not searched."""
        if id(value) in self._own:
            return True
        if not depth or not isinstance(value, _LOOKED):
            return False
        return any(self._reaches(part, depth - 1) for part in _parts(value))


_LOOKED = (FunctionType, MethodType, partial, *_NESTS, *_TABLES)


def _parts(value: Any) -> Iterator[Any]:
    """Give what a function, a partial, a method or a container holds."""
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            yield from _content(cell)
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
    elif isinstance(value, MethodType):
        yield value.__self__
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    else:
        yield from value.values() if isinstance(value, dict) else value


def _content(cell: CellType) -> Iterator[Any]:
    try:
        yield cell.cell_contents
    except ValueError:  # not set yet
        return


def has_state(value: Any) -> bool:
    """Tell whether a value keeps attributes of its own."""
    return isinstance(getattr(value, "__dict__", None), dict)
