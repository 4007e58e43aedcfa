"""What a checkpoint's pickle may make: tensors and arrays within their bytes, tables, plain data.

Each function here checks its arguments and builds the value itself; none calls what a file names, and none writes out
what it is given: a tuple of two that are the same tuple, and so on, is a short pickle and an endless text.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimkit.pickled.machine import Allowance, Filled, Refused, Word

_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
# Old classes of storages: `torch.FloatStorage` holds torch.float32.
_STORAGES = {name: dtype for dtype, name in torch.storage._dtype_to_storage_type_map().items()}
# Numbers, whose bytes are their values.
_ARRAYS = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
_TEXT_KINDS = "SUMm"  # texts and times beside the weights: nobody reads them
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")


@dataclass(frozen=True)
class Stored:
    """Bytes of a file that tensors are views of.

    Attributes:
        memory: the bytes.
        dtype: of the numbers in it; None where the tensor says so.
        start, count: the part of it, in numbers (in bytes where there is no dtype).
    """

    memory: torch.UntypedStorage
    dtype: torch.dtype | None
    start: int
    count: int


class Beside:
    """Stands for plain data beside the weights that nobody reads, a namespace of settings for example."""


class Ignored(Filled, Beside):
    """The same, of a kind that is given a state."""

    def fill(self, state: Any) -> None:
        """Forget the state."""


@dataclass
class ArrayType(Filled):
    """A NumPy type as a pickle tells it: a kind and size, then the order of its bytes."""

    code: str
    order: str = "<"

    def fill(self, state: Any) -> None:
        """Take (version, order, ...); whatever makes it a structured type is refused."""
        _, order, subtype, names, fields, *rest = state
        if (subtype, names, fields) != (None, None, None) or order not in ("<", ">", "|", "="):
            raise Refused("numpy.dtype of a structured type")
        self.order = order

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The type; None of texts and times."""
        if self.code[:1] in _TEXT_KINDS:
            return None
        return np.dtype(self.order.replace("|", "") + self.code)


class Array(Filled):
    """A NumPy array that is given shape, type and bytes after it is made."""

    value: Any = None

    def fill(self, state: Any) -> None:
        """Take (version, shape, type, column order, bytes)."""
        *_, shape, kind, by_column, data = state
        self.value = array(kind, shape, data, "F" if by_column else "C")


def array(kind: Any, shape: Any, data: Any, order: str = "C") -> Any:
    """Build an array of numbers from its bytes."""
    if not isinstance(kind, ArrayType):
        raise TypeError("an array of no type")
    dtype = kind.dtype
    if dtype is None:
        return Beside()
    data = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
        raise Refused("numpy.ndarray of objects")
    sizes = _sizes(shape)
    if math.prod(sizes) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of {sizes}")
    native = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))  # a copy: aligned, writable
    return native.reshape(sizes, order="F" if order == "F" else "C")


def tensor(stored: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Build a tensor as a view of stored bytes, within them."""
    if not isinstance(stored, Stored) or stored.dtype is None:
        raise TypeError("a tensor without a storage of numbers")
    return _view(stored, stored.dtype, stored.start, stored.count, (offset, size, stride), rest[2:])


def typed_tensor(stored: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Build a tensor whose type is not its storage's: `_rebuild_tensor_v3`."""
    dtype = rest[2]
    if not isinstance(stored, Stored) or not isinstance(dtype, torch.dtype):
        raise TypeError("a tensor without a storage or a type")
    width = 1 if stored.dtype is None else stored.dtype.itemsize
    start, rests = divmod(stored.start * width, dtype.itemsize)
    if rests:
        raise ValueError("a tensor between two numbers")
    return _view(stored, dtype, start, stored.count * width // dtype.itemsize, (offset, size, stride), rest[3:])


def _view(
    stored: Stored, dtype: torch.dtype, start: int, count: int, layout: tuple[Any, Any, Any], flags: tuple[Any, ...]
) -> Tensor:
    offset, sizes, strides = _whole(layout[0]), _sizes(layout[1]), _sizes(layout[2])
    if any(flags):
        raise Refused("a tensor that is conjugate or negated")
    if len(sizes) != len(strides):
        raise ValueError("sizes and strides that do not fit")
    if 0 in sizes:
        return torch.empty(sizes, dtype=dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if last >= count:
        raise ValueError(f"a tensor of {sizes} in a storage of {count} numbers")
    return torch.empty(0, dtype=dtype).set_(stored.memory, start + offset, sizes, strides)


def _parameter(data: Any, requires_grad: Any, *_: Any) -> nn.Parameter:
    if not isinstance(data, Tensor):
        raise TypeError("a parameter that is no tensor")
    return nn.Parameter(data, requires_grad=bool(requires_grad))


def _subclass(function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
    """Build a tensor that was given attributes, without them."""
    if not isinstance(function, Word) or function.name not in _TENSORS:
        raise Refused(getattr(function, "name", "torch._tensor._rebuild_from_type_v2"))
    return _TENSORS[function.name](*arguments)


def _on_meta(dtype: Any, size: Any, _stride: Any, _requires_grad: Any) -> Tensor:
    """Build a tensor without values, which is refused by its name where weights are wanted."""
    return torch.empty(_sizes(size), dtype=dtype, device="meta")


def _quantised(*_: Any) -> Tensor:
    """Stand for a quantised tensor, which is refused by its name later: its values are not read."""
    return torch._empty_affine_quantized((0,), scale=1.0, zero_point=0, dtype=torch.qint8)


def _sparse(*_: Any) -> Tensor:
    """Stand for a sparse tensor, as above."""
    return torch.empty(0).to_sparse()


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > 32:
        raise TypeError("sizes that are no short tuple")
    return tuple(_whole(size) for size in value)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value if type(value) is int else type(value).__name__} where a size belongs")
    return value


def _array_type(code: Any, *_: Any) -> ArrayType:
    if isinstance(code, Word):  # a class of NumPy's scalars
        raise Refused(code.name)
    if not isinstance(code, str):
        raise TypeError(f"{type(code).__name__} where a NumPy type belongs")
    if not (code in _ARRAYS or re.fullmatch(f"[{_TEXT_KINDS}]\\d{{1,9}}", code)):
        raise Refused(f"numpy.dtype of kind {code[:20]!r}")
    return ArrayType(code)


def _scalar(kind: Any, data: Any = b"") -> Any:
    made = array(kind, (), data)
    return made.item() if isinstance(made, np.ndarray) else made


def _items(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    """Make a container of what a pickle lists, never of a number: bytes(10**12) would be a lot of memory."""
    return lambda items=(): kind(_listed(items))


def _hashed(kind: type[Any]) -> Callable[..., Any]:
    """Make a table, or a set, of what a pickle lists."""

    def make(items: Any = (), *, allowance: Allowance) -> Any:
        found = _listed(items)
        if issubclass(kind, dict) and not isinstance(found, dict):
            pairs = [pair for pair in found if isinstance(pair, tuple | list) and len(pair) == 2]
            if len(pairs) != len(found):
                raise TypeError("a table that is not made of pairs")
            allowance.keys([key for key, _ in pairs])
        else:
            allowance.keys(tuple(found))
        return kind(found)

    return make


def _listed(items: Any) -> Any:
    if not isinstance(items, tuple | list | dict | set | frozenset | bytes | bytearray):
        raise TypeError(f"{type(items).__name__} where items belong")
    return items


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("_codecs.encode")
    return text.encode("latin-1")


def _bytes(data: Any = b"", encoding: Any = None) -> bytes:
    return _encoded(data, encoding) if isinstance(data, str) else bytes(_items(bytearray)(data))


def _size(items: Any = ()) -> torch.Size:
    return torch.Size(_sizes(items))


def _complex(real: Any, imaginary: Any) -> complex:
    if not (isinstance(real, int | float) and isinstance(imaginary, int | float)):
        raise TypeError("a complex number of no two numbers")
    return complex(real, imaginary)


_TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": tensor,
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_tensor_v3": typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_meta_tensor_no_storage": _on_meta,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse,
}
_CALLS: dict[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": _size,
    "torch.device": lambda *_: Beside(),
    "torch.serialization._get_layout": lambda *_: Beside(),
    "collections.defaultdict": lambda *_: {},
    "collections.deque": lambda *_: [],
    "argparse.Namespace": lambda *_: Ignored(),
    "_codecs.encode": _encoded,
    "numpy.dtype": _array_type,
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: Array() for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": lambda data, kind, shape, order: array(kind, shape, data, order)
       for core in ("core", "_core")},
    **{f"{place}.{name}": lambda *_: Beside() for place in ("pathlib", "pathlib._local") for name in _PATHS},
    **{f"{place}.{kind.__name__}": _items(kind) for place in ("builtins", "__builtin__")
       for kind in (list, tuple, bytearray)},
    "builtins.bytes": _bytes, "__builtin__.bytes": _bytes,
    "builtins.complex": _complex, "__builtin__.complex": _complex,
}  # fmt: skip
_TABLES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _hashed(OrderedDict),
    "collections.Counter": _hashed(dict),
    **{f"{place}.{kind.__name__}": _hashed(kind) for place in ("builtins", "__builtin__")
       for kind in (set, frozenset, dict)},
}  # fmt: skip
_CONSTANTS: dict[str, Any] = {
    **_DTYPES,
    **{f"{place}.{name}": dtype for name, dtype in _STORAGES.items() for place in ("torch", "torch.cuda")},
    **{f"torch.storage.{name}": None for name in ("UntypedStorage", "TypedStorage")},
    **{f"torch.{name}": Beside for name in ("Tensor", "strided", "per_tensor_affine", "per_channel_affine")},
    "torch.nn.parameter.Parameter": Beside,
    "numpy.ndarray": Beside,
    **{f"{place}.{kind.__name__}": kind for place in ("builtins", "__builtin__") for kind in (int, float, bool, str)},
}


def value(name: str) -> Any:
    """Return what a name of plain data stands for in a pickle.

    Raises:
        Refused: it is none.
    """
    if name in _CONSTANTS:
        return _CONSTANTS[name]
    if name in _CALLS:
        return Word(name, call=_CALLS[name])
    if name in _TABLES:
        return Word(name, call=_TABLES[name], hashes=True)
    raise Refused(name)
