"""A folder of pictures without classes, to calibrate on."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from slimkit.data.inputs import Inputs, stacked
from slimkit.data.listing import pictures, problem, readable, split_folders
from slimkit.data.loader_split import LoaderSplit
from slimkit.data.pictures import Reading, View, as_tensor, view
from slimkit.errors import DataError
from slimkit.provenance import UNKNOWN, Provenance


def photos(
    root: Path,
    reading: Reading | None = None,
    own: Provenance = UNKNOWN,
) -> Inputs:
    """Open all pictures in a folder and below it, whatever the names of its sub-folders.

    The arguments are those of `folder.folder`.

    Raises:
        DataError: no folder, no pictures, more files than allowed that cannot be read.
    """
    reading = reading or Reading()
    given = f"folder:{root}"
    if not root.is_dir():
        raise DataError(f"{given} is not a folder.\n  Give a folder with pictures in it")
    files = pictures(root)
    if not files:
        raise DataError(f"{given}: no pictures in it.\n  Give a folder with pictures in it")
    seen, notes = view(reading, own)
    good, left_out = readable(files, problem, lambda path: path, given, reading.allow_bad)
    fetch = Photos(tuple(good), seen)
    split = LoaderSplit(fetch=fetch, count=len(good), mean=seen.mean, std=seen.std, collate=stacked)
    return Inputs(split, given, (*notes, *left_out, *_said(root)))


def _said(root: Path) -> tuple[str, ...]:
    """Say where pictures that others are measured on may be among those of a folder."""
    folders = split_folders(root)
    if "train" not in folders or len(folders) == 1:
        return ()
    others = " and ".join(f"{path.name}/" for part, path in folders.items() if part != "train")
    return (f"pictures of {others} are among the inputs: give {root / folders['train'].name} to leave them out",)


@dataclass(frozen=True)
class Photos:
    """Reads pictures that have no class."""

    files: tuple[Path, ...]
    view: View

    def __call__(self, index: int, seed: int | None) -> tuple[Tensor, None]:
        picture = self.view.open(self.files[index])
        image, _ = self.view.whole(picture) if seed is None else self.view.varied(seed, picture)
        return as_tensor(image), None
