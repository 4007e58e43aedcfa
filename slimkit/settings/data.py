"""What a run is told about its data: the task, and how the pictures of a folder are read."""

from dataclasses import dataclass

from slimkit.settings.checks import number, optional, pattern, several, text, whole, word_or
from slimkit.settings.setting import Settings, setting


@dataclass(frozen=True, kw_only=True)
class DataSpec(Settings):
    """How data is read, and what it is for."""

    task: str | None = setting(
        None,
        "what the targets are for: classification, segmentation (a folder with images/ and masks/) or file.py:make, "
        "which returns a slimkit.tasks.Task; default: what the data says, else classification",
        optional(text),
    )
    data_root: str | None = setting(None, "folder in which named data sets lie", optional(text))
    input_shape: str | None = setting(
        None,
        "shape C,H,W of one image; default: that of the data, else what the network was trained with",
        optional(pattern(r"[1-9]\d*,[1-9]\d*,[1-9]\d*", "C,H,W, such as 3,224,224")),
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
