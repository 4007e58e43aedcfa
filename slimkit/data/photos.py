"""A folder of pictures without classes, to calibrate on."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from slimkit.data.inputs import Inputs, stacked
from slimkit.data.listing import folder_named, pictures, problem, readable, split_folders
from slimkit.data.loader_split import LoaderSplit
from slimkit.data.mask_folder import IMAGES, MASKS
from slimkit.data.pictures import Reading, View, as_tensor, view
from slimkit.errors import DataError
from slimkit.provenance import UNKNOWN, Provenance
from slimkit.quantity import number_of


def photos(
    root: Path,
    reading: Reading | None = None,
    own: Provenance = UNKNOWN,
) -> Inputs:
    """Open all pictures in a folder and below it, whatever the names of its sub-folders, but for masks of others.

    The arguments are those of `folder.folder`.

    Raises:
        DataError: no folder, no pictures, more files than allowed that cannot be read.
    """
    reading = reading or Reading()
    given = f"folder:{root}"
    if not root.is_dir():
        raise DataError(f"{given} is not a folder.\n  Give a folder with pictures in it")
    files, masks = _parted(root)
    if not files:
        raise DataError(f"{given}: no pictures in it.\n  Give a folder with pictures in it")
    seen, notes = view(reading, own)
    good, left_out = readable(files, problem, lambda path: path, given, reading.allow_bad)
    fetch = Photos(tuple(good), seen)
    split = LoaderSplit(fetch=fetch, count=len(good), mean=seen.mean, std=seen.std, collate=stacked)
    return Inputs(split, given, (*notes, *left_out, *masks, *_said(root)))


def _parted(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the pictures in a folder and below it but for masks, as in masks/ beside images/, and what to say."""
    files = pictures(root)
    homes = {home for file in files for home in file.parents if home.is_relative_to(root)}
    beside = [folder_named(home, MASKS) for home in homes if folder_named(home, IMAGES)]
    masks = {folder for folder in beside if folder is not None}
    kept = [file for file in files if masks.isdisjoint(file.parents)]
    if len(kept) == len(files):
        return files, ()
    names = " and ".join(sorted({f"{folder.name}/" for folder in masks}))
    return kept, (f"{number_of(len(files) - len(kept), 'picture')} in {names} are taken for masks, and left out",)


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
