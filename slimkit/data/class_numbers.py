"""The class numbers of a PyTorch data set: those that it holds, else read item by item."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from slimkit.data.batch_split import whole
from slimkit.data.loader_split import Fetch, LoaderSplit
from slimkit.data.order import drawing
from slimkit.progress import Progress

_HELD = ("targets", "labels")  # as data sets of torchvision call them
_AT_ONCE = 64  # items
_FEW = 2048  # items, for which no processes are started


def class_numbers(source: Any, indices: Sequence[int], fetch: Fetch, name: str, progress: Progress) -> Tensor | None:
    """Return the target of each item, int64 [N]; None where targets are no class numbers.

    What a data set holds is believed where the first and the last item agree; else each item is read once, and random
    generators are left as found.

    Args:
        source: the data set; parts of one and several in a row are looked through.
        indices: of its items.
        fetch: reads one, by its place in `indices`.
        name: for the progress.
        progress: told how many are read.
    """
    count = len(indices)
    with drawing("class numbers"):
        ends = _numbers([fetch(place, None)[1] for place in (0, count - 1)]) if count else None
    if ends is None:
        return None
    found = _held(source)
    if found is not None and len(found) == len(source):
        chosen = found[torch.as_tensor(indices)]
        if torch.equal(chosen[[0, -1]], ends):
            return chosen
    split = LoaderSplit(fetch=fetch, count=count, collate=_targets, workers=0 if count <= _FEW else None)
    batches: list[Tensor] = []
    for targets, _ in split.batches(_AT_ONCE):
        progress(f"reading {name} to see its classes", _AT_ONCE * len(batches) / count)
        numbers = _numbers(targets)
        if numbers is None:
            return None
        batches.append(numbers)
    return torch.cat(batches)


def origins(source: Any) -> Iterator[Any]:
    """Give the data sets that one is a part of, or is made of; itself where it is neither."""
    if isinstance(source, Subset):
        yield from origins(source.dataset)
    elif isinstance(source, ConcatDataset):
        for one in source.datasets:
            yield from origins(one)
    else:
        yield source


def _held(source: Any) -> Tensor | None:
    """Return the class numbers that a data set holds beside its items, int64 [N]; None where it holds none."""
    if isinstance(source, Subset):
        of_whole = _held(source.dataset)
        return None if of_whole is None else of_whole[torch.as_tensor(list(source.indices), dtype=torch.int64)]
    if isinstance(source, ConcatDataset):
        parts = [part for part in map(_held, source.datasets) if part is not None]
        return torch.cat(parts) if len(parts) == len(source.datasets) else None
    if isinstance(source, TensorDataset):
        return _numbers(source.tensors[-1])
    return next((found for name in _HELD if (found := _numbers(getattr(source, name, None))) is not None), None)


def _targets(items: list[Any]) -> tuple[list[Any], None]:
    return [target for _, target in items], None


def _numbers(targets: Any) -> Tensor | None:
    """Return targets as int64 [N]; None where they are no whole numbers, one an item."""
    try:
        found = whole(torch.as_tensor(targets))
    except (TypeError, ValueError, RuntimeError):  # words, tensors of several numbers
        return None
    return found if found.dim() == 1 and not found.is_floating_point() else None
