"""A folder of pictures with boxes, for detection: COCO's JSON (also as Roboflow writes it), or YOLO's text files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimkit.data import coco, yolo_labels
from slimkit.data.boxes import Boxed
from slimkit.data.class_names import BACKGROUND, NOBODY
from slimkit.data.dataset import Dataset
from slimkit.data.folder import arranged
from slimkit.data.listing import PARTS, folder_named, pictures, readable, refuse_shared, sub_folders
from slimkit.data.loader_split import LoaderSplit
from slimkit.data.mirror import mirrored, partners
from slimkit.data.order import number
from slimkit.data.pictures import Reading, View, as_tensor
from slimkit.errors import DataError
from slimkit.provenance import UNKNOWN, Finds, Provenance
from slimkit.tasks import DETECTION
from slimkit.tasks.average_precision import installed

_HOW = (
    "  Give a folder with annotations/instances_train.json (or train.json) and images/, as COCO has it; with\n"
    "  train/_annotations.coco.json beside its pictures, as Roboflow writes it; or with images/ and labels/ of YOLO"
)
_ROBOFLOW = "_annotations.coco.json"
_BEGINNINGS = ("person_keypoints_", "(instances_)?")  # of names of files, the first one of keypoints alone
_SHOWN = 12  # classes


def box_folder(root: Path, seed: int, reading: Reading | None = None, own: Provenance = UNKNOWN) -> Dataset:
    """Open a folder of pictures with boxes; splits are those of `folder.folder`.

    Inputs are lists of images float32 [3, h, w] in [0, 1], of any size; targets are lists of dicts with `boxes` float32
    [K, 4] (left, top, right, bottom in pixels), `labels` int64 [K] from 1, and `iscrowd` [K]; for networks that find
    them `masks` uint8 [K, h, w], or `keypoints` float32 [K, points, 3] (x, y in pixels, and 2: seen, 1: hidden, 0: not
    labelled) with `area` [K]. A detector resizes and normalises by itself, so that a reading says nothing but
    `allow_bad`.

    Args:
        root: the folder.
        seed: draws the validation split, where there is none.
        reading: how many files may be left out.
        own: what is known of the network: its number of classes says how categories are numbered, and what it finds
            is what is read of an object.

    Raises:
        DataError: there are no annotations, or damaged ones; more pictures than allowed cannot be used; classes that
            are not those of the network; no boxes at all, or not what the network finds beside them.
        EngineError: masks are to be read, and what draws them is not installed.
    """
    given = f"folder:{root}"
    _refuse(reading or Reading(), given)
    allow = reading.allow_bad if reading else 0.0
    if own.finds.masks:
        installed()
    parts, names, keypoints, said = _listed(root, given, own.finds)
    entries = [entry for found in parts.values() for entry in found]
    good, left_out = readable(entries, Boxed.problem, lambda entry: entry.path, given, allow)
    kept = set(map(id, good))
    parts = {part: [entry for entry in found if id(entry) in kept] for part, found in parts.items()}
    used = {category for entry in good for category in entry.categories}
    if not used:
        raise DataError(f"{given}: there is not one box in {len(good)} pictures.\n{_HOW}")
    labels, classes = _numbered(names, used, own.classes, given)
    parts, drawn = arranged(parts, lambda entry: entry.path, seed, given)
    bare = next((part for part, found in parts.items() if not any(not all(entry.crowd) for entry in found)), None)
    if bare is not None:  # nothing could be learnt from it, and whatever is judged on it would be as good
        raise DataError(f"{given}: there is not one box in the {bare} split, but of crowds at most.\n{_HOW}")
    swapped = partners(keypoints)
    splits = {
        part: LoaderSplit(
            fetch=BoxReader(tuple(found), labels, own.finds, swapped), count=len(found), collate=DETECTION.collate
        )
        for part, found in parts.items()
    }
    called = {label: names.get(category, str(category)) for category, label in labels.items()}
    return Dataset(
        name=given,
        task=DETECTION,
        classes=classes,
        class_names=(BACKGROUND, *(called.get(label, NOBODY) for label in range(1, classes))),
        input_shape=own.input_shape or (3, 0, 0),
        notes=(_said(labels, called, used), *said, *_said_of_sides(own.finds, keypoints, swapped), *left_out, *drawn),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        tested_apart=parts["test"] is not parts["validation"],
    )


@dataclass(frozen=True)
class BoxReader:
    """Reads pictures, each with its objects; with a seed one of two is mirrored.

    Attributes:
        files: the pictures.
        labels: class of each category.
        finds: what is read of an object beside its box and its class.
        swapped: which keypoints change places in a mirror; None where that is not known, and nothing is mirrored.
    """

    files: tuple[Boxed, ...]
    labels: dict[int, int]
    finds: Finds = Finds()
    swapped: tuple[int, ...] | None = None

    def __call__(self, index: int, seed: int | None) -> tuple[Tensor, dict[str, Tensor]]:
        entry = self.files[index]
        picture = entry.shown(_VIEW.open(entry.path))
        labels = torch.tensor([self.labels[category] for category in entry.categories], dtype=torch.int64)
        target = {"boxes": entry.within(*picture.size), "labels": labels, "iscrowd": torch.tensor(entry.crowd).bool()}
        if self.finds.masks:
            target["masks"] = entry.masks(*picture.size)
        if self.finds.keypoints:
            target |= {"keypoints": entry.points(self.finds.keypoints), "area": torch.tensor(entry.areas)}
        image = as_tensor(picture)
        if seed is None or self._one_way or not number("mirror", seed) % 2:
            return image, target
        return mirrored(image, target, self.swapped)

    @property
    def _one_way(self) -> bool:
        """Whether a picture in a mirror would be of other keypoints than are known."""
        return bool(self.finds.keypoints) and self.swapped is None


_VIEW = View(shape=(3, 0, 0), mean=(), std=())  # opens pictures as RGB; a detector resizes them


def _refuse(reading: Reading, given: str) -> None:
    """Refuse what would be ignored: a detector resizes and normalises pictures by itself."""
    idle = [name for name, value in vars(replace(reading, allow_bad=0.0)).items() if value != getattr(Reading(), name)]
    if idle:
        raise DataError(
            f"{idle[0]} is set: a detector resizes and normalises the pictures of {given!r} by itself.\n"
            f"  Leave `{idle[0]}` out"
        )


def _listed(
    root: Path, given: str, finds: Finds
) -> tuple[dict[str, list[Boxed]], dict[int, str], tuple[str, ...], tuple[str, ...]]:
    """Return the pictures of each split, the names of categories by their ids, those of keypoints, and notes.

    No names where nothing says them, or where categories have different ones.
    """
    if not root.is_dir():
        raise DataError(f"{given} is not a folder.\n{_HOW}")
    files = _annotations(root, given, finds)
    if not files:
        if finds.keypoints:
            raise DataError(
                f"{given}: there are no annotations of COCO, and the network is trained and judged by keypoints.\n"
                "  Give a folder as COCO or Roboflow has it, with a JSON that holds them"
            )
        parts, said = _of_yolo(root, given, finds.masks)
        return parts, {}, (), said
    parts = {}
    names: dict[int, str] = {}
    keypoints: set[tuple[str, ...]] = set()
    for part, path in files.items():
        found = coco.read(path, _homes(root, part, path), finds)
        strange = sorted(one for one in found.names if names and names.get(one) != found.names[one])
        if strange:
            raise DataError(
                f"{path}: category {strange[0]} is {found.names[strange[0]]!r}, in the training split "
                f"{names.get(strange[0], 'there is none')!r}.\n  Give all splits the same categories"
            )
        names = names or found.names
        keypoints |= {named for named in found.keypoints.values() if named}
        parts[part] = list(found.pictures)
        if not parts[part]:
            raise DataError(f"{path}: it lists no pictures.\n{_HOW}")
    return parts, names, keypoints.pop() if len(keypoints) == 1 else (), ()


def _annotations(root: Path, given: str, finds: Finds) -> dict[str, Path]:
    """Return the JSON files of the splits, that of training first; a single one is of training."""
    folders = sub_folders(root)
    inside = {part: [root / name / _ROBOFLOW for name in folders if name.lower() in PARTS[part]] for part in PARTS}
    found = {part: [path for path in paths if path.is_file()] for part, paths in inside.items()}
    for folder in (root / "annotations", root):
        if any(found.values()):
            break
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        for begin in _BEGINNINGS if finds.keypoints else _BEGINNINGS[1:]:
            if any(found.values()):
                break
            for part, names in PARTS.items():
                pattern = rf"{begin}({'|'.join(names)})\d*\.json"
                found[part] = [path for path in files if re.fullmatch(pattern, path.name, re.IGNORECASE)]
        if not any(found.values()):
            found["train"] = files
    double = next((paths for paths in found.values() if len(paths) > 1), None)
    if double:
        named = " and ".join(path.name for path in double[:2])
        raise DataError(f"{given}: {named} are both there, and one is used a split.\n  Move the other ones away")
    if any(found.values()) and not found["train"]:
        raise DataError(f"{given}: there are no annotations for training.\n{_HOW}")
    return {part: paths[0] for part, paths in found.items() if paths}


def _homes(root: Path, part: str, path: Path) -> list[Path]:
    """Return where the pictures of a file of annotations may lie."""
    stem = path.stem.removeprefix("instances_").removeprefix("person_keypoints_")
    tops = [top for top in (root / "images", root) if top.is_dir()]
    inside = [folder_named(top, (name,)) for top in tops for name in (stem, *PARTS[part])]
    return [folder for folder in (*inside, root / "images", path.parent, root) if folder and folder.is_dir()]


def _of_yolo(root: Path, given: str, outlined: bool) -> tuple[dict[str, list[Boxed]], tuple[str, ...]]:
    images, labels = root / "images", root / "labels"
    places = {"train": (images, labels)} if images.is_dir() else {}
    of_splits = []
    folders = [entry.name for top in (root, images) if top.is_dir() for entry in top.iterdir() if entry.is_dir()]
    for part, names in PARTS.items():
        pattern = re.compile(rf"({'|'.join(names)})\d*", re.IGNORECASE)  # also val2017
        for name in filter(pattern.fullmatch, sorted(folders)):
            for pair in ((root / name / "images", root / name / "labels"), (images / name, labels / name)):
                if pair[0].is_dir():
                    places[part] = pair
                    of_splits.append(pair[0])
    if "train" not in places or not places["train"][1].is_dir():
        raise DataError(f"{given}: there are no annotations.\n{_HOW}")
    paired = {}
    for part, (top, written) in places.items():
        found = pictures(top, without=of_splits)
        beside = (written / path.relative_to(top).with_suffix(".txt") for path in found)
        paired[part] = [(path, text if text.is_file() else None) for path, text in zip(found, beside, strict=True)]
        refuse_shared(paired[part], "file of labels")
        if not found:
            raise DataError(f"{given}: no pictures in {top}.\n{_HOW}")
    posed = yolo_labels.are_posed(root, (text for pairs in paired.values() for _, text in pairs if text))
    parts = {part: [yolo_labels.read(*pair, outlined, posed) for pair in pairs] for part, pairs in paired.items()}
    return parts, ("labels are boxes with keypoints, of which the boxes are read",) if posed else ()


def _numbered(names: dict[int, str], used: set[int], wanted: int | None, given: str) -> tuple[dict[int, int], int]:
    """Return the class of each category, and the number of classes with the background, which is 0.

    Ids are classes as they are where they are meant so: the largest is the network's last class, or nothing is known
    of a network and they are 1 to N. Else categories are numbered from 1 in the order of their ids.
    """
    ids = sorted(names or range(max(used) + 1))
    above = [one for one in ids if one or one in used]  # Roboflow lists 0, and never uses it
    if names and above[0] > 0 and (above[-1] + 1 == wanted if wanted else above == list(range(1, len(above) + 1))):
        return {one: one for one in above}, above[-1] + 1
    if wanted is None or len(ids) + 1 == wanted or (not names and len(ids) + 1 < wanted):
        return {one: place for place, one in enumerate(ids, 1)}, wanted or len(ids) + 1
    said = f"{len(ids)} categories ({_few([names.get(one, str(one)) for one in ids])})"
    raise DataError(
        f"{given}: it has {said}, so {len(ids) + 1} classes with the background; the network has {wanted}.\n"
        f"  Give the data that the network was trained on, or a network with num_classes={len(ids) + 1}"
    )


def _said(labels: dict[int, int], called: dict[int, str], used: set[int]) -> str:
    numbers = [f"{label} {called[label]}" for category, label in labels.items() if category in used or len(labels) < 30]
    moved = any(category != label for category, label in labels.items())
    how = "categories in the order of their ids" if moved else "the ids of their categories"
    return f"classes are {how}: {_few(numbers)}; 0 is the background"


def _said_of_sides(finds: Finds, names: Sequence[str], swapped: Sequence[int] | None) -> tuple[str, ...]:
    """Say what a mirror does to keypoints."""
    if not finds.keypoints:
        return ()
    if swapped is None:
        return ("pictures are not mirrored in training: the names of keypoints do not tell left from right",)
    pairs = [f"{names[one]} and {names[other]}" for one, other in enumerate(swapped) if one < other]
    return (f"keypoints that change places where a picture is mirrored: {_few(pairs)}",)


def _few(words: Sequence[Any]) -> str:
    return ", ".join(map(str, words[:_SHOWN])) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")
