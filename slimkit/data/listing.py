"""Which files of a folder are pictures, and which of them can be read."""

import os
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from slimkit.errors import DataError
from slimkit.hardware import cores

open_picture = Image.open  # Pillow's own: Ultralytics puts another in its place, for which a damaged file is a package
# Pillow goes by what is in a file, whatever its name is, and hands PostScript to another program.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
_VAST = 2**24  # pixels of a picture that is decoded alone: a small file may hold ten times as many
_ALONE = threading.Lock()
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_SHOWN = 10

Item = TypeVar("Item")


def pictures(folder: Path, without: Collection[Path] = ()) -> list[Path]:
    """Return all picture files in a folder and below, sorted; hidden files and folders are never looked at.

    Links are followed, but not to a folder that the link lies in. `without`: folders below that are left out, as those
    of other splits are.
    """
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        above = os.path.realpath(place)
        inside = {above, *map(str, Path(above).parents)}
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and Path(place, name) not in without
            and os.path.realpath(Path(place, name)) not in inside
        )
        found += [Path(place, f) for f in files if not f.startswith(".") and Path(f).suffix.lower() in SUFFIXES]
    return sorted(found)


def refuse_shared(pairs: Iterable[tuple[Path, Path | None]], what: str) -> None:
    """Refuse two pictures, as `a.jpg` and `a.png`, that one file beside them is named after: a mask, or labels.

    Raises:
        DataError: there are such.
    """
    first: dict[Path, Path] = {}
    for picture, beside in pairs:
        if beside is not None and (other := first.setdefault(beside, picture)) != picture:
            raise DataError(
                f"{other} and {picture}: {beside} is the {what} of both.\n  Rename one of them, or take it away"
            )


def trained_too(parts: Mapping[str, Sequence[Path]]) -> tuple[str, ...]:
    """Say of each split how many of its pictures are trained on as well: what is measured on them tells nothing."""

    def files(part: str) -> set[tuple[int, int]]:
        return {(found.st_dev, found.st_ino) for found in map(os.stat, parts[part])}

    trained = files("train")
    both = {part: len(files(part) & trained) for part in parts if part != "train"}
    return tuple(
        f"{count:,} of the {len(parts[part]):,} pictures of {part} are trained on as well, so that figures of {part} "
        "tell too much good: give each picture to one split"
        for part, count in both.items()
        if count
    )


def sub_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder that are not hidden, sorted."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def split_folders(root: Path) -> dict[str, Path]:
    """Return the sub-folders of a folder that are splits: train, validation, test."""
    found = {part: folder_named(root, names) for part, names in PARTS.items()}
    return {part: path for part, path in found.items() if path is not None}


def folder_named(root: Path, names: Sequence[str]) -> Path | None:
    """Return the sub-folder with the first of these names, else with one of them in capitals; None without any."""
    exact = next((root / name for name in names if (root / name).is_dir()), None)
    lower = {name.lower() for name in names}
    return exact or next((root / name for name in sub_folders(root) if name.lower() in lower), None)


def in_bytes(picture: Any) -> Any:
    """Return a picture with values of 0 to 255: Pillow itself would take all above 255 of 16 bits for white.

    Raises:
        ValueError: the range of its values is not known.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        return Image.fromarray(np.rint(np.asarray(picture) / 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"nothing says where its values begin and end (mode {picture.mode}: 32 bits, one channel)")
    return picture


def problem(path: Path) -> str | None:
    """Say why a file cannot be read as a picture, None where it can.

    The whole file is decoded, so that one that was cut off is seen; JPEG at an eighth of its size, which takes a
    fraction of the time.
    """
    if not path.is_file():
        return "it is no file"  # a pipe would be waited for
    try:
        with open_picture(path, formats=FORMATS) as opened:
            opened.draft("RGB", (max(1, opened.width // 8), max(1, opened.height // 8)))
            with _ALONE if opened.width * opened.height > _VAST else nullcontext():
                opened.load()
            in_bytes(opened)
    except Exception as error:  # decoders raise what they like
        return str(error).replace(f"{str(path)!r}", "it") or type(error).__name__
    return None


def readable(
    entries: Sequence[Item],
    check: Callable[[Item], str | None],
    path_of: Callable[[Item], Path],
    given: str,
    allow: float,
) -> tuple[list[Item], tuple[str, ...]]:
    """Check all files at once, in parallel, and leave out those that cannot be read.

    Args:
        entries: one a file.
        check: says why a file cannot be used, None where it can; called from several threads.
        path_of: gives the path to name.
        given: how messages name the data.
        allow: largest share that may be left out.

    Returns:
        The good entries, and a note where some were left out.

    Raises:
        DataError: more than that share is bad; the message lists them.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, 2 * cores())) as pool:
        warnings.simplefilter("ignore")  # of decoders, about files that can be read
        reasons = list(pool.map(check, entries))
    bad = [(path_of(entry), why) for entry, why in zip(entries, reasons, strict=True) if why is not None]
    if not bad:
        return list(entries), ()
    count = f"{len(bad)} of {len(entries)} files cannot be used"
    lines = [f"    {_shown(path)}: {why}" for path, why in bad[:_SHOWN]]
    lines += [f"    and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
    if len(bad) > allow * len(entries):
        share = len(bad) / len(entries) + 1e-4
        or_less = f"or remove them, or let a share be left out, as `allow_bad={share:.4f}`" if share < 1 else "them"
        raise DataError(f"{given}: {count}:\n" + "\n".join(lines) + f"\n  Mend {or_less}")
    good = [entry for entry, why in zip(entries, reasons, strict=True) if why is None]
    return good, ("\n".join([f"{count} and were left out:", *lines]),)


def _shown(path: Path) -> str:
    """Return a path as it can be shown: a name may hold what moves a terminal's cursor."""
    said = str(path)
    return said if said.isprintable() else ascii(said)
