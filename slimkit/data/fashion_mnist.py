"""Fashion-MNIST, Xiao et al. 2017, arXiv:1708.07747: 70,000 grey images of 28x28 pixels, as IDX files."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slimkit.data.augmentation import Augmentation
from slimkit.data.dataset import Dataset
from slimkit.data.tensor_split import held_out, in_memory
from slimkit.errors import DataError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_FOLDERS = ("FashionMNIST/raw", "fashion-mnist", ".")  # torchvision's, Debian's, the files themselves
_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_HOW = (
    "  Install Debian's package dataset-fashion-mnist, or give `data_root=DIR` with the four files\n"
    "  (train|t10k)-(images-idx3|labels-idx1)-ubyte[.gz] in it or in DIR/FashionMNIST/raw"
)


def fashion_mnist(root: Path | None, seed: int) -> Dataset:
    """Open Fashion-MNIST from `root`, or from where Debian's package has put it."""
    folder = _folder(root)
    train, test = (_labelled(folder, part) for part in ("train", "t10k"))
    for images, labels in (train, test):
        if len(images) != len(labels) or images.shape[2:] != (28, 28):
            found = f"{list(images.shape)} pixels and {len(labels)} labels"
            raise DataError(f"fashion-mnist: {folder} has {found}, which do not go together.\n{_HOW}")
    train, validation = held_out("fashion-mnist", train, seed)
    augmentation = Augmentation(pad=2, flip=True)
    return in_memory(
        "fashion-mnist", train, validation, test, classes=10, augmentation=augmentation, class_names=_CLASSES
    )


_LARGEST = 60_000 * 28 * 28 + 16  # bytes of a file of the set, unpacked


def _folder(root: Path | None) -> Path:
    places = [DEBIAN] if root is None else [root / folder for folder in _FOLDERS]
    for place in places:
        if any((place / f"train-images-idx3-ubyte{suffix}").exists() for suffix in ("", ".gz")):
            return place
    raise DataError(f"fashion-mnist: no files in {', '.join(str(p) for p in places)}.\n{_HOW}")


def _labelled(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images = _read(folder, f"{part}-images-idx3-ubyte")
    return images.unsqueeze(1), _read(folder, f"{part}-labels-idx1-ubyte").long()


def _read(folder: Path, name: str) -> Tensor:
    """Read an IDX file of bytes: two zeros, type 8, number of dimensions, sizes, data."""
    path = folder / f"{name}.gz"
    path = path if path.exists() else folder / name
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise ValueError("it is too large")
        dimensions = raw[3] if raw[:3] == b"\0\0\x08" else 0
        shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
        data = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
    except FileNotFoundError:
        raise DataError(f"fashion-mnist: {path} is missing.\n{_HOW}") from None
    except (OSError, EOFError, IndexError, struct.error, ValueError, zlib.error) as error:
        raise DataError(f"fashion-mnist: {path} cannot be read: {error}.\n{_HOW}") from error
    if not dimensions or data.size != math.prod(shape):
        raise DataError(f"fashion-mnist: {path} is truncated, or no IDX file of bytes.\n{_HOW}")
    return torch.from_numpy(data.reshape(shape).copy())
