"""Record a forward pass: the ATen operators that run, and which of their sizes follow the batch.

The network runs twice on the meta device, which computes shapes only, on two batch sizes: an integer
that is the same in both is fixed, one that grows as the batch does is a multiple of it, anything else is
`Unsupported`. What does not depend on the input (weights, position tables) is computed for real and recorded
as a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from slimkit.example import Example, batch_size, call, mapped, named
from slimkit.modules import evaluating, module_paths

_BATCHES = (7, 13)  # primes, so that no arithmetic on them gives the same by chance
_FILLED = ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like")  # read only the shape


class Unsupported(Exception):
    """The direct road does not cover this network; the general exporter may."""


@dataclass(frozen=True)
class Batch:
    """An integer that is `factor` times the batch size."""

    factor: int


Size = int | Batch


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that depends on the input; `shape` holds a `Batch` where a dimension follows the batch."""

    shape: tuple[Size, ...]
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on the input; with `repeats`, `repeats` times the batch copies of it.

    The copies are along the first dimension, of size 1 in `tensor` itself: a class token put before an image.
    """

    tensor: Tensor
    repeats: int = 0

    @property
    def shape(self) -> tuple[Size, ...]:
        sizes = tuple(self.tensor.shape)
        return (Batch(self.repeats), *sizes[1:]) if self.repeats else sizes


@dataclass
class Call:
    """One operator that ran: `args` and `kwargs` hold Values, Constants and plain Python values."""

    op: Any  # torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Value | None, ...]
    module: str  # path of the module that ran it

    @property
    def name(self) -> str:
        """The operator's name, without the underscore that marks the one that works in place."""
        name = str(self.op.overloadpacket.__name__)
        return name[:-1] if name.endswith("_") and not name.endswith("__") else name

    def arguments(self) -> dict[str, Any]:
        """Return name -> value of all arguments, the operator's own defaults included."""
        schema = self.op._schema.arguments
        bound = {a.name: a.default_value for a in schema}
        bound.update(zip((a.name for a in schema), self.args, strict=False))
        return {**bound, **self.kwargs}

    def result(self) -> Value:
        """Return the first output."""
        assert self.outputs[0] is not None
        return self.outputs[0]


@dataclass
class Recording:
    """A forward pass: `inputs` by name, and `outputs`, the tensors that it returns, in the order of its structure."""

    inputs: dict[str, Value]
    calls: list[Call]
    outputs: list[Value]


def capture(model: nn.Module, example_input: Example) -> Recording:
    """Record the forward pass of a network in evaluation mode; the network is left as it was found.

    Args:
        model: the network, with its weights on one device.
        example_input: of tensors [N, ...]; only shape and dtype are used.

    Raises:
        Unsupported: the pass does not run on shapes alone, or is not the same for every batch size, or an input has
            no batch, as a table that all images share.
    """
    passes = []
    images = batch_size(example_input)
    if not all(tensor.dim() and len(tensor) == images for tensor in named(example_input).values()):
        raise Unsupported("an input without the batch's dimension")
    with evaluating(model), torch.no_grad():
        for batch in _BATCHES:
            try:
                passes.append(_run(model, mapped(example_input, partial(_shapes, batch))))
            except Unsupported:
                raise
            except Exception as error:
                raise Unsupported(f"does not run on shapes alone: {error}") from error
    return _Merger().merge(*passes)


def _shapes(batch: int, tensor: Tensor) -> Tensor:
    return torch.empty(batch, *tensor.shape[1:], dtype=tensor.dtype, device="meta")


def _run(model: nn.Module, images: Example) -> Recording:
    with module_paths(model) as running, _Recorder(running) as recorder:
        inputs = {name: recorder.new_value(tensor) for name, tensor in named(images).items()}
        returned, _ = tree_flatten(call(model, images))
        outputs = [recorder.read(t) for t in returned if isinstance(t, Tensor)]
    values = [o for o in outputs if isinstance(o, Value)]
    if not values or len(values) != len(outputs):
        raise Unsupported("an output does not depend on the input")
    return Recording(inputs, recorder.calls, values)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operator that depends on the input on meta tensors, and everything else for real."""

    def __init__(self, running: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running = running
        self.calls: list[Call] = []
        self._writes: dict[int, int] = {}  # storage -> how often it was written to in place

    def new_value(self, tensor: Tensor) -> Value:
        """Name what a tensor holds now; it stays with the Python object."""
        value = Value(tuple(tensor.shape), tensor.dtype)
        tensor._slimkit_value = value  # type: ignore[attr-defined]
        tensor._slimkit_writes = self._writes.get(_storage(tensor), 0)  # type: ignore[attr-defined]
        return value

    def read(self, tensor: Tensor) -> Value | Constant:
        """Return what a tensor holds; a view of something that was overwritten is not followed."""
        value = getattr(tensor, "_slimkit_value", None)
        if value is None:
            if tensor.is_meta:
                raise Unsupported("a tensor on the meta device that did not come from the input")
            return Constant(tensor)
        if tensor._slimkit_writes != self._writes.get(_storage(tensor), 0):  # type: ignore[attr-defined]
            raise Unsupported("a view of a tensor that was overwritten in place")
        assert isinstance(value, Value)
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given, structure = tree_flatten((args, kwargs or {}))
        if not any(isinstance(t, Tensor) and hasattr(t, "_slimkit_value") for t in given):
            return _run_for_real(func, args, kwargs or {})
        if func.overloadpacket.__name__ in _FILLED:
            stand_in = torch.empty(args[0].shape, dtype=args[0].dtype)
            return _run_for_real(func, (stand_in, *args[1:]), kwargs or {})
        operands = [self.read(t) if isinstance(t, Tensor) else t for t in given]
        on_meta = [t.to("meta") if isinstance(t, Tensor) and not t.is_meta else t for t in given]
        meta_args, meta_kwargs = structure.unflatten(on_meta)
        out = func(*meta_args, **meta_kwargs)
        seen_args, seen_kwargs = structure.unflatten(operands)
        self._note_writes(func, args)
        produced = tuple(
            self.new_value(t) if isinstance(t, Tensor) else None
            for t in (out if isinstance(out, (tuple, list)) else (out,))
        )
        module = self.running[-1] if self.running else ""
        self.calls.append(Call(func, seen_args, seen_kwargs, produced, module))
        return out

    def _note_writes(self, func: Any, args: tuple[Any, ...]) -> None:
        for argument, tensor in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                if not tensor.is_meta:
                    raise Unsupported(f"{func} writes what depends on the input into a constant")
                self._writes[_storage(tensor)] = self._writes.get(_storage(tensor), 0) + 1


def _run_for_real(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator on constants; what asks for the input's device (meta) gets a real tensor."""
    if str(kwargs.get("device", "")) == "meta":
        kwargs = {**kwargs, "device": torch.device("cpu")}
    return func(*args, **kwargs)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Merger:
    """Compares the passes on two batch sizes, operand by operand."""

    def __init__(self) -> None:
        self._values: dict[Value, Value] = {}

    def merge(self, small: Recording, large: Recording) -> Recording:
        if [c.op for c in small.calls] != [c.op for c in large.calls]:
            raise Unsupported("runs other operators on another batch size")
        inputs = {name: self._new(value, large.inputs[name]) for name, value in small.inputs.items()}
        calls = [self._call(a, b) for a, b in zip(small.calls, large.calls, strict=True)]
        if len(small.outputs) != len(large.outputs):
            raise Unsupported("returns more tensors on another batch size")
        outputs = [self._operand(a, b) for a, b in zip(small.outputs, large.outputs, strict=True)]
        return Recording(inputs, calls, outputs)

    def _call(self, small: Call, large: Call) -> Call:
        flat, structure = tree_flatten((small.args, small.kwargs))
        other, _ = tree_flatten((large.args, large.kwargs))
        if len(flat) != len(other):
            raise Unsupported(f"{small.op} takes other arguments on another batch size")
        merged = [self._operand(a, b) for a, b in zip(flat, other, strict=True)]
        args, kwargs = structure.unflatten(merged)
        outputs = tuple(
            self._new(a, b) if a is not None and b is not None else None
            for a, b in zip(small.outputs, large.outputs, strict=True)
        )
        return Call(small.op, args, kwargs, outputs, small.module)

    def _new(self, small: Value, large: Value) -> Value:
        if len(small.shape) != len(large.shape):
            raise Unsupported("a tensor has more dimensions on another batch size")
        shape = tuple(_size(a, b) for a, b in zip(plain(small.shape), plain(large.shape), strict=True))
        self._values[small] = Value(shape, small.dtype)
        return self._values[small]

    def _operand(self, small: Any, large: Any) -> Any:
        if isinstance(small, Value) and isinstance(large, Value):
            return self._values[small]
        if isinstance(small, Constant) and isinstance(large, Constant):
            return _constant(small.tensor, large.tensor)
        if type(small) is int and type(large) is int:
            return _size(small, large)
        if type(small) is not type(large) or small != large:
            raise Unsupported(f"a setting depends on the batch size: {small} and {large}")
        return small


def _size(small: int, large: int) -> Size:
    if small == large:
        return small
    if small * _BATCHES[1] == large * _BATCHES[0] and small % _BATCHES[0] == 0:
        return Batch(small // _BATCHES[0])
    raise Unsupported(f"a size is {small} for a batch of {_BATCHES[0]} and {large} for one of {_BATCHES[1]}")


def _constant(small: Tensor, large: Tensor) -> Constant:
    """Return what is the same in both passes, but for being repeated along the first dimension."""
    same_memory = small.data_ptr() == large.data_ptr() and small.stride() == large.stride()
    if small.shape == large.shape and (same_memory or torch.equal(small, large)):
        return Constant(small)
    if small.dim() and small.shape[1:] == large.shape[1:]:
        row, size = large[:1], _size(len(small), len(large))
        alike = torch.equal(row.expand_as(large), large) and torch.equal(row, small[:1])
        if isinstance(size, Batch) and alike:
            return Constant(row, size.factor)
    raise Unsupported("a constant depends on the batch size")


def plain(value: Any) -> Any:
    """Return a value without `Batch`: for operators whose settings must not follow the batch."""
    if isinstance(value, Batch):
        raise Unsupported("a setting follows the batch size")
    return tree_map(plain, value) if isinstance(value, (list, tuple)) else value
