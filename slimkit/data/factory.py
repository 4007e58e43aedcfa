"""Data of the user's own, from `package.module:factory`."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimkit.data.augmentation import Augmentation
from slimkit.data.dataset import Dataset
from slimkit.data.loader_split import LoaderSplit
from slimkit.data.order import split_indices
from slimkit.data.tensor_split import in_memory
from slimkit.errors import DataError

_HOW = (
    "  It must return a slimkit.data.Dataset, or a dict of 'train', 'test' and, if you like, 'validation',\n"
    "  each (images uint8 [N, C, H, W], labels [N]) or a PyTorch data set of (image float [C, H, W], label)"
)


def from_factory(name: str, seed: int) -> Dataset:
    """Call `package.module:factory` without arguments and make a data set of what it returns."""
    module, _, attribute = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise DataError(f"--data {name}: {error}.\n  Give one that can be imported") from error
    if isinstance(made, Dataset):
        return made
    if not isinstance(made, Mapping) or not {"train", "test"} <= set(made):
        raise DataError(f"--data {name}: the factory returned {type(made).__name__}.\n{_HOW}")
    if all(isinstance(part, tuple) for part in made.values()):
        return _from_tensors(name, made, seed)
    return _from_map_style(name, made, seed)


@dataclass(frozen=True)
class Items:
    """Reads the items of a map-style PyTorch data set; their own transforms see to augmentation."""

    source: Any
    indices: tuple[int, ...]

    def __call__(self, index: int, seed: int | None) -> tuple[Tensor, int]:
        image, label = self.source[self.indices[index]]
        return torch.as_tensor(image, dtype=torch.float32), int(label)


def _from_tensors(name: str, made: Mapping[str, tuple[Tensor, Tensor]], seed: int) -> Dataset:
    for part, (images, labels) in made.items():
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(labels):
            given = f"{images.dtype} {list(images.shape)} and {list(labels.shape)}"
            raise DataError(f"--data {name}: {part} is {given}.\n{_HOW}")
    classes = 1 + max(int(labels.max()) for _, labels in made.values())
    whole = {part: (images, labels.long()) for part, (images, labels) in made.items()}
    return in_memory(
        name,
        whole["train"],
        whole["test"],
        whole.get("validation"),
        classes=classes,
        seed=seed,
        augmentation=Augmentation(),
    )


def _from_map_style(name: str, made: Mapping[str, Any], seed: int) -> Dataset:
    try:
        first, _ = made["train"][0]
        shape = tuple(torch.as_tensor(first).shape)
        counts = {part: len(made[part]) for part in made}
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(f"--data {name}: its first item cannot be used: {error}.\n{_HOW}") from error
    if len(shape) != 3:
        raise DataError(f"--data {name}: an image has shape {list(shape)}, not [C, H, W].\n{_HOW}")
    ranges = {part: range(count) for part, count in counts.items()}
    indices: dict[str, tuple[int, ...]] = {part: tuple(r) for part, r in ranges.items()}
    if "validation" not in made:
        rest, taken = split_indices(counts["train"], 0.1, name, "validation", seed)
        indices["train"], indices["validation"] = tuple(rest.tolist()), tuple(taken.tolist())
    mean, std = (0.0,) * shape[0], (1.0,) * shape[0]
    splits = {
        part: LoaderSplit(fetch=Items(made.get(part, made["train"]), chosen), count=len(chosen), mean=mean, std=std)
        for part, chosen in indices.items()
    }
    classes = 1 + max(int(made["train"][i][1]) for i in range(counts["train"]))
    return Dataset(
        name=name,
        classes=classes,
        input_shape=(shape[0], shape[1], shape[2]),
        mean=mean,
        std=std,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
    )
