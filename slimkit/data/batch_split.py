"""A split that somebody's own loader gives batch by batch."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from slimkit.data.order import drawing
from slimkit.dtypes import taken
from slimkit.errors import DataError
from slimkit.example import first
from slimkit.progress import Progress, quiet
from slimkit.tasks.task import arguments

_TARGETS = ("labels", "label", "targets", "target")  # of batches that are dicts, as Hugging Face's are
_END = object()
_MOST = 20_000_000  # inputs after which a loader without a length is held to be endless; ImageNet-21k has 14 million
_EVERY = 1.0  # seconds between two words on counting
_ENDS = "  Give one that ends when every input came once; of WebDataset, `.with_epoch(batches)` does"
Place = tuple[Any, ...]  # keys, from the whole batch inwards
_PAIR = "Give batches (inputs, targets), or dicts with the entry 'labels'"


def pair(batch: Any, name: str) -> tuple[Any, Any]:
    """Part a batch into (inputs, targets).

    Raises:
        DataError: it is no pair.
    """
    if isinstance(batch, Mapping):
        key = next((key for key in _TARGETS if key in batch), None)
        if key is not None:
            return single({entry: value for entry, value in batch.items() if entry != key}), whole(batch[key])
        raise DataError(f"{name}: a batch is a dict of {', '.join(map(str, batch))}, without targets.\n  {_PAIR}")
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return arguments(single(batch[0])), whole(batch[1])
    raise DataError(f"{name}: a batch is {_described(batch)}, not (inputs, targets).\n  {_PAIR}")


def single(tree: Any) -> Any:
    """Return arrays as tensors, without gradients, and real ones as float32, as networks are computed in."""
    tree = tree_map_only(np.ndarray, torch.as_tensor, tree)
    return tree_map_only(Tensor, partial(taken, dtype=torch.float32), tree)


def whole(tree: Any) -> Any:
    """Return targets as `single` does; those that are whole numbers of any type as int64, as losses take them."""
    tree = single(tree.item() if isinstance(tree, np.generic) else tree)
    if not isinstance(tree, Tensor) or tree.is_floating_point() or tree.is_complex() or tree.dtype == torch.bool:
        return tree
    return tree.long()


def inputs_alone(batch: Any, name: str) -> tuple[Any, None]:
    """Take the inputs of a batch that may have targets: its first entry, or all of a dict but its targets."""
    if isinstance(batch, Mapping):
        return single({key: value for key, value in batch.items() if key not in _TARGETS}), None
    return arguments(single(batch[0] if isinstance(batch, (tuple, list)) and batch else batch)), None


class Rows(list[Any]):
    """One entry an input, where inputs are of sizes of their own: not a batch of tensors in a list."""


def listed(batch: Any, name: str) -> tuple[Rows, Rows]:
    """Part a batch of pictures of any sizes into (images, targets), one entry a picture.

    Raises:
        DataError: it is no batch of as many images as targets.
    """
    images, targets = pair(batch, name)
    if not isinstance(targets, (list, tuple)) or len(images) != len(targets):
        raise DataError(
            f"{name}: a batch is {type(images).__name__} and {type(targets).__name__}, not as many images as targets.\n"
            "  Give a loader of (images, targets), lists of one entry a picture: collate_fn=lambda b: tuple(zip(*b))"
        )
    return Rows(images), Rows(targets)


def _described(batch: Any) -> str:
    kind = type(batch).__name__
    if isinstance(batch, Tensor):
        return f"one tensor {list(batch.shape)}"
    return f"a {kind} of {len(batch)}" if isinstance(batch, (tuple, list)) else kind


@dataclass(frozen=True)
class BatchSplit:
    """Batches of somebody's own loader, cut anew to the size that is asked for.

    Order and augmentation are the loader's. Where it draws them from the random generators of PyTorch, NumPy or Python,
    it draws by seed, epoch and batch, so that an epoch can be had again, from any batch on.

    Attributes:
        source: gives all batches each time it is gone through.
        name: for messages.
        count: number of inputs.
        part: parts a batch into inputs and targets.
    """

    source: Iterable[Any]
    name: str
    count: int
    part: Callable[[Any, str], tuple[Any, Any]] = pair

    def __len__(self) -> int:
        return self.count

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        augment: bool = False,
        start: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> Iterator[tuple[Any, Any]]:
        """Give batches as `Split.batches` says; the loader alone decides on order and augmentation."""
        size = min(batch_size, self.count)
        given = (self._parted(batch) for batch in _drawn(self.source, seed, epoch))
        for position, batch in enumerate(_cut(given, size, self.name)):
            if seed is not None and length(batch) < size:
                return
            if position >= start:
                yield batch if ranks == 1 else _sliced(batch, slice(rank, None, ranks), self.name, _still(batch))

    def _parted(self, batch: Any) -> tuple[Any, Any]:
        inputs, targets = self.part(batch, self.name)
        if isinstance(targets, (int, float, np.generic)) or (isinstance(targets, Tensor) and targets.dim() == 0):
            raise DataError(
                f"{self.name}: it gives one input at a time, with the target {targets}, where batches are wanted.\n"
                "  Give a loader of it: torch.utils.data.DataLoader(data, batch_size=32)"
            )
        return inputs, targets

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "BatchSplit":
        """Return the split itself: its inputs are as the network takes them."""
        return self


def length(batch: Any) -> int:
    """Return the number of inputs in a batch of any nest of tensors, or of rows."""
    if isinstance(batch, tuple) and batch and isinstance(batch[0], Rows):
        return len(batch[0])
    found = first(batch)
    return int(found.shape[0]) if found is not None and found.dim() else 0


def counted(source: Any, name: str, part: Callable[[Any, str], Any] | None = None, progress: Progress = quiet) -> int:
    """Return how many inputs a loader gives; it is gone through once where it does not say so itself.

    Raises:
        DataError: it can be gone through only once, or does not end.
    """
    if isinstance(source, Iterator):
        raise DataError(
            f"{name}: {type(source).__name__} can be gone through only once.\n"
            "  Give what begins anew each time: a DataLoader, a list of batches, an object with __iter__"
        )
    sampler: Any = getattr(source, "sampler", None)
    batch_size = getattr(source, "batch_size", None)
    if isinstance(batch_size, int) and hasattr(sampler, "__len__"):  # a DataLoader that cuts batches itself
        inputs = len(sampler)
        return inputs // batch_size * batch_size if getattr(source, "drop_last", False) else inputs
    said, inputs, told = _said(source), 0, time.monotonic()
    for batches, batch in enumerate(source, 1):
        batch = part(batch, name) if part else batch
        if (tensor := first(batch)) is not None and not tensor.dim():
            raise DataError(
                f"{name}: the first tensor of a batch is a single number, of no batch [N, ...].\n"
                "  Give every input with one entry an input: a scale as torch.full((N,), scale)"
            )
        inputs += length(batch)
        if said and batches > 2 * said:  # a length that is somewhat wrong harms nobody
            raise DataError(f"{name}: its length is {said}, and it has given twice as many batches.\n{_ENDS}")
        if max(inputs, batches) > _MOST:
            raise DataError(f"{name}: it has given {inputs:,} inputs, and goes on.\n{_ENDS}")
        if time.monotonic() - told > _EVERY:
            told = time.monotonic()
            progress(f"counting the inputs of {name} until it ends, {inputs:,} so far", None)
    return inputs


def _said(source: Any) -> int:
    """Return how many batches a loader says that it has, 0 where it does not."""
    try:
        return len(source)
    except Exception:  # streams raise what they like: TypeError, NotImplementedError
        return 0


def _drawn(source: Iterable[Any], seed: int | None, epoch: int) -> Iterator[Any]:
    """Go through a loader, which may draw its order and its augmentation: every batch draws by its own number."""
    with drawing("order", seed, epoch):
        batches = iter(source)
    for position in itertools.count():
        with drawing("batch", seed, epoch, position):
            batch = next(batches, _END)
        if batch is _END:
            return
        yield batch


def _cut(batches: Iterable[tuple[Any, Any]], size: int, name: str) -> Iterator[tuple[Any, Any]]:
    """Cut batches of any sizes into batches of one size, the last one as it comes."""
    rest: tuple[Any, Any] | None = None
    still: dict[Place, Tensor] = {}  # that were seen to be of no batch, also where one is as long as another batch
    for batch, after in _with_next(batches):
        still = {**_still(batch), **({} if after is None else _still(after)), **still}
        whole = batch if rest is None else _joined(rest, batch, name, still)
        count = length(whole)
        if count <= size:
            if count == size:
                yield whole
            rest = whole if count < size else None
            continue
        for begin in range(0, count - size + 1, size):
            yield _sliced(whole, slice(begin, begin + size), name, still)
        left = count % size
        rest = _sliced(whole, slice(count - left, count), name, still) if left else None
    if rest is not None:
        yield rest


def _with_next(batches: Iterable[Any]) -> Iterator[tuple[Any, Any | None]]:
    """Give each batch with the one that follows, which may be of another length: that tells what is of no batch.

    Each is copied before the next is asked for: a loader may write that into the same memory.
    """
    before = None
    for batch in batches:
        if before is not None:
            yield before, batch
        before = tree_map_only((Tensor, Rows), _copied, batch)
    if before is not None:
        yield before, None


def _copied(part: "Tensor | Rows") -> "Tensor | Rows":
    return part.clone() if isinstance(part, Tensor) else Rows(tree_map_only(Tensor, Tensor.clone, row) for row in part)


def _still(batch: Any) -> dict[Place, Tensor]:
    """Return the tensors of a batch that have no entry for each input, and so are of all inputs."""
    count = length(batch)
    return {place: tensor for place, tensor in _tensors(batch) if not tensor.dim() or len(tensor) != count}


def _tensors(tree: Any, place: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    """Give the tensors of a batch, and where in its nest each stands."""
    if isinstance(tree, Tensor):
        yield place, tree
    elif isinstance(tree, Mapping) or (_is_nest(tree) and not isinstance(tree, Rows)):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _tensors(value, (*place, key))


def _sliced(tree: Any, part: slice, name: str, still: Mapping[Place, Tensor], place: Place = ()) -> Any:
    if tree is None:
        return None
    if place in still:
        return _same(still[place], tree, name, place)
    if isinstance(tree, Rows):
        return Rows(tree[part])
    if isinstance(tree, Mapping):
        return {key: _sliced(value, part, name, still, (*place, key)) for key, value in tree.items()}
    if _is_nest(tree):
        found = (_sliced(value, part, name, still, (*place, number)) for number, value in enumerate(tree))
        return (tuple if isinstance(tree, tuple) else list)(found)
    if isinstance(tree, (Tensor, list)):
        return tree[part]
    raise _uncut(tree, name)


def _joined(one: Any, other: Any, name: str, still: Mapping[Place, Tensor], place: Place = ()) -> Any:
    if one is None:
        return None
    if place in still:
        return _same(one, other, name, place)
    if isinstance(one, Rows):
        return Rows(one + other)
    if isinstance(one, Mapping):
        return {key: _joined(value, other[key], name, still, (*place, key)) for key, value in one.items()}
    if _is_nest(one):
        pairs = enumerate(zip(one, other, strict=True))
        found = (_joined(a, b, name, still, (*place, number)) for number, (a, b) in pairs)
        return (tuple if isinstance(one, tuple) else list)(found)
    if isinstance(one, Tensor):
        if one.shape[1:] != other.shape[1:]:
            raise DataError(
                f"{name}: inputs are of different shapes, {list(one.shape[1:])} and {list(other.shape[1:])}.\n"
                "  Give inputs of one shape"
            )
        return torch.cat([one, other])
    if isinstance(one, list):
        return one + other
    raise _uncut(one, name)


def _same(one: Tensor, other: Tensor, name: str, place: Place) -> Tensor:
    """Return what is of no batch, and so of all.

    Raises:
        DataError: another batch has another.
    """
    if one.shape != other.shape or not torch.allclose(one, other, rtol=0, atol=0, equal_nan=one.is_floating_point()):
        what = "targets" if place[0] else "inputs"
        raise DataError(
            f"{name}: batches are cut anew to the size that is asked for, and {what} of shape {list(other.shape)} are "
            "not one entry an input, nor the same in every batch.\n"
            "  Give one entry an input, first of all in the first tensor; what is for all inputs must be the same in "
            "all batches"
        )
    return one


def _is_nest(tree: Any) -> bool:
    """Tell a nest of batches from a list of one entry an input."""
    return isinstance(tree, tuple) or (isinstance(tree, list) and any(isinstance(value, Tensor) for value in tree))


def _uncut(tree: Any, name: str) -> DataError:
    return DataError(
        f"{name}: a batch holds {type(tree).__name__}, and batches are cut anew to the size that training asks for.\n"
        "  Give tensors, lists, tuples and dicts of them"
    )
