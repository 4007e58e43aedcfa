"""How a network is used, as its files say it: what goes in, what was done to pictures before, what comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slimkit.provenance import Provenance, Use
from slimkit.record import Amount, Positive, Record

INPUT, OUTPUT = "input", "output"
_LAYOUTS = {1: "NC", 2: "NCL", 3: "NCHW", 4: "NCDHW"}  # by the dimensions of one image
_COLOURS = {1: "grey", 3: "RGB"}

OpenShape = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Input(Record):
    """What a network takes under one name.

    Attributes:
        name: in the ONNX file.
        layout: of its dimensions: N images, C channels, D, H, W or L places; None where they mean something else.
        shape: of one image; None in it where a file leaves it free.
        dtype: type of its numbers.
        proven: shape of one image that the file was proven with, where `shape` leaves sizes free.
    """

    name: str
    layout: str | None
    shape: tuple[Positive | None, ...]
    dtype: str
    proven: tuple[Positive, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Usage(Record):
    """How the network is used: the same in the report and in the files. What is not known is None.

    Attributes:
        task: what the outputs are for.
        inputs: by name.
        outputs: names.
        batch: that the ONNX file is bound to; None where it is free.
        colour_order: of pictures, `RGB` or `grey`.
        value_range: least and largest value that goes in, before mean and std.
        mean: subtracted from every channel; None also where the file does that itself.
        std: that every channel is divided by; likewise.
        resize: pixels of a picture's shorter side before its centre is cropped out, or `squash`.
        crop: share of the shorter side that the centre crop keeps, where `resize` does not say it.
        class_names: in the order of the outputs.
    """

    task: str | None
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    batch: Positive | None
    colour_order: str | None
    value_range: tuple[float, ...] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    resize: Positive | str | None
    crop: Amount | None
    class_names: tuple[str, ...]

    @property
    def use(self) -> Use:
        """What of it stands nowhere else in a provenance."""
        return Use(task=self.task, class_names=self.class_names, resize=self.resize, crop=self.crop)

    @property
    def embedded(self) -> bool:
        """Whether the file normalises by itself."""
        return self.value_range is not None and self.mean is None


def described(
    known: Provenance,
    inputs: Mapping[str, tuple[OpenShape, str]] | None = None,
    outputs: Sequence[str] = (),
    embedded: bool = False,
    batch: int | None = None,
    proven: Mapping[str, tuple[int, ...]] | None = None,
) -> Usage:
    """Return how a network is used.

    Args:
        known: of the network.
        inputs: name -> (shape of one image, type); the one of the provenance where None.
        outputs: names.
        embedded: the file normalises by itself: it takes pixels of 0 to 255.
        batch: that the file is bound to.
        proven: name -> shape of one image that the file was proven with.
    """
    if inputs is None:
        only = {} if known.input_shape is None else {INPUT: (known.input_shape, "float32")}
        inputs = {**known.inputs} or only
    scale, shape = known.normalisation, known.input_shape or ()
    told = None if scale is None or embedded else scale
    return Usage(
        task=known.use.task,
        inputs=tuple(
            Input(
                name=name,
                layout=_LAYOUTS.get(len(sizes)),
                shape=sizes,
                dtype=dtype,
                proven=(proven or {}).get(name) if None in sizes else None,
            )
            for name, (sizes, dtype) in inputs.items()
        ),
        outputs=tuple(outputs),
        batch=batch,
        colour_order=_COLOURS.get(shape[0]) if scale is not None and len(shape) == 3 else None,
        value_range=None if scale is None else (0.0, 255.0) if embedded else (0.0, 1.0),
        mean=None if told is None else tuple(map(float, told["mean"])),
        std=None if told is None else tuple(map(float, told["std"])),
        resize=known.use.resize,
        crop=known.use.crop,
        class_names=known.use.class_names,
    )
