"""Where a network comes from and what slimming changed: all that its file must say to rebuild it."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

_ATTRIBUTE = "_slimkit_provenance"


@dataclass(frozen=True, kw_only=True)
class Narrowed:
    """Channels were removed: group name -> indices kept; module path -> attribute -> the value it got."""

    kept: dict[str, list[int]]
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Factorised:
    """Layers were made two thin ones: module path -> rank."""

    ranks: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Single weights were set to zero: parameter name -> how many are left.

    `weights` tells what the others are: of a `ticket`, yet to be trained, or `trained`.
    """

    left: dict[str, int]
    weights: Literal["ticket", "trained"]


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """Layers that computed their weights store them: module path -> kind and arguments of the layer in its place."""

    layers: dict[str, dict[str, Any]]


Edit = Narrowed | Factorised | Masked | Replaced


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a network is for, and how the pictures that it was trained on were read.

    Attributes:
        task: name of the task, None where it is not known.
        class_names: in the order of the outputs; empty where they are not known.
        resize: pixels of a picture's shorter side before its centre is cropped out, or `squash`.
        crop: share of the shorter side that the centre crop keeps, where `resize` does not say it.
    """

    task: str | None = None
    class_names: tuple[str, ...] = ()
    resize: int | str | None = None
    crop: float | None = None


@dataclass(frozen=True, kw_only=True)
class Finds:
    """What a detector finds of an object beside its box and its class.

    Attributes:
        masks: whether it finds which pixels are of it.
        keypoints: how many points of it; 0 for none.
    """

    masks: bool = False
    keypoints: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """What a detector calls them, in outputs and in targets."""
        return tuple(name for name, there in vars(self).items() if there)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Architecture reference and surgery record of one network; JSON-able values only.

    Attributes:
        arch: `torchvision:NAME`, `zoo:NAME`, `timm:NAME`, `package.module:factory`, `file.py:factory`,
            `exported`, or None where it is unknown.
        arguments: keyword arguments of the factory.
        input_shape: shape of one image, (C, H, W).
        inputs: name of an argument -> shape of one image, and type, where the network takes several, or one by name.
        classes: number of classes, None where the network is no classifier.
        finds: what a detector finds beside boxes and classes.
        normalisation: `mean` and `std` per input channel, of images in [0, 1].
        use: what it is for, and how its pictures are read.
        guessed: which of normalisation and crop are those of the architecture's published weights, of which nobody has
            said that they are this network's: pictures that are read here are read so, data that somebody gives is not
            changed by them. Files do not hold it.
        attributes: module path -> attribute -> the value it has where the factory sets another, before any edit.
        edits: what was done to the network since, in order.
    """

    arch: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    inputs: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    classes: int | None = None
    finds: Finds = Finds()
    normalisation: dict[str, list[float]] | None = None
    use: Use = Use()
    guessed: tuple[str, ...] = field(default=(), compare=False)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()


UNKNOWN = Provenance()
GUESSED = ("normalisation", "crop")


def of(model: object) -> Provenance:
    """Return the provenance attached to a network, an empty one where there is none."""
    found = getattr(model, _ATTRIBUTE, None)
    return found if isinstance(found, Provenance) else UNKNOWN


def attach(model: object, provenance: Provenance) -> None:
    """Attach a provenance to a network, as a plain attribute that a deep copy carries along."""
    object.__setattr__(model, _ATTRIBUTE, provenance)


def kept(said: Provenance, found: Provenance) -> Provenance:
    """Return what was found out about a network, but for what its owner has said."""
    own = {entry.name: getattr(said, entry.name) for entry in fields(said)}
    own = {name: value for name, value in own.items() if value != getattr(UNKNOWN, name)}
    said_so = {"normalisation": "normalisation" in own, "crop": "use" in own}
    return replace(found, **own | {"guessed": tuple(name for name in found.guessed if not said_so[name])})


def of_shape(known: Provenance, shape: tuple[int, ...]) -> Provenance:
    """Return what is known of a network for inputs of one shape: pictures of another were resized to other pixels."""
    resize, old = known.use.resize, known.input_shape
    use = known.use
    if isinstance(resize, int) and old is not None and old != shape and len(old) == len(shape) == 3:
        use = replace(use, resize=None, crop=min(1.0, min(old[1:]) / resize))
    return replace(known, input_shape=shape, use=use)
