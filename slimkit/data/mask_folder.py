"""A folder of pictures and masks, for segmentation: images/ and masks/, within or above train/, val/ and test/."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimkit.data.dataset import Dataset
from slimkit.data.folder import arranged
from slimkit.data.listing import FORMATS, PARTS, folder_named, open_picture, pictures, problem, readable, refuse_shared
from slimkit.data.loader_split import LoaderSplit
from slimkit.data.pictures import SQUASH, Reading, View, as_tensor, view
from slimkit.errors import DataError
from slimkit.provenance import UNKNOWN, Provenance
from slimkit.quantity import number_of
from slimkit.tasks import SEGMENTATION
from slimkit.tasks.segmentation import IGNORED

IMAGES = ("images", "image", "imgs", "img", "JPEGImages")
MASKS = ("masks", "mask", "labels", "annotations", "SegmentationClass")
_HOW = (
    "  Give a folder with images/ and masks/, whose files have the same names: a mask is a picture of one channel,\n"
    f"  whose values are class numbers, {IGNORED} where there is none. train/, val/ and test/ may stand above or below"
)

_LARGEST = 2**16 - 1  # class number
_SHOWN = 8  # class numbers
_GREY = re.compile("L;([24]?)(I?)R?")  # as Pillow names how grey is stored: bits, fewer than 8, and whether 0 is white

MaskedPicture = tuple[Path, Path | None]  # a picture and its mask, None where there is none


def mask_folder(
    root: Path,
    seed: int,
    reading: Reading | None = None,
    own: Provenance = UNKNOWN,
) -> Dataset:
    """Open a folder of pictures and masks; arguments, splits and errors are those of `folder.folder`.

    Pictures are brought to the input shape whole (`resize squash`) unless the reading says otherwise. Masks whose
    values are 0 and 255 alone are of two classes, unless the network is known to have more. Values that no class has,
    and masks in JPEG, which changes values, are among the files that cannot be used.
    """
    reading = reading or Reading()
    given = f"folder:{root}"
    seen, notes = view(reading, own, SQUASH)
    parts = _listed(root, given)
    values: dict[Path, int] = {}  # mask -> bits of the values in it
    entries = [pair for found in parts.values() for pair in found]
    good, left_out = readable(entries, partial(_problem, values=values), lambda pair: pair[0], given, reading.allow_bad)
    kept = set(good)
    parts = {part: [pair for pair in found if pair in kept] for part, found in parts.items()}
    parts, drawn = arranged(parts, lambda pair: pair[0], seed, given)
    classes, binary, noted = _classes(values.values(), given, own.classes)
    splits = {
        part: LoaderSplit(fetch=MaskReader(tuple(found), seen, binary), count=len(found), mean=seen.mean, std=seen.std)
        for part, found in parts.items()
    }
    return Dataset(
        name=given,
        task=SEGMENTATION,
        classes=classes,
        input_shape=seen.shape,
        mean=seen.mean,
        std=seen.std,
        resize=seen.resize,
        crop=seen.cropped,
        notes=(*notes, *left_out, *drawn, *noted),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        tested_apart=parts["test"] is not parts["validation"],
    )


@dataclass(frozen=True)
class MaskReader:
    """Reads pictures, each with its mask int64 [H, W]; what lies beyond a picture is of no class."""

    files: tuple[MaskedPicture, ...]
    view: View
    binary: bool

    def __call__(self, index: int, seed: int | None) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors

        path, mask_path = self.files[index]
        assert mask_path is not None
        picture = self.view.open(path)
        labels = _read(mask_path)
        labels = labels.clamp_max(1) if self.binary else labels
        mask = tv_tensors.Mask(labels.unsqueeze(0))
        image, mask = self.view.whole(picture, mask) if seed is None else self.view.varied(seed, picture, mask)
        return as_tensor(image), mask.as_subclass(Tensor)[0]


def _listed(root: Path, given: str) -> dict[str, list[MaskedPicture]]:
    if not root.is_dir():
        raise DataError(f"{given} is not a folder.\n{_HOW}")
    tops = folder_named(root, IMAGES), folder_named(root, MASKS)
    places: dict[str, tuple[Path | None, Path | None]] = {"train": tops}
    for part, names in PARTS.items():
        inside = folder_named(root, names)
        if inside is not None:  # train/images
            places[part] = (folder_named(inside, IMAGES), folder_named(inside, MASKS))
        images, masks = (None if top is None else folder_named(top, names) for top in tops)
        if images is not None:  # images/train
            places[part] = (images, masks)
    parts = {}
    for part, (image_folder, masks_folder) in places.items():
        if image_folder is None or masks_folder is None:
            missing = "images" if image_folder is None else "masks"
            raise DataError(f"{given}: there is no folder of {missing} for {part}.\n{_HOW}")
        parts[part] = _pairs(image_folder, masks_folder, without=[images for images, _ in places.values() if images])
        if not parts[part]:
            raise DataError(f"{given}: no pictures in {image_folder}.\n{_HOW}")
    return parts


def _pairs(images: Path, masks: Path, without: Collection[Path]) -> list[MaskedPicture]:
    """Pair files by their path without suffix; a mask may end in `_mask`, where that is no picture's own name.

    `without`: folders of pictures that are left out where they are below `images`.

    Raises:
        DataError: two masks are named after one picture, or two pictures have one mask.
    """

    def name(path: Path, folder: Path) -> str:
        return path.relative_to(folder).with_suffix("").as_posix()

    shown = {path: name(path, images) for path in pictures(images, without)}
    own = set(shown.values())
    by_name: dict[str, list[Path]] = {}
    for path in pictures(masks):
        called = name(path, masks)
        by_name.setdefault(called if called in own else called.removesuffix("_mask"), []).append(path)
    for path, called in shown.items():
        if len(named := by_name.get(called, [])) > 1:
            raise DataError(
                f"{path}: {' and '.join(map(str, named))} are both named as its mask.\n  Leave one of them there"
            )
    paired = [(path, by_name.get(called, [None])[0]) for path, called in shown.items()]
    refuse_shared(paired, "mask")
    return paired


def _read(path: Path) -> Tensor:
    """Return the class numbers in a mask, int64 [H, W]."""
    with open_picture(path, formats=FORMATS) as opened:
        if opened.format == "JPEG":
            raise DataError("it is a JPEG, which changes values, here class numbers: write it as PNG from what it was")
        if opened.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
            raise DataError(f"it is a picture of mode {opened.mode}, not of one channel with class numbers")
        return torch.from_numpy(_stored(opened))


def _stored(picture: Any) -> Any:
    """Return the numbers of a picture as its file stores them, int64 [H, W], of one bit as they are shown.

    Pillow stretches grey to 0 ... 255, or 0 ... 65535, as it is shown: 2 bits to 0, 85, 170, 255, and so a PGM whose
    largest number is another; in a TIFF whose 0 is white it turns them round.
    """
    import numpy as np

    decoder, settings = ("", "") if not picture.tile else (picture.tile[0][0], picture.tile[0][3])
    grey = _GREY.fullmatch(str(settings[0] if isinstance(settings, tuple) and settings else settings))
    shown = largest = 255 if picture.mode == "L" else _LARGEST
    if decoder.startswith("ppm") and isinstance(settings, tuple):
        largest = settings[-1]
    elif grey is not None and grey[1]:
        largest = 2 ** int(grey[1]) - 1
    values = np.asarray(picture).astype(np.int64)
    values = shown - values if grey is not None and grey[2] else values
    return np.rint(values * (largest / shown)).astype(np.int64) if largest != shown else values


def _problem(pair: MaskedPicture, values: dict[Path, int]) -> str | None:
    """Say why a picture and its mask cannot be used; note the values of the mask."""
    import numpy as np

    path, mask_path = pair
    if mask_path is None or not mask_path.is_file():
        return "it has no mask"
    why = problem(path)
    if why is not None:
        return why
    try:
        mask = _read(mask_path)
    except Exception as error:  # decoders raise what they like
        return f"its mask {mask_path}: {error}"
    with open_picture(path, formats=FORMATS) as opened:
        width, height = opened.size
    if tuple(mask.shape) != (height, width):
        return f"it is {width}x{height}, its mask {mask_path} {mask.shape[1]}x{mask.shape[0]}"
    found = np.unique(mask).tolist()
    strange = next((value for value in found if not 0 <= value <= _LARGEST), None)
    if strange is not None:
        return f"its mask {mask_path} holds {strange}: class numbers are 0 to {_LARGEST}, {IGNORED} where there is none"
    values[mask_path] = sum(1 << value for value in found)
    return None


def _classes(masks: Collection[int], given: str, known: int | None) -> tuple[int, bool, tuple[str, ...]]:
    """Return the number of classes, whether masks hold 0 and 255 alone, which then are the two of a network, and notes.

    Args:
        masks: bits of the values in each.
        given: how messages name the data.
        known: number of classes of the network; None where that is not known.
    """
    together, white = 0, 1 << IGNORED
    for bits in masks:
        together |= bits
    if together == white:
        raise DataError(f"{given}: its masks are {IGNORED} everywhere, which is no class.\n{_HOW}")
    alone = sum(bool(bits & white) and bits | 1 == 1 | white for bits in masks)
    if together == 1 | white and (known is None or known <= 2):
        return 2, True, (f"masks hold 0 and {IGNORED} alone: read as two classes",)
    unread = (
        f"{alone} of {number_of(len(masks), 'mask')} hold {IGNORED} and no class but 0: there it is read as no class, "
        "since others, or the network, have classes of other numbers; where it is a class, write its number"
    )
    notes: tuple[str, ...] = (unread,) if alone else ()
    if known is not None and together == 1 | white:
        return known, False, notes
    held = together & ~white
    classes = held.bit_length()
    if classes < 2:
        raise DataError(f"{given}: its masks hold {number_of(classes, 'class')}.\n{_HOW}")
    if held | white != (1 << classes) - 1 | white:
        numbers = [number for number in range(classes) if held >> number & 1]
        few = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
        notes += (f"of the class numbers 0 to {classes - 1} masks hold {len(numbers)}: {few}",)
    return classes, False, notes
