"""CIFAR-10 and CIFAR-100, Krizhevsky 2009: 60,000 colour images of 32x32 pixels, in torchvision's layout."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimkit.data.augmentation import Augmentation
from slimkit.data.dataset import Dataset
from slimkit.data.tensor_split import held_out, in_memory
from slimkit.errors import DataError
from slimkit.pickled import machine, values

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_HOW = (
    "  Unpack the Python version of https://www.cs.toronto.edu/~kriz/cifar.html there, for example by\n"
    "  torchvision.datasets.{dataset}(DIR, download=True), and give `data_root=DIR`"
)


def cifar10(root: Path | None, seed: int) -> Dataset:
    """Open CIFAR-10 from `root`/cifar-10-batches-py."""
    files = ([f"data_batch_{number}" for number in range(1, 6)], ["test_batch"])
    return replace(_cifar("cifar10", root, "cifar-10-batches-py", files, "labels", 10, seed), class_names=_CIFAR10)


def cifar100(root: Path | None, seed: int) -> Dataset:
    """Open CIFAR-100 from `root`/cifar-100-python, with its 100 fine classes."""
    return _cifar("cifar100", root, "cifar-100-python", (["train"], ["test"]), "fine_labels", 100, seed)


def _cifar(
    name: str,
    root: Path | None,
    folder: str,
    files: tuple[list[str], list[str]],
    key: str,
    classes: int,
    seed: int,
) -> Dataset:
    how = _HOW.format(dataset=name.upper())
    if root is None:
        raise DataError(f"{name}: no folder was given to read it from.\n{how}")
    train, test = ([_read(root / folder / file, key, name, how) for file in part] for part in files)
    rest, validation = held_out(name, _join(train), seed)
    augmentation = Augmentation(pad=4, flip=True)
    return in_memory(name, rest, validation, _join(test), classes=classes, augmentation=augmentation)


def _join(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def _no_storage(identity: Any) -> Any:
    raise machine.Refused("a storage, which no CIFAR file has")


def _read(path: Path, key: str, name: str, how: str) -> tuple[Tensor, Tensor]:
    try:
        with path.open("rb") as file:
            batch = machine.run(file, values.value, _no_storage)
        images = torch.from_numpy(np.asarray(batch["data"].value, np.uint8).reshape(-1, 3, 32, 32).copy())
        labels = torch.tensor(batch[key], dtype=torch.int64)
    except FileNotFoundError:
        raise DataError(f"{name}: {path} is missing.\n{how}") from None
    except machine.Refused as error:
        raise DataError(f"{name}: {path} names {error}, which no CIFAR file does.\n{how}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{name}: {path} cannot be read: {error}.\n{how}") from error
    if len(images) != len(labels):
        raise DataError(f"{name}: {path} has {len(images)} images but {len(labels)} labels.\n{how}")
    return images, labels
