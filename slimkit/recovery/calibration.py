"""Calibration inputs: checked, and cut into chunks of which some are held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimkit import out_of_memory
from slimkit.errors import DataError
from slimkit.example import Example, call, describe, mapped, tensors
from slimkit.modules import private
from slimkit.quantity import number_of

LEAST = 8  # images
_CHUNK = 32  # images at most
_HOLD = 4  # one chunk in so many is held out
_HOW = "  Give at least 8 different inputs as the network expects them, better some hundreds"


@dataclass(frozen=True)
class Chunk:
    """Some calibration inputs; `held`: to choose and check by, not to fit."""

    example: Example
    held: bool


def chunks(batches: Iterable[Example], name: str = "batches", model: nn.Module | None = None) -> list[Chunk]:
    """Cut batches into chunks: a quarter of them held out, spread evenly.

    Args:
        batches: what the network is called with: tensors, or tuples or dicts of tensors, with the images along
            dimension 0; a tensor of another length that is the same in all batches belongs to every image. Any other
            batch stays whole, and counts as one image.
        name: what they are called in messages.
        model: that has to run on them.

    Raises:
        DataError: fewer than 8 images, all of them equal, or numbers that are not finite; the network does not run.
    """
    if isinstance(batches, Tensor):
        raise DataError(f"{name} is one tensor {list(batches.shape)}: it takes a list of batches.\n  Give [tensor]")
    if not isinstance(batches, Sequence):  # a loader may write each into the same memory
        batches = [mapped(batch, Tensor.clone) for batch in batches]
    shared = _shared(batches)
    images = sum(_images(batch, shared) for batch in batches)
    if images < LEAST:
        raise DataError(f"{name} has {number_of(images, 'input')}: too few to reconstruct a network from.\n{_HOW}")
    found = [tensor for batch in batches for tensor in tensors(batch) if tensor.is_floating_point()]
    if not all(bool(tensor.isfinite().all()) for tensor in found):
        raise DataError(f"{name} holds numbers that are not finite.\n  Mend these inputs, or leave them out")
    if len(found) == len(batches) and all(_repeats(tensor, found[0]) for tensor in found):
        raise DataError(f"{name} holds {images} times the same input.\n{_HOW}")
    size = max(1, min(_CHUNK, images // 16))
    parts = [part for batch in batches for part in _split(batch, size, shared)]
    if model is not None:
        try:
            with torch.no_grad():
                call(private(model), parts[0])
        except Exception as error:  # whatever it raises
            out_of_memory.pass_on(error)
            lines = str(error).splitlines() or [type(error).__name__]
            raise DataError(
                f"{name}: the network does not run on inputs {describe(parts[0])}: {lines[0]}.\n"
                "  Give what it is called with, without labels: [images for images, labels in loader]"
            ) from error
    return [Chunk(part, number % _HOLD == _HOLD - 1) for number, part in enumerate(parts)]


def some(batches: Sequence[Example], most: int) -> Sequence[Example]:
    """Return batches of at most so many images, evenly spaced over all; the batches themselves have no more.

    Images that resemble each other may lie one after the other: there are some of all of them.
    """
    shared = _shared(batches)
    counts = [_images(batch, shared) for batch in batches]
    if sum(counts) <= most:
        return batches
    wanted = torch.arange(most) * sum(counts) // most
    found, begin = [], 0
    for batch, count in zip(batches, counts, strict=True):
        own = wanted[(wanted >= begin) & (wanted < begin + count)] - begin
        if len(own):
            found.append(batch if count < 2 else _taken(batch, own, shared))
        begin += count
    return found


def _repeats(tensor: Tensor, first: Tensor) -> bool:
    return tensor.shape[1:] == first.shape[1:] and bool((tensor == first[:1]).all())


def _shared(batches: Sequence[Example]) -> set[int]:
    """Return the places of tensors that all images share: of another length than the first, the same in all batches.

    No whole numbers: these may say where each image of a batch begins.
    """
    members = [_members(batch) for batch in batches]
    if not members or not members[0] or any(len(one) != len(members[0]) for one in members):
        return set()
    return {
        place
        for place, tensors in enumerate(zip(*members, strict=True))
        if tensors[0].shape[:1] != members[0][0].shape[:1]
        and tensors[0].is_floating_point()
        and all(torch.equal(tensors[0], one) for one in tensors)
    }


def _images(batch: Example, shared: set[int]) -> int:
    """Return the images of a batch; 1 where they do not lie along one dimension of all its tensors."""
    members = [tensor for place, tensor in enumerate(_members(batch)) if place not in shared]
    rows = {len(tensor) if tensor.dim() else 0 for tensor in members}
    return rows.pop() if len(rows) == 1 else min(1, len(tensors(batch)))


def _members(batch: Example) -> list[Tensor]:
    """Return the tensors of a batch, none where it holds anything else."""
    values = [batch] if isinstance(batch, Tensor) else list(batch.values() if isinstance(batch, Mapping) else batch)
    return values if all(isinstance(value, Tensor) for value in values) else []


def _split(batch: Example, size: int, shared: set[int]) -> list[Example]:
    count = _images(batch, shared)
    if count < 2:
        return [batch]
    return [_taken(batch, slice(start, start + size), shared) for start in range(0, count, size)]


def _taken(batch: Example, images: slice | Tensor, shared: set[int]) -> Example:
    """Return some images of a batch, and what they share."""
    if isinstance(batch, Tensor):
        return batch[images]
    taken = [value if place in shared else value[images] for place, value in enumerate(_members(batch))]
    return dict(zip(batch, taken, strict=True)) if isinstance(batch, Mapping) else tuple(taken)
