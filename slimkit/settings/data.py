"""What a run is told about its data: the task, and how the pictures of a folder are read."""

from dataclasses import dataclass, fields
from typing import Any

from slimkit.errors import SpecError
from slimkit.settings.checks import number, optional, pattern, several, text, whole, word_or
from slimkit.settings.setting import Settings, setting

_ONE = r"[1-9]\d*(?:,[1-9]\d*)*"

SHAPE = rf"{_ONE}|\w+={_ONE}( \w+={_ONE})*"
SHAPE_MEANING = "C,H,W, such as 3,224,224, or name=C,H,W of each input"

DATA_SETS = ("digits", "fashion-mnist", "cifar10", "cifar100")
DATA_MEANING = f"{', '.join(DATA_SETS)}, folder:PATH"  # and what else a command takes

Shapes = tuple[int, ...] | dict[str, tuple[int, ...]]


def shapes(text: str) -> Shapes:
    """Read the shape of one input, or those of several by name, as the setting `input_shape` has them."""
    named = {name: sizes for name, _, sizes in (word.partition("=") for word in text.split()) if sizes}
    if named:
        return {name: tuple(map(int, sizes.split(","))) for name, sizes in named.items()}
    return tuple(map(int, text.split(",")))


def _named(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SpecError(
            f"{name} is {value!r}: settings hold names.\n"
            "  Give the data with its task: `dataset=slimkit.data.as_dataset(..., task=...)`"
        )
    return text(name, value)


@dataclass(frozen=True, kw_only=True)
class DataSpec(Settings):
    """How data is read, and what it is for."""

    task: str | None = setting(
        None,
        "what the targets are for: classification, segmentation (a folder with images/ and masks/), detection (a "
        "folder of pictures with boxes) or file.py:make, which returns a slimkit.tasks.Task; default: what the data "
        "says, of a detector of torchvision detection, else classification",
        optional(_named),
    )
    data_root: str | None = setting(None, "folder in which named data sets lie", optional(text))
    input_shape: str | None = setting(
        None,
        "shape of one input: 3,224,224 of an image, 1,16000 of a signal, 3,16,112,112 of a clip, 100 of a vector; of "
        "several name=C,H,W name=C,H,W; default: that of the data, else what the network was trained with",
        optional(pattern(SHAPE, SHAPE_MEANING)),
    )
    resize: str | int | None = setting(
        None,
        "pixels of a picture's shorter side before its centre is cropped out, or squash (all of it, whatever its "
        "aspect); default: by crop",
        optional(word_or("squash", whole(1))),
    )
    crop: float | None = setting(
        None,
        "share of a picture's shorter side that the centre crop keeps, in (0, 1]; default: 0.875, as 224 of 256",
        optional(number(0, 1, above=True)),
    )
    mean: tuple[float, ...] = setting(
        (), "of the pictures' channels, in [0, 1]; default: the network's, else ImageNet's", several(number(0, 1))
    )
    std: tuple[float, ...] = setting((), "of the pictures' channels; default: as mean", several(number(0, above=True)))
    allow_bad: float = setting(
        0.0, "share of picture files that may be left out because they cannot be read", number(0, 1, below=True)
    )

    @property
    def shapes(self) -> Shapes | None:
        """`input_shape` as numbers."""
        return None if self.input_shape is None else shapes(self.input_shape)


READING = tuple(entry.name for entry in fields(DataSpec) if entry.name != "task")  # of data that is given by name
