"""How much memory a checkpoint may take: told from its size, and held before anything is allocated.

A file of a few hundred bytes can ask for a layer of gigabytes, a tensor that repeats one number, a network of
millions of layers or an image of a hundred thousand pixels a side. What reading it takes is bounded by `FACTOR` times
the file, at least `FLOOR`, or by what the user says.
"""

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from slimkit.errors import CheckpointError
from slimkit.example import Example, call, mapped
from slimkit.modules import copied, state_tensors
from slimkit.settings.source import SourceSpec
from slimkit.usage import INPUT

FACTOR = 8  # the weights, a copy of them, their gradients' like, and activations
FLOOR = 2 * 2**30  # bytes: what the activations of a small network may take
_MODULES = 50_000  # the largest network of torchvision and timm has some 5,000
_SMALL, _FEW = 2**20, 16  # bytes given, and numbers, below which no result is large


@dataclass(frozen=True)
class Limit:
    """What one file may take: its path, for messages, and bytes."""

    path: Path
    size: int

    def check(self, size: int, what: str) -> None:
        """Refuse what is too large.

        Raises:
            CheckpointError: it is.
        """
        if size > self.size:
            raise CheckpointError(
                f"{self.path}: {what} would take {size / 1e9:.1f} GB of memory, but reading this file may take "
                f"{self.size / 1e9:.1f} GB.\n  If the file is what you expect, allow more: "
                f"`max_memory='{math.ceil(size / 1e9) + 1}GB'`"
            )


_current: ContextVar[Limit | None] = ContextVar("limit", default=None)


@contextmanager
def limited(path: Path, asked: int | str | None = None) -> Iterator[Limit]:
    """Bound what is done for a file in the block; within another such block, that one's bound holds.

    Args:
        path: the file.
        asked: bytes, or an amount as settings have it, "16GiB"; None: `FACTOR` times the file's, at least `FLOOR`.

    Raises:
        SpecError: it is no such amount.
    """
    asked = SourceSpec(max_memory=asked).memory if isinstance(asked, str) else asked
    outer = _current.get()
    if outer is not None:
        yield outer
        return
    size = path.stat().st_size if path.is_file() else 0
    token = _current.set(Limit(path, asked or max(FLOOR, FACTOR * size)))
    try:
        limit = _current.get()
        assert limit is not None
        yield limit
    finally:
        _current.reset(token)


def check_size(size: int, what: str) -> None:
    """Refuse so many bytes where a file is being read.

    Raises:
        CheckpointError: it may not take them.
    """
    limit = _current.get()
    if limit is not None:
        limit.check(size, what)


def check_tensors(tensors: Iterable[Any]) -> None:
    """Refuse tensors that would take too much memory written out, as float32 or wider."""
    dense = [tensor for tensor in tensors if isinstance(tensor, Tensor) and not tensor.is_sparse]
    check_size(sum(tensor.numel() * max(tensor.element_size(), 4) for tensor in dense), "its tensors")


def watched() -> Any:
    """Return a context in which no operator makes more than the current file may take, and no end of modules."""
    limit = _current.get()
    return nullcontext() if limit is None else _watched(limit)


@contextmanager
def _watched(limit: Limit) -> Iterator[None]:
    made = 0

    def count(module: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal made
        made += 1
        if made > _MODULES:
            raise CheckpointError(f"{limit.path}: describes a network of more than {_MODULES} layers.")

    handle = register_module_module_registration_hook(count)
    try:
        with _Watch(limit):
            yield
    finally:
        handle.remove()


def surely_fits(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Tell whether eight tensors as wide as the widest weight, on the whole image, are little enough.

    Holds for known architectures, where no file says how far an image is padded or enlarged.
    """
    limit = _current.get()
    widest = max((size for tensor in state_tensors(model).values() for size in tensor.shape), default=1)
    return limit is None or 8 * 4 * widest * math.prod(shape[1:]) <= limit.size


def check_run(model: nn.Module, inputs: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Refuse a network that takes too much memory on one image.

    It is run on the meta device, without numbers; one that cannot be is run for real, watched.

    Args:
        model: untouched.
        inputs: name -> shape of one image, and type; of one input that the network takes by its place, `usage.INPUT`.
    """
    limit = _current.get()
    if limit is None:
        return
    for shape, _ in inputs.values():
        limit.check(4 * math.prod(shape), f"an image of {'x'.join(map(str, shape))}")
    empty = {
        name: torch.empty(1, *shape, dtype=getattr(torch, dtype), device="meta")
        for name, (shape, dtype) in inputs.items()
    }
    example: Example = empty[INPUT] if list(empty) == [INPUT] else empty
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        hollow = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(hollow, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else hollow
    try:
        twin = copied(model, memo)
        with torch.no_grad(), watched():
            call(twin, example)
        return
    except CheckpointError:
        raise
    except Exception:  # the network's own, which may be any: it makes tensors on the CPU, or asks for values
        pass
    try:
        with torch.no_grad(), watched():
            call(copied(model), mapped(example, partial(torch.zeros_like, device="cpu")))
    except CheckpointError:
        raise
    except Exception:  # the network's own: it does not run, and tracing will say so
        return


class _Watch(TorchFunctionMode):
    """Add up what is alive of all that functions made, and ask for the size of large results beforehand."""

    def __init__(self, limit: Limit) -> None:
        super().__init__()
        self._limit = limit
        self._alive = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not getattr(func, "__name__", "_").endswith("_") and _may_be_large(given, args, kwargs):
            self._check(_predicted(func, args, kwargs))
        if getattr(func, "__name__", "_").startswith("one_hot") and given and given[0].numel():
            wide = args[1] if len(args) > 1 else kwargs.get("num_classes", -1)  # -1: as wide as its numbers are large
            widest = int(given[0].max()) + 1 if wide == -1 and not given[0].is_meta else wide
            self._check(8 * given[0].numel() * max(widest, 0))
        made = func(*args, **kwargs)
        for tensor in _new(made, given):
            self._alive += _bytes(tensor)
            weakref.finalize(tensor, self._forget, _bytes(tensor))
        self._check(0)
        return made

    def _check(self, more: int) -> None:
        self._limit.check(self._alive + more, "its network")

    def _forget(self, size: int) -> None:
        self._alive -= size


def _may_be_large(given: list[Tensor], args: Any, kwargs: Any) -> bool:
    if sum(map(_bytes, given)) > _SMALL:
        return True
    numbers = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, int | float))
    return any(abs(number) > _FEW for number in numbers)


def _predicted(func: Any, args: Any, kwargs: Any) -> int:
    """Return the bytes of a function's result by running it without numbers; 0 where that cannot be done."""
    twins: list[Tensor] = []

    def twin(tensor: Tensor) -> Tensor:
        twins.append(torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta"))
        return twins[-1]

    try:
        args, kwargs = tree_map_only(Tensor, twin, (args, kwargs))
        made = func(*args, **(kwargs if twins else {**kwargs, "device": "meta"}))
    except Exception:
        return 0
    return sum(map(_bytes, _new(made, twins)))


def _new(made: Any, given: list[Tensor]) -> list[Tensor]:
    """Return the dense tensors of a result that are no views of what was given."""
    storages = {tensor.untyped_storage()._cdata for tensor in given if _bytes(tensor)}
    found = (leaf for leaf in tree_leaves(made) if _bytes(leaf))
    return [tensor for tensor in found if tensor.untyped_storage()._cdata not in storages]


def _bytes(value: Any) -> int:
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    return value.numel() * value.element_size() if dense else 0
