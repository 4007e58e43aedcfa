"""Modules of a pickle: made empty, never constructed, and given a state that was checked first.

A class of torch, torchvision, timm or Ultralytics computes what its code says; the file brings only numbers, words,
tensors, other such modules and a few functions of tensors. What would be run on construction, by hooks, or from
generated code has no way in.
"""

import functools
import importlib
import inspect
import re
import warnings
from collections import OrderedDict
from enum import Enum
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules import batchnorm, conv

from slimkit.models.names import is_plain
from slimkit.pickled.machine import Empty, Filled, Refused, Word
from slimkit.pickled.values import Array, Beside, Ignored, value

_PACKAGES = (
    "torch.nn.modules", "torchvision.models", "torchvision.ops", "timm.models", "timm.layers",
    "ultralytics.nn.modules", "ultralytics.nn.tasks",
)  # fmt: skip
_BUILD_CODE = ("timm.models._features_fx", "torchvision.models.feature_extraction")  # with torch.fx, from names
_PLACE = re.compile(r"[A-Za-z]\w*(\.(?!__)\w+)+", re.ASCII)
# What networks hold as attributes beside modules: pure functions of tensors.
_FUNCTIONS = {
    "torch.nn.functional": (
        "relu", "relu6", "gelu", "silu", "mish", "elu", "leaky_relu", "hardswish", "hardsigmoid", "hardtanh",
        "softplus", "softmax", "sigmoid", "tanh", "normalize", "dropout", "max_pool2d", "avg_pool2d",
        "adaptive_avg_pool2d", "interpolate", "pad",
    ),
    "torch": ("relu", "sigmoid", "tanh", "flatten", "add", "cat"),
    "torch._C._nn": ("gelu", "silu", "hardswish", "hardsigmoid", "hardtanh", "relu6", "mish"),
    "timm.layers.weight_init": ("trunc_normal_", "trunc_normal_tf_", "lecun_normal_"),
}  # fmt: skip
_TABLES: dict[str, Any] = {"_parameters": nn.Parameter, "_buffers": Tensor, "_modules": nn.Module}
# What Ultralytics keeps beside a network: losses, settings, how pictures are prepared. Nobody reads it.
_UNREAD = ("ultralytics.utils.", "ultralytics.yolo.", "torchvision.transforms.")
_ALIASES = {
    "ultralytics.nn.modules.block.Silence": "torch.nn.modules.linear.Identity",
    "ultralytics.nn.tasks.YOLOv10DetectionModel": "ultralytics.nn.tasks.DetectionModel",
}
_DEEPEST = 100  # tables within tables; a network of ten levels has thirty
_MOST = 2_000_000  # values, each counted as often as it is reached, as texts would be if they were written out
_LETTERS = 100  # of a text, that count as one value more
_WIDTHS = {  # attributes that layers cannot do without, and that surgery reads
    nn.Linear: ("in_features", "out_features"),
    conv._ConvNd: ("in_channels", "out_channels", "groups"),
    batchnorm._NormBase: ("num_features",),
}


class Partial(Filled):
    """A `functools.partial` of a pickle: its function and its arguments."""

    function: Any = None
    arguments: tuple[Any, Any] = ((), {})

    def fill(self, state: Any) -> None:
        """Take (function, arguments, arguments by name, attributes)."""
        self.function, *arguments, _ = state
        self.arguments = (arguments[0], arguments[1] or {})


def word(name: str) -> Any:
    """Return what a name stands for in the pickle of a checkpoint.

    Raises:
        Refused: it is neither plain data, nor a module of torch, torchvision, timm or Ultralytics, nor a function of
            tensors.
    """
    name = _ALIASES.get(name, name)
    if name.startswith(_UNREAD):
        return Word(name, call=lambda *_: Ignored())
    if name in ("builtins.getattr", "__builtin__.getattr"):
        return Word(name, call=_attribute)
    if name == "functools.partial":
        return Word(name, call=lambda *_: Partial())
    if name == "torch.nn.parallel.data_parallel.DataParallel":
        return Word(name, meaning=nn.DataParallel, empty=True)
    place, _, leaf = name.rpartition(".")
    if leaf in _FUNCTIONS.get(place, ()):
        return Word(name, meaning=getattr(importlib.import_module(place), leaf))
    if name == "timm.layers.format.Format":
        return Word(name, call=functools.partial(_one_of, getattr(importlib.import_module(place), leaf)))
    kind = _module_class(place, leaf)
    return Word(name, meaning=kind, empty=True) if kind is not None else value(name)


def _one_of(kind: type[Enum], word: Any) -> Enum:
    """Return the member of an enumeration for its word."""
    if not isinstance(word, str):
        raise TypeError(f"{type(word).__name__} where a word belongs")
    return kind(word)


def _attribute(owner: Any, *_: Any) -> Any:
    """Leave a method or a constant of Ultralytics unread: older heads kept `Detect.forward`."""
    if isinstance(owner, Word) and owner.name.startswith(("ultralytics.", *_UNREAD)):
        return Ignored()
    raise Refused("builtins.getattr")


def _module_class(place: str, leaf: str) -> type[nn.Module] | None:
    if place.startswith(_BUILD_CODE) or not _PLACE.fullmatch(place):
        return None
    if not any(place == package or place.startswith(f"{package}.") for package in _PACKAGES):
        return None
    found: Any
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = getattr(importlib.import_module(place), leaf, None)
    except Exception:
        return None
    good = isinstance(found, type) and issubclass(found, nn.Module) and _lives_in(found, place)
    return found if good and not issubclass(found, fx.GraphModule) and not _scripted(found) else None


def _lives_in(kind: type, place: str) -> bool:
    """Tell whether a class is of a place: of the module itself, or, before Ultralytics 8.0.100, of its package."""
    return kind.__module__ == place or (place == "ultralytics.nn.modules" and kind.__module__.startswith(f"{place}."))


def _scripted(kind: type) -> bool:
    return any(base.__module__.startswith("torch.jit") for base in kind.__mro__)


def finished(found: Any) -> Any:
    """Make the values that a pickle described: modules of what was empty, in tables of our own.

    Only now, since a pickle can change a table after it was used.

    Raises:
        Refused: a module with hooks, with methods of its own, or with names that are no plain names.
        ValueError: a value that holds itself, nests too deep, or fans out without end; a layer that lacks a part.
    """
    return _Builder().make(found, 0)


class _Builder:
    """Values made so far, by the identity of what described them, each with how many values it reaches."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, int]] = {}
        self._open: set[int] = set()
        self._reached = 0

    def make(self, found: Any, depth: int) -> Any:
        """Return the value, and count the values it reaches, again where it was made before."""
        if not isinstance(found, dict | list | tuple | set | frozenset | Empty | Partial):
            self._reach(1 + (len(found) // _LETTERS if isinstance(found, str | bytes | bytearray) else 0))
            return found.meaning if isinstance(found, Word) else found.value if isinstance(found, Array) else found
        if id(found) in self._made:
            made, size = self._made[id(found)]
            self._reach(size)
            return made
        if id(found) in self._open or depth > _DEEPEST:
            raise ValueError("values that hold themselves" if id(found) in self._open else "values nested too deep")
        before = self._reached
        self._open.add(id(found))
        made = self._container(found, depth + 1)
        self._open.remove(id(found))
        self._made[id(found)] = made, self._reached - before
        return made

    def _reach(self, count: int) -> None:
        self._reached += count
        if self._reached > _MOST:
            raise ValueError(f"more than {_MOST} values")

    def _container(self, found: Any, depth: int) -> Any:
        if isinstance(found, Empty):
            return _module(found.word, self.make(found.state, depth))
        if isinstance(found, Partial):
            return _partial(self.make(found.function, depth), *self.make(found.arguments, depth))
        self._reach(1)
        if type(found) not in (dict, OrderedDict, list, tuple, set, frozenset):  # torch.Size
            return found
        items = [*found, *found.values()] if isinstance(found, dict) else list(found)
        made = [self.make(item, depth) for item in items]
        if all(one is other for one, other in zip(items, made, strict=True)):
            return found  # as it is: to make it anew would be to hash its keys once more
        return type(found)(
            zip(made[: len(found)], made[len(found) :], strict=True) if isinstance(found, dict) else made
        )


def _partial(function: Any, arguments: Any, named: Any) -> Any:
    """Bind a function of tensors; a class that was bound is only kept as data: nothing is to construct it."""
    if isinstance(function, type) and issubclass(function, nn.Module):
        return Beside()
    if not callable(function) or isinstance(function, type | nn.Module):
        raise Refused(f"functools.partial of {type(function).__name__}")
    return functools.partial(function, *arguments, **named)


def _module(kind: Word, state: Any) -> nn.Module:
    """Make a module of its state, as `nn.Module.__setstate__` does, without its constructor."""
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{kind.name} without a state")
    for table, wanted in _TABLES.items():
        _check_table(kind.name, table, state.get(table), wanted)
    if type(state.get("training")) is not bool:
        raise ValueError(f"{kind.name} without `training`")
    for name, entry in state.items():
        if "hook" in name and entry:
            raise Refused(f"hooks of a module ({name} of {kind.name})")
        if name == "type" and type(entry) is str:
            continue  # what Ultralytics calls a layer: a word, which nothing can be made to run
        if name in _methods(kind.meaning):
            raise Refused(f"a method of a module ({name} of {kind.name})")
    if not isinstance(state.get("_non_persistent_buffers_set", set()), set):
        raise ValueError(f"{kind.name} with odd buffers")
    module: Any = object.__new__(kind.meaning)
    module.__setstate__(state)  # of these classes it fills in what older versions lacked
    for owner, widths in _WIDTHS.items():
        if isinstance(module, owner):
            _check_layer(module, widths)
    made: nn.Module = module
    return made


@functools.cache
def _methods(kind: type) -> frozenset[str]:
    found = {name: inspect.getattr_static(kind, name, None) for name in (*dir(kind), *dir(type(kind)))}
    return frozenset(
        name for name, entry in found.items() if callable(entry) or isinstance(entry, staticmethod | classmethod)
    )


def _check_table(owner: str, table: str, found: Any, wanted: type) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{owner} without {table}")
    for name, entry in found.items():
        if not is_plain(name) or "." in name or not name:
            raise Refused(f"a part named {name!r}")
        if entry is not None and not isinstance(entry, wanted):
            raise ValueError(f"{type(entry).__name__} among {table} of {owner}")


def _check_layer(module: Any, widths: tuple[str, ...]) -> None:
    numbers = [vars(module).get(name) for name in widths]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise ValueError(f"a {type(module).__name__} without {' and '.join(widths)}")
    for table, names in (("_parameters", ("weight", "bias")), ("_buffers", ("running_mean", "running_var"))):
        missing = [name for name in names if name not in vars(module)[table]]
        if missing and (table == "_parameters" or isinstance(module, batchnorm._NormBase)):
            raise ValueError(f"a {type(module).__name__} without {missing[0]}")
