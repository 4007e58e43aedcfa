"""A folder of pictures, one sub-folder a class; with train/, val/ and test/ above them, or without."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slimkit.data.dataset import Dataset
from slimkit.data.loader_split import LoaderSplit
from slimkit.data.order import generator, split_indices
from slimkit.errors import DataError

# Of ImageNet, and so of most networks that are trained on colour pictures.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.449,), (0.226,)
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_HOW = "  Give a folder with a sub-folder of pictures for each class, or train/, val/ and test/ of such"

Picture = tuple[Path, int]


def folder(root: Path | None, seed: int, input_shape: tuple[int, int, int] = (3, 224, 224)) -> Dataset:
    """Open a folder of pictures, brought to `input_shape` (C, H, W), C = 1 or 3.

    Splits without a sub-folder of their own are drawn by chance: validation by `seed`, a tenth of training;
    test, a fifth of all and the same for every seed, unless there is a validation folder: then that is test.
    """
    assert root is not None
    if input_shape[0] not in (1, 3):
        raise DataError(
            f"folder:{root}: pictures have 1 or 3 channels, the network takes {input_shape[0]}.\n"
            "  Give the data by --data package.module:factory"
        )
    classes, parts = _parts(root, seed)
    mean, std = (MEAN, STD) if input_shape[0] == 3 else (GREY_MEAN, GREY_STD)
    splits = {
        part: LoaderSplit(fetch=Pictures(tuple(found), input_shape), count=len(found), mean=mean, std=std)
        for part, found in parts.items()
    }
    return Dataset(name=f"folder:{root}", classes=len(classes), input_shape=input_shape, mean=mean, std=std, **splits)


@dataclass(frozen=True)
class Pictures:
    """Reads pictures: centre crop of 7/8, or a random crop and mirror where a seed is given."""

    files: tuple[Picture, ...]
    shape: tuple[int, int, int]

    def __call__(self, index: int, seed: int | None) -> tuple[Tensor, int]:
        from PIL import Image

        path, label = self.files[index]
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB" if self.shape[0] == 3 else "L")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as a picture: {error}.\n  Mend or remove it") from error
        _, height, width = self.shape
        aspect = width / height
        box = _centre(picture.size, aspect) if seed is None else _random(picture.size, aspect, seed)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        raw = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        image = raw.view(height, width, self.shape[0]).permute(2, 0, 1).float() / 255
        flip = seed is not None and seed % 2 == 0
        return image.flip(2) if flip else image.contiguous(), label


def _centre(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """Return the centred box (left, top, right, bottom) of 7/8 of the largest that has this aspect."""
    height = min(size[1], size[0] / aspect) * 7 / 8
    width = height * aspect
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


def _random(size: tuple[int, int], aspect: float, seed: int) -> tuple[float, float, float, float]:
    """Return a random box of 0.25 to 1 of the largest area with this aspect, stretched by up to 4/3."""
    area, stretch, x, y = torch.rand(4, generator=generator("crop", seed)).tolist()
    largest = min(size[1], size[0] / aspect)
    scale = (0.25 + 0.75 * area) ** 0.5
    ratio = (3 / 4) ** (1 - 2 * stretch)
    width = min(size[0], largest * aspect * scale * ratio**0.5)
    height = min(size[1], largest * scale / ratio**0.5)
    left, top = x * (size[0] - width), y * (size[1] - height)
    return left, top, left + width, top + height


def _parts(root: Path, seed: int) -> tuple[list[str], dict[str, list[Picture]]]:
    if not root.is_dir():
        raise DataError(f"folder:{root} is not a folder.\n{_HOW}")
    found = {part: _sub_folder(root, names) for part, names in _NAMES.items()}
    training = found["train"] or root
    classes = _sub_folders(training)
    if len(classes) < 2:
        raise DataError(f"folder:{root}: {training} has {len(classes)} sub-folders, so no classes.\n{_HOW}")
    parts = {part: _pictures(path, classes) for part, path in found.items() if path is not None}
    parts.setdefault("train", _pictures(root, classes))
    if "test" not in parts:
        if "validation" in parts:
            parts["test"] = parts.pop("validation")
        else:
            parts["train"], parts["test"] = _divide(parts["train"], 0.2, "folder", "test")
    if "validation" not in parts:
        parts["train"], parts["validation"] = _divide(parts["train"], 0.1, "folder", "validation", seed)
    empty = [part for part, pictures in parts.items() if not pictures]
    if empty:
        raise DataError(f"folder:{root}: no pictures for {' and '.join(sorted(empty))}.\n{_HOW}")
    return classes, parts


def _sub_folders(folder: Path) -> list[str]:
    reserved = set().union(*_NAMES.values())
    names = (entry.name for entry in folder.iterdir() if entry.is_dir())
    return sorted(name for name in names if not name.startswith(".") and name not in reserved)


def _sub_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _pictures(folder: Path, classes: list[str]) -> list[Picture]:
    strange = sorted(set(_sub_folders(folder)) - set(classes))
    if strange:
        raise DataError(f"{folder} has the class {strange[0]!r}, which training has not.\n{_HOW}")
    return [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]


def _divide(pictures: list[Picture], share: float, *parts: object) -> tuple[list[Picture], list[Picture]]:
    rest, taken = split_indices(len(pictures), share, *parts)
    return [pictures[i] for i in rest.tolist()], [pictures[i] for i in taken.tolist()]
