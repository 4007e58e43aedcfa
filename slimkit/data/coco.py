"""Annotations in COCO's format: one JSON file with images, categories, and boxes, outlines and keypoints of objects."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from slimkit.data.boxes import Boxed, Point
from slimkit.data.outlines import Outline
from slimkit.errors import DataError
from slimkit.provenance import Finds

_LARGEST = 2**30  # bytes; COCO's own have 0.47e9, and become ten times as many in memory
_SAMPLED = 100  # names by which the folder of the pictures is found
_LONGEST = 255  # bytes of a file's name
_HOW = (
    "  Give a JSON with `images` (id, file_name), `annotations` (image_id, category_id, bbox: left, top, width,\n"
    "  height) and `categories` (id, name)"
)


@dataclass(frozen=True)
class Annotations:
    """What a file says.

    Attributes:
        pictures: in the order of the file.
        names: of the categories, by their ids.
        keypoints: names of those that objects have, by the ids of their categories; empty where a category has none.
    """

    pictures: tuple[Boxed, ...]
    names: dict[int, str]
    keypoints: dict[int, tuple[str, ...]]


def read(path: Path, folders: Sequence[Path], finds: Finds) -> Annotations:
    """Read a file of annotations.

    Args:
        path: the file.
        folders: where its pictures may lie: the first one in which there is one of the first of them.
        finds: what to read of an object beside its box and its category.

    Raises:
        DataError: it is damaged, too large, or lacks what is needed.
    """
    found = _loaded(path, finds)
    names: dict[int, str] = {}
    keypoints: dict[int, tuple[str, ...]] = {}
    for number, entry in enumerate(_entries(found, "categories", path)):
        one = _whole(entry, "id", path, "category", number)
        if one in names:
            raise DataError(f"{path}: the category id {one} is there twice.\n  Give every category an id of its own")
        names[one] = str(entry.get("name", one))
        said = entry.get("keypoints")
        keypoints[one] = tuple(map(str, said)) if isinstance(said, list) else ()
    _check_finds(found, finds, keypoints, path)
    images = _entries(found, "images", path)
    ids = [_whole(entry, "id", path, "image", number) for number, entry in enumerate(images)]
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise DataError(f"{path}: the image id {twice} is there twice.\n  Give every image an id of its own")
    of_image: dict[int, list[dict[str, Any]]] = {one: [] for one in ids}
    for number, entry in enumerate(_entries(found, "annotations", path)):
        image, category = (_whole(entry, key, path, "annotation", number) for key in ("image_id", "category_id"))
        if image not in of_image:
            raise DataError(f"{path}: annotation {number + 1} is of image {image}, which is not there.\n{_HOW}")
        if category not in names:
            listed = ", ".join(map(str, sorted(names)[:20]))
            raise DataError(f"{path}: annotation {number + 1} is of category {category}; there are {listed}.\n{_HOW}")
        _check_box(entry, path, number)
        of_image[image].append(entry)
    named = [_named(entry, path, number) for number, entry in enumerate(images)]
    likely = [name for name in named if not _climbs(name)][:_SAMPLED]
    home = next((folder for folder in folders if any((folder / name).is_file() for name in likely)), folders[0])
    both = zip(images, ids, named, strict=True)
    pictures = tuple(_labelled(home, name, entry, of_image[one], finds) for entry, one, name in both)
    return Annotations(pictures, names, keypoints)


def _loaded(path: Path, finds: Finds) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise OSError("it is no file")  # a pipe would be waited for
        if (size := path.stat().st_size) > _LARGEST:
            raise DataError(
                f"{path}: it is of {size / 2**30:.1f} GiB, and at most {_LARGEST >> 30} are read.\n"
                "  Part it, or give the data by a function of your own: file.py:make"
            )
        found = json.loads(path.read_bytes(), object_hook=partial(_in_short, finds.masks))
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as JSON: {why}.\n{_HOW}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: it holds a {type(found).__name__}, not annotations.\n{_HOW}")
    return found


def _in_short(masks: bool, entry: dict[str, Any]) -> dict[str, Any]:
    outline = entry.pop("segmentation", None)  # most of the file, and not needed for boxes
    if masks and outline is not None:
        entry["segmentation"] = Outline.of(outline)
    return entry


def _entries(found: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = found.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        what = "is missing" if key not in found else "is no list of entries"
        raise DataError(f"{path}: `{key}` {what}.\n{_HOW}")
    return entries


def _check_finds(found: dict[str, Any], finds: Finds, keypoints: dict[int, tuple[str, ...]], path: Path) -> None:
    """Refuse a file that says nothing of what the network finds, or is of other keypoints."""
    entries = _entries(found, "annotations", path)
    for name, key in (("masks", "segmentation"), ("keypoints", "keypoints")):
        if name in finds.names and entries and not any(_tells(entry.get(key), key) for entry in entries):
            raise DataError(
                f"{path}: no annotation has `{key}` to learn from, and the network is trained and judged by {name}.\n"
                f"  Give annotations with `{key}`, or a network that finds boxes alone"
            )
    for category, names in keypoints.items():
        if finds.keypoints and names and len(names) != finds.keypoints:
            raise DataError(
                f"{path}: category {category} has {len(names)} keypoints, {', '.join(names):.60}; the network finds "
                f"{finds.keypoints}.\n"
                f"  Give the data that it was trained on, or a network with num_keypoints={len(names)}"
            )


def _tells(value: Any, key: str) -> bool:
    """Tell whether an object has an outline, or one keypoint that is marked."""
    if key != "keypoints" or not isinstance(value, list):
        return bool(value)
    return any(isinstance(mark, (int, float)) and mark > 0 for mark in value[2::3])


def _whole(entry: dict[str, Any], key: str, path: Path, kind: str, number: int) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        said = "is missing" if key not in entry else f"is {value!r:.40}, not a whole number"
        raise DataError(f"{path}: `{key}` of {kind} {number + 1} {said}.\n{_HOW}")
    return value


def _check_box(entry: dict[str, Any], path: Path, number: int) -> None:
    box = entry.get("bbox")
    numbers = isinstance(box, list) and [side for side in box if isinstance(side, (int, float))]
    if not numbers or len(numbers) != 4 or len(box or ()) != 4:
        said = "is missing" if "bbox" not in entry else f"is {box!r:.60}"
        raise DataError(f"{path}: `bbox` of annotation {number + 1} {said}: four numbers are needed.\n{_HOW}")


def _named(entry: dict[str, Any], path: Path, number: int) -> str:
    name = entry.get("file_name")
    parts = name.encode("utf-8", "replace").split(b"/") if isinstance(name, str) else []
    if not isinstance(name, str) or not name or "\0" in name or max(map(len, parts)) > _LONGEST or len(parts) > 64:
        raise DataError(f"{path}: `file_name` of image {number + 1} is {name!r:.60}, no name of a file.\n{_HOW}")
    return name.replace("\\", "/")


def _climbs(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def _labelled(home: Path, name: str, entry: dict[str, Any], objects: list[dict[str, Any]], finds: Finds) -> Boxed:
    if _climbs(name):
        return Boxed(home / PurePosixPath(name).name, wrong=f"it is {name!r}, which is not within {home}")
    points: tuple[tuple[Point, ...], ...] = ()
    if finds.keypoints:
        try:
            points = tuple(_points(one, number, finds.keypoints) for number, one in enumerate(objects, 1))
        except ValueError as error:
            return Boxed(home / name, wrong=str(error))
    size = entry.get("width"), entry.get("height")
    corners = ([_number(side) for side in one["bbox"]] for one in objects)
    return Boxed(
        path=home / name,
        boxes=tuple((x, y, x + w, y + h) for x, y, w, h in corners),
        categories=tuple(one["category_id"] for one in objects),
        crowd=tuple(bool(one.get("iscrowd")) for one in objects),
        outlines=tuple(one.get("segmentation") for one in objects) if finds.masks else (),
        keypoints=points,
        areas=tuple(map(_area, objects)) if finds.keypoints else (),
        size=size if all(isinstance(side, int) for side in size) else None,  # type: ignore[arg-type]
    )


def _points(entry: dict[str, Any], number: int, count: int) -> tuple[Point, ...]:
    """Return the keypoints of an object; those of a crowd are none.

    Raises:
        ValueError: they are not there, or not as many.
    """
    said = entry.get("keypoints")
    if said is None and entry.get("iscrowd"):
        return ((0.0, 0.0, 0.0),) * count
    if said is None:
        raise ValueError(f"object {number} has no `keypoints`")
    if not isinstance(said, list) or not all(isinstance(side, (int, float)) for side in said):
        raise ValueError(f"`keypoints` of object {number} are {said!r:.40}, not numbers")
    if len(said) != 3 * count:
        raise ValueError(f"`keypoints` of object {number} are {len(said)} numbers: {count} times x, y, v are needed")
    sides = [_number(side) for side in said]
    return tuple(zip(sides[::3], sides[1::3], sides[2::3], strict=True))


def _area(entry: dict[str, Any]) -> float:
    """Return how many pixels are of an object itself; of its box, where that is not said."""
    said = entry.get("area")
    box = [_number(side) for side in entry["bbox"]]
    return _number(said) if isinstance(said, (int, float)) and 0 < said < math.inf else box[2] * box[3]


def _number(side: int | float) -> float:
    return float(max(-(10**30), min(side, 10**30))) if isinstance(side, int) else side
