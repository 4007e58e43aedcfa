"""Inputs without targets: what recovery without labels is calibrated on."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as MapDataset
from torch.utils.data import default_collate

from slimkit.data.batch_split import BatchSplit, counted, inputs_alone, single
from slimkit.data.dataset import Dataset, Split
from slimkit.data.loader_split import Fetch, LoaderSplit
from slimkit.data.order import drawing, even, split_indices
from slimkit.data.tensor_split import TensorSplit
from slimkit.errors import DataError
from slimkit.example import Example, first, tensors
from slimkit.progress import Progress, quiet
from slimkit.tasks.task import arguments

_HOW = (
    "  Give 'folder:PATH' with pictures in it, a tensor of inputs [N, ...], a data set, or a loader of batches:\n"
    "  tensors, or tuples whose first entry is what the network takes"
)

_READ = 1024  # inputs of a data set that are read to see which are the same: about as many as will be fitted to


@dataclass(frozen=True)
class Inputs:
    """Inputs of a network, which can be gone through again and again.

    Attributes:
        split: gives them, with None as targets; a network can be trained on it that has a teacher.
        name: for messages and the report.
        notes: what was assumed or left out, for the user to read.
        alone: nothing stood beside the inputs where they came from, that was left aside as targets are.
    """

    split: Split
    name: str = "calibration"
    notes: tuple[str, ...] = ()
    alone: bool = True

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self.split)

    def batches(self, batch_size: int, at_most: int | None = None, seed: int | None = 0) -> Iterator[Example]:
        """Give batches, the same ones each time: a tensor [B, ...], a tuple of such, or a dict of such.

        Args:
            batch_size: B at the most; the last batch may be short.
            at_most: number of inputs after which to stop; None: all of them.
            seed: shuffles, so that the first ones are of all kinds; None: stored order. A shuffled split has whole
                batches alone, so B is the size that leaves out the fewest.
        """
        left = len(self) if at_most is None else min(at_most, len(self))
        size = min(batch_size, max(1, left))
        if seed is not None and left == len(self):
            size = even(left, size)
        for inputs, _ in self.split.batches(size, seed=seed):
            yield inputs
            tensor = first(inputs)
            left -= 0 if tensor is None else len(tensor)
            if left <= 0:
                return


@dataclass(frozen=True)
class Unlabelled:
    """A split without its targets."""

    split: Split

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int, **how: Any) -> Iterator[tuple[Any, None]]:
        """Give batches as `Split.batches` says, their targets None."""
        for inputs, _ in self.split.batches(batch_size, **how):
            yield inputs, None

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> "Unlabelled":
        """Return the same images with another normalisation."""
        return Unlabelled(self.split.normalised(mean, std))


def inputs_of(anything: Any, *, name: str = "calibration", progress: Progress = quiet) -> Inputs:
    """Make inputs of what somebody has.

    Args:
        anything: `Inputs`; a `Dataset` (its training inputs); a `Split`; a tensor or array [N, ...]; a PyTorch data
            set; any iterable of batches that begins anew each time. A batch is a tensor, a dict, or a tuple or list
            whose first entry is what the network takes; what follows is left aside, as targets are.
        name: for messages.
        progress: told how many inputs of a loader have been counted that does not say how many it has.

    Raises:
        DataError: it is nothing of this, is empty, can be gone through only once, or does not end.
    """
    if isinstance(anything, Inputs):
        return anything
    if isinstance(anything, Dataset):
        return Inputs(Unlabelled(anything.train), anything.name, anything.notes)
    split = Unlabelled(_split(anything, name, progress))
    if not len(split):
        raise DataError(f"{name}: it is empty.\n  Give one with inputs in it")
    inputs, _ = next(iter(split.batches(1)))
    if first(inputs) is None:
        raise DataError(f"{name}: a batch is {type(inputs).__name__}, without a tensor.\n{_HOW}")
    return Inputs(split, name, alone=not _beside(anything))


def as_images(inputs: Inputs, mean: Sequence[float], std: Sequence[float]) -> Inputs:
    """Return images uint8 [N, C, H, W] that are in memory as they are normalised, by channel; others as they are."""
    split = inputs.split.split if isinstance(inputs.split, Unlabelled) else None
    if not isinstance(split, TensorSplit) or split.mean or split.images.dtype != torch.uint8:
        return inputs
    if split.images.dim() != 4 or split.images.shape[1] != len(mean):
        return inputs
    return replace(inputs, split=Unlabelled(replace(split, mean=tuple(mean), std=tuple(std))))


def _beside(anything: Any) -> bool:
    """Tell whether the first batch, or input, of somebody's own has more than one entry."""
    if isinstance(anything, (Tensor, np.ndarray)) or hasattr(anything, "batches"):
        return False
    with drawing("look"):
        given = anything[0] if isinstance(anything, MapDataset) else next(iter(anything))
    return isinstance(given, (tuple, list)) and len(given) > 1


def parted(inputs: Inputs, share: float, seed: int) -> tuple[Inputs, Inputs] | None:
    """Part inputs at random into the rest and a share of them; None where they come in somebody else's batches."""
    split = inputs.split.split if isinstance(inputs.split, Unlabelled) else inputs.split
    if not isinstance(split, (TensorSplit, LoaderSplit)):
        return None
    rest, taken = split_indices(len(split), share, "calibration", seed)
    return chosen(inputs, rest), chosen(inputs, taken)


def different(inputs: Inputs) -> Inputs:
    """Return inputs without those that were there before, byte by byte; the name says how many are left.

    Those of a loader, of a folder of pictures, and more than 1,024 of a data set stay as they are: to tell, all would
    have to be read, where some hundreds are fitted to.
    """
    split = inputs.split.split if isinstance(inputs.split, Unlabelled) else inputs.split
    if not isinstance(split, (TensorSplit, LoaderSplit)):
        return inputs
    if isinstance(split, LoaderSplit) and not (isinstance(split.fetch, _InputAlone) and len(split) <= _READ):
        return inputs
    seen: dict[bytes, int] = {}
    for number, (one, _) in enumerate(split.batches(1)):
        digest = hashlib.blake2b(digest_size=16)
        for tensor in tensors(one):
            digest.update(str(tensor.shape).encode())
            digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
        seen.setdefault(digest.digest(), number)
    if len(seen) in (1, len(split)):  # one is refused later, by saying what it is
        return inputs
    name = f"{inputs.name} ({len(seen):,} different of {len(split):,})"
    return replace(chosen(inputs, torch.tensor(list(seen.values()))), name=name)


def chosen(inputs: Inputs, indices: Tensor) -> Inputs:
    """Return some of the inputs of which `parted` makes two parts, int64 [n], in this order."""
    split = inputs.split.split if isinstance(inputs.split, Unlabelled) else inputs.split
    if isinstance(split, TensorSplit):
        images, labels = (tensor[indices.to(tensor.device)] for tensor in (split.images, split.labels))
        return replace(inputs, split=Unlabelled(replace(split, images=images, labels=labels)))
    assert isinstance(split, LoaderSplit)
    fetch = _Chosen(split.fetch, tuple(indices.tolist()))
    return replace(inputs, split=Unlabelled(replace(split, fetch=fetch, count=len(indices))))


@dataclass(frozen=True)
class _Chosen:
    """Some of what `fetch` reads."""

    fetch: Fetch
    indices: tuple[int, ...]

    def __call__(self, index: int, seed: int | None) -> tuple[Any, Any]:
        return self.fetch(self.indices[index], seed)


def _split(anything: Any, name: str, progress: Progress) -> Split:
    if isinstance(anything, np.ndarray):
        anything = torch.from_numpy(anything)
    if isinstance(anything, Tensor):
        if anything.dim() < 2:
            raise DataError(f"{name}: a tensor {list(anything.shape)} holds no inputs [N, ...].\n{_HOW}")
        return TensorSplit(images=single(anything), labels=torch.zeros(len(anything)))
    if hasattr(anything, "batches") and hasattr(anything, "__len__"):
        split: Split = anything
        return split
    if isinstance(anything, MapDataset) and hasattr(anything, "__len__"):
        return LoaderSplit(fetch=_InputAlone(anything, name), count=len(anything), collate=stacked)
    if isinstance(anything, Iterable) and not isinstance(anything, (str, bytes, Mapping)):
        return BatchSplit(anything, name, counted(anything, name, progress=progress), inputs_alone)
    raise DataError(f"{name}: it is {type(anything).__name__}.\n{_HOW}")


def stacked(items: list[Any]) -> tuple[Any, None]:
    """Make a batch of items (input, None)."""
    return arguments(default_collate([inputs for inputs, _ in items])), None


@dataclass(frozen=True)
class _InputAlone:
    source: Any
    name: str

    def __call__(self, index: int, seed: int | None) -> tuple[Any, None]:
        return inputs_alone(self.source[index], self.name)
