"""A data set of whatever somebody has: a name, loaders, PyTorch data sets, tensors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as MapDataset
from torch.utils.data import IterableDataset

from slimkit.data.augmentation import Augmentation
from slimkit.data.batch_split import BatchSplit, counted, listed, pair, single, whole
from slimkit.data.class_numbers import class_numbers, origins
from slimkit.data.dataset import Dataset, Split, statistics
from slimkit.data.loader_split import LoaderSplit
from slimkit.data.nested import nested
from slimkit.data.order import split_indices
from slimkit.data.tensor_split import TensorSplit
from slimkit.errors import DataError
from slimkit.example import first
from slimkit.progress import Progress, quiet
from slimkit.tasks import CLASSIFICATION, DETECTION, SEGMENTATION, Task
from slimkit.tasks.segmentation import sizes_apart

_HOW = (
    "  Give a name such as 'digits', a slimkit.data.Dataset, or (train, validation), each a loader of\n"
    "  (inputs, targets) batches, a PyTorch data set of (input, target), or tensors (inputs, targets)"
)
_PARTS = ("train", "validation", "test")


def dataset_of(
    anything: Any,
    *,
    task: Task | None = None,
    usual: Task | None = None,
    seed: int = 0,
    name: str = "dataset",
    given: str = "dataset",
    progress: Progress = quiet,
) -> Dataset:
    """Make a data set of what somebody has.

    Args:
        anything: a `Dataset`; (train, validation) or (train, validation, test); or a dict of these. Each part is
            a loader (any iterable, which begins anew each time, of batches (inputs, targets)), a PyTorch data set
            of (input, target), tensors or arrays (inputs, targets), or a `Split`. Images uint8 [N, C, H, W] are
            normalised by the statistics of the training images; everything else is given as it is.
            In a dict `validation` may be missing, where the training inputs can be parted: then it is a tenth of
            them, drawn by `seed`. Without `test`, the validation inputs stand for it, and `notes` says so.
        task: what the targets are for, also those of a `Dataset`, which has a task of its own.
        usual: what they are for where neither `task` nor a `Dataset` says it; classification unless given.
        seed: draws the validation split.
        name: of the data set.
        given: how messages name what was given.
        progress: told how many inputs of a loader have been counted that does not say how many it has, and how many
            items were read of a data set that does not hold its targets.

    Raises:
        DataError: it is nothing of this; a part is empty, can be gone through only once, does not end, or gives no
            pairs.
    """
    if isinstance(anything, Dataset):
        return anything if task is None else replace(anything, task=task)
    parts = {part: _tensors(value) for part, value in _parts(anything, given).items()}
    task = task or usual or CLASSIFICATION
    if "validation" not in parts:
        parts["train"], parts["validation"] = _parted(parts["train"], f"{given}: train", name, seed)
    largest = _largest(parts, given, progress) if task is CLASSIFICATION else None
    notes: tuple[str, ...] = ()
    if "test" not in parts:
        parts["test"] = parts["validation"]
        notes = ("no test split was given: test figures are those of the validation split",)
    stated = None if largest is None else _stated(parts, largest)
    classes = None if largest is None else stated or largest + 1
    mean, std = _statistics(parts["train"])
    splits = {part: _split(value, f"{given}: {part}", task, mean, std, progress) for part, value in parts.items()}
    return Dataset(
        name=name,
        task=task,
        classes=classes,
        inferred=classes is not None and stated is None,
        input_shape=_shape(splits["train"], f"{given}: train"),
        mean=mean,
        std=std,
        notes=notes,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        tested_apart=parts["test"] is not parts["validation"],
    )


@dataclass(frozen=True)
class Items:
    """Reads the items of a map-style PyTorch data set; their own transforms see to augmentation."""

    source: Any
    indices: range | tuple[int, ...]
    name: str

    def __len__(self) -> int:
        return len(self.indices)

    def __call__(self, index: int, seed: int | None) -> tuple[Any, Any]:
        inputs, target = pair(self.source[self.indices[index]], self.name)
        if first(inputs) is None:
            raise DataError(
                f"{self.name}: an item's input is {type(inputs).__name__}, not a tensor.\n"
                "  Give the data set a transform that ends in a tensor, as torchvision's ToTensor"
            )
        return inputs, target


def _parts(anything: Any, given: str) -> dict[str, Any]:
    if isinstance(anything, Mapping) and {"train"} <= set(anything) <= set(_PARTS):
        found = dict(anything)
        if len(found) == 1:
            raise DataError(f"{given}: it holds train alone; there is nothing to measure on.\n{_HOW}")
        return found
    is_pair = isinstance(anything, (tuple, list)) and len(anything) in (2, 3)
    if is_pair and not any(isinstance(part, Tensor) for part in anything):
        return dict(zip(_PARTS, anything, strict=False))
    if is_pair:
        raise DataError(f"{given}: tensors alone do not say what is for training and what to measure on.\n{_HOW}")
    kind = type(anything).__name__
    if isinstance(anything, (MapDataset, Iterable)) and not isinstance(anything, (str, bytes, Mapping, Tensor)):
        raise DataError(f"{given}: it is one {kind}; there is nothing to measure on but what it trains on.\n{_HOW}")
    if isinstance(anything, Mapping):
        kind = f"a dict of {', '.join(map(repr, anything)) or 'nothing'}"
    raise DataError(f"{given}: it is {kind}.\n{_HOW}")


def _tensors(part: Any) -> Any:
    """Return a pair of arrays as tensors."""
    arrays = isinstance(part, (tuple, list)) and len(part) == 2 and all(isinstance(a, np.ndarray) for a in part)
    return tuple(map(torch.as_tensor, part)) if arrays else nested(part)


def _is_tensors(part: Any) -> bool:
    return isinstance(part, (tuple, list)) and len(part) == 2 and all(isinstance(t, Tensor) for t in part)


def _is_items(part: Any) -> bool:
    return isinstance(part, MapDataset) and not isinstance(part, IterableDataset) and hasattr(part, "__len__")


def _parted(train: Any, given: str, name: str, seed: int) -> tuple[Any, Any]:
    """Draw a tenth of the training inputs for validation."""
    if _is_tensors(train):
        inputs, targets = train
        rest, taken = split_indices(len(inputs), 0.1, name, "validation", seed)
        return (inputs[rest], targets[rest]), (inputs[taken], targets[taken])
    if _is_items(train):
        rest, taken = split_indices(len(train), 0.1, name, "validation", seed)
        return Items(train, tuple(rest.tolist()), given), Items(train, tuple(taken.tolist()), given)
    raise DataError(f"{given}: a loader cannot be parted, and no validation was given.\n  Give validation too")


def _statistics(train: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if _is_tensors(train) and train[0].dtype == torch.uint8 and train[0].dim() == 4 and len(train[0]):
        return statistics(train[0])
    return (), ()


def _split(
    part: Any, given: str, task: Task, mean: tuple[float, ...], std: tuple[float, ...], progress: Progress
) -> Split:
    split = _unchecked(part, given, task, mean, std, progress)
    if not len(split):
        raise DataError(f"{given}: it is empty.\n  Give one with inputs in it")
    inputs, targets = next(iter(split.batches(1)))
    if first(inputs) is None:
        raise DataError(f"{given}: the inputs of a batch are {type(inputs).__name__}, not tensors.\n{_HOW}")
    if targets is None:
        raise DataError(f"{given}: its batches have no targets.\n  Give inputs without targets as calibration")
    check_masks(task, inputs, targets, given)
    return split


def check_masks(task: Task, inputs: Any, targets: Any, given: str) -> None:
    """Refuse masks of another size than their images: enlarged, they would be others.

    Raises:
        DataError: they are.
    """
    if task.misfit is SEGMENTATION.misfit and (why := sizes_apart(inputs, targets)):
        raise DataError(f"{given}: {why}.\n  Give masks of the size of their images, a class number a pixel")


def _unchecked(
    part: Any, given: str, task: Task, mean: tuple[float, ...], std: tuple[float, ...], progress: Progress
) -> Split:
    if _is_tensors(part):
        inputs, targets = single(part[0]), whole(part[1])
        if len(inputs) != len(targets):
            raise DataError(f"{given}: {len(inputs)} inputs, but {len(targets)} targets.\n  Give as many of both")
        if bool(mean) != (inputs.dtype == torch.uint8 and inputs.dim() == 4):
            raise DataError(
                f"{given}: inputs are {str(inputs.dtype).removeprefix('torch.')} {list(inputs.shape)}, "
                "those of another part are not of this kind.\n"
                "  Give all images as uint8 [N, C, H, W], or all inputs as floats"
            )
        return TensorSplit(images=inputs, labels=targets, mean=mean, std=std, augmentation=Augmentation())
    if _is_items(part):
        part = Items(part, range(len(part)), given)
    if isinstance(part, Items):
        return LoaderSplit(fetch=part, count=len(part), collate=task.collate)
    if hasattr(part, "batches") and hasattr(part, "__len__"):
        split: Split = part
        return split
    if isinstance(part, Iterable) and not isinstance(part, (str, bytes, Mapping, Tensor)):
        if task.collate is DETECTION.collate:
            return BatchSplit(part, given, counted(part, given, listed, progress), listed)
        return BatchSplit(part, given, counted(part, given, pair, progress))
    raise DataError(f"{given}: it is {type(part).__name__}.\n{_HOW}")


def _shape(train: Split, given: str) -> tuple[int, ...]:
    inputs, _ = next(iter(train.batches(1)))
    found = first(inputs)
    assert found is not None
    return tuple(found.shape if isinstance(inputs, list) else found.shape[1:])


def _stated(parts: Mapping[str, Any], largest: int) -> int | None:
    """Return the number of classes that a PyTorch data set names, as those of torchvision do in `classes`."""
    sources = [part.source if isinstance(part, Items) else part for part in parts.values()]
    for named in (getattr(origin, "classes", None) for source in sources for origin in origins(source)):
        if isinstance(named, (list, tuple)) and all(isinstance(name, str) for name in named) and len(named) > largest:
            return len(named)
    return None


def _largest(parts: Mapping[str, Any], given: str, progress: Progress) -> int | None:
    """Return the largest class number; None where targets are no class numbers, and of loaders.

    Raises:
        DataError: one is below 0.
    """
    largest = 0
    for name, part in parts.items():
        if _is_items(part):
            part = Items(part, range(len(part)), f"{given}: {name}")
        if isinstance(part, Items):
            targets = class_numbers(part.source, part.indices, part, part.name, progress)
        elif _is_tensors(part):
            targets = whole(part[1])
        else:
            return None
        if targets is None or targets.is_floating_point() or targets.dim() != 1 or not len(targets):
            return None
        if (least := int(targets.min())) < 0:
            raise DataError(
                f"{given}: {name}: class number {least} is below 0, and no class.\n"
                "  Number classes from 0, and leave out inputs that are of none"
            )
        largest = max(largest, int(targets.max()))
    return largest
