"""Calibration inputs: checked, and cut into chunks of which some are held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimkit import out_of_memory
from slimkit.errors import DataError
from slimkit.example import Example, call, describe, tensors
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
            dimension 0. Any other batch stays whole, and counts as one image.
        name: what they are called in messages.
        model: that has to run on them.

    Raises:
        DataError: fewer than 8 images, all of them equal, or numbers that are not finite; the network does not run.
    """
    if isinstance(batches, Tensor):
        raise DataError(f"{name} is one tensor {list(batches.shape)}: it takes a list of batches.\n  Give [tensor]")
    batches = list(batches)
    images = sum(_images(batch) for batch in batches)
    if images < LEAST:
        raise DataError(f"{name} has {number_of(images, 'input')}: too few to reconstruct a network from.\n{_HOW}")
    found = [tensor for batch in batches for tensor in tensors(batch) if tensor.is_floating_point()]
    if not all(bool(tensor.isfinite().all()) for tensor in found):
        raise DataError(f"{name} holds numbers that are not finite.\n{_HOW}")
    if len(found) == len(batches) and all(_repeats(tensor, found[0]) for tensor in found):
        raise DataError(f"{name} holds {images} times the same input.\n{_HOW}")
    size = max(1, min(_CHUNK, images // 16))
    parts = [part for batch in batches for part in _split(batch, size)]
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


def _repeats(tensor: Tensor, first: Tensor) -> bool:
    return tensor.shape[1:] == first.shape[1:] and bool((tensor == first[:1]).all())


def _images(batch: Example) -> int:
    """Return the images of a batch; 1 where they do not lie along one dimension of all its tensors."""
    rows = {len(tensor) if tensor.dim() else 0 for tensor in _members(batch)}
    return rows.pop() if len(rows) == 1 else min(1, len(tensors(batch)))


def _members(batch: Example) -> list[Tensor]:
    """Return the tensors of a batch, none where it holds anything else."""
    values = [batch] if isinstance(batch, Tensor) else list(batch.values() if isinstance(batch, Mapping) else batch)
    return values if all(isinstance(value, Tensor) for value in values) else []


def _split(batch: Example, size: int) -> list[Example]:
    count = _images(batch)
    if count < 2:
        return [batch]
    parts = [slice(start, start + size) for start in range(0, count, size)]
    if isinstance(batch, Tensor):
        return [batch[part] for part in parts]
    if isinstance(batch, Mapping):
        return [{name: value[part] for name, value in batch.items()} for part in parts]
    return [tuple(value[part] for value in batch) for part in parts]
