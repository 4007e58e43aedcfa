"""A folder of pictures, one sub-folder a class; with train/, val/ and test/ above them, or without."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from slimkit.data.dataset import Dataset
from slimkit.data.listing import pictures, problem, readable, split_folders, sub_folders, trained_too
from slimkit.data.loader_split import LoaderSplit
from slimkit.data.order import split_indices
from slimkit.data.pictures import Reading, View, as_tensor, view
from slimkit.errors import DataError
from slimkit.provenance import UNKNOWN, Provenance
from slimkit.quantity import number_of

_HOW = "  Give a folder with a sub-folder of pictures for each class, or train/, val/ and test/ of such"

LabelledFile = tuple[Path, int]
Item = TypeVar("Item")


def folder(
    root: Path,
    seed: int,
    reading: Reading | None = None,
    own: Provenance = UNKNOWN,
) -> Dataset:
    """Open a folder of pictures in classes.

    Sub-folders train, val and test are taken as they are. Without any, test is a fifth of all pictures, the same for
    every seed, and validation a tenth of the rest, drawn by `seed`; without val, validation is a tenth of training;
    without test, val stands for it.

    Args:
        root: the folder.
        seed: draws the validation split.
        reading: how pictures are read.
        own: what is known of the network.

    Raises:
        DataError: no classes, a class without pictures, more files than allowed that cannot be read.
    """
    reading = reading or Reading()
    given = f"folder:{root}"
    seen, notes = view(reading, own)
    classes, parts, said = _listed(root, given)
    parts, left_out = _checked(parts, given, reading.allow_bad)
    parts, drawn = arranged(parts, lambda entry: entry[0], seed, given)
    splits = {
        part: LoaderSplit(fetch=Pictures(tuple(found), seen), count=len(found), mean=seen.mean, std=seen.std)
        for part, found in parts.items()
    }
    return Dataset(
        name=given,
        classes=len(classes),
        class_names=tuple(classes),
        input_shape=seen.shape,
        mean=seen.mean,
        std=seen.std,
        resize=seen.resize,
        crop=seen.cropped,
        notes=(*notes, *said, *left_out, *drawn),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        tested_apart=parts["test"] is not parts["validation"],
    )


@dataclass(frozen=True)
class Pictures:
    """Reads pictures, each with its class number."""

    files: tuple[LabelledFile, ...]
    view: View

    def __call__(self, index: int, seed: int | None) -> tuple[Tensor, int]:
        path, label = self.files[index]
        picture = self.view.open(path)
        image, _ = self.view.whole(picture) if seed is None else self.view.varied(seed, picture)
        return as_tensor(image), label


def arranged(
    parts: dict[str, list[Item]], path_of: Callable[[Item], Path], seed: int, given: str
) -> tuple[dict[str, list[Item]], tuple[str, ...]]:
    """Complete the splits of a folder, where it has not all three; say what was done, and which overlap."""
    said = trained_too({part: [path_of(entry) for entry in entries] for part, entries in parts.items()})
    parts = dict(parts)
    if set(parts) == {"train"}:
        parts["train"], parts["test"] = _divide(parts["train"], 0.2, "folder", "test")
    if "validation" not in parts:
        parts["train"], parts["validation"] = _divide(parts["train"], 0.1, "folder", "validation", seed)
    empty = [part for part, entries in parts.items() if not entries]
    if empty:
        raise DataError(f"{given}: no pictures are left for {' and '.join(empty)}.\n  Add some")
    if "test" in parts:
        return parts, said
    return {**parts, "test": parts["validation"]}, (*said, "there is no test/ folder: test figures are those of val/")


def _listed(root: Path, given: str) -> tuple[list[str], dict[str, list[LabelledFile]], tuple[str, ...]]:
    """Return the classes, the files of each split, and what was assumed of the folders."""
    if not root.is_dir():
        raise DataError(f"{given} is not a folder.\n{_HOW}")
    folders = split_folders(root)
    splits = {path.name for path in folders.values()}
    if "train" in folders and not sub_folders(folders["train"]) and set(sub_folders(root)) - splits:
        splits.remove(folders.pop("train").name)  # beside other classes one of that name
    training = folders.setdefault("train", root)
    inside = {path: [n for n in sub_folders(path) if path != root or n not in splits] for path in folders.values()}
    classes = inside[training]
    if len(classes) < 2:
        flat = "; its pictures can serve without classes, as calibration" if pictures(root) else ""
        beside = " and ".join(f"{name}/" for name in sorted(splits)) if training == root else ""
        found = f"{number_of(len(classes), 'sub-folder')}{f' beside {beside}' if beside else ''}"
        raise DataError(f"{given}: {training} has {found}, so no classes{flat}.\n{_HOW}")
    for path, names in inside.items():
        if strange := sorted(set(names) - set(classes)):
            raise DataError(f"{given}: {path} has the class {strange[0]!r}, which training has not.\n{_HOW}")
    files = {part: _of_classes(path, classes, given) for part, path in folders.items()}
    return classes, files, _said(root, folders, classes)


def _said(root: Path, folders: dict[str, Path], classes: list[str]) -> tuple[str, ...]:
    """Say which folders were taken for splits though their names are written otherwise, or may have been meant so."""
    renamed = [f"{path.name}/ as {part}" for part, path in folders.items() if path != root and not path.name.islower()]
    if renamed:
        return (f"folders are taken as splits: {', '.join(renamed)}",)
    below = {tuple(sub_folders(root / name)) for name in classes} if folders["train"] == root else set()
    if len(below) == 1 and len(names := below.pop()) > 1:
        return (
            f"classes are {_few(classes)}, all of which hold the folders {_few(names)}: if those are the classes, call "
            "the folders above them train, val and test",
        )
    return ()


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _of_classes(folder: Path, classes: list[str], given: str) -> list[LabelledFile]:
    found = {name: pictures(folder / name) for name in classes}
    empty = [str(folder / name) for name, files in found.items() if not files and (folder / name).is_dir()]
    if empty or not any(found.values()):
        which = ", ".join(empty) or str(folder)
        raise DataError(f"{given}: no pictures in {which}.\n  Put some there, or remove the folder of that class")
    return [(path, label) for label, name in enumerate(classes) for path in found[name]]


def _checked(
    parts: dict[str, list[LabelledFile]], given: str, allow: float
) -> tuple[dict[str, list[LabelledFile]], tuple[str, ...]]:
    """Leave out files that cannot be read; their share is that of all splits together."""
    entries = [entry for files in parts.values() for entry in files]
    good, notes = readable(entries, lambda entry: problem(entry[0]), lambda entry: entry[0], given, allow)
    if not notes:
        return parts, ()
    kept = set(good)
    return {part: [entry for entry in files if entry in kept] for part, files in parts.items()}, notes


def _divide(entries: list[Item], share: float, *parts: object) -> tuple[list[Item], list[Item]]:
    rest, taken = split_indices(len(entries), share, *parts)
    return [entries[i] for i in rest.tolist()], [entries[i] for i in taken.tolist()]
