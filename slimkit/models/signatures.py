"""Which architecture a state dict belongs to, told by the names and shapes of its tensors."""

import functools
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from slimkit.errors import ArchitectureError
from slimkit.models import building
from slimkit.models.reference import Reference

TensorShapes = dict[str, tuple[int, ...]]
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_UNCOUNTED = "num_batches_tracked"  # absent from state dicts of torch before 0.4.1


@dataclass(frozen=True)
class Signature:
    """Tensor names and shapes of one architecture, and which sizes are the user's to choose.

    Attributes:
        arch: reference, `torchvision:resnet18`.
        arguments: factory arguments that this signature was made with.
        shapes: tensor name -> shape, without BatchNorm's batch counters.
        classes: (tensor name, dimension) of the sizes that equal the number of classes.
        channels: (tensor name, dimension, factor): the size that is `factor` times the image's channels.
        names: what the factory calls the number of classes and of channels; None where it takes none.
    """

    arch: str
    arguments: dict[str, Any]
    shapes: TensorShapes
    classes: tuple[tuple[str, int], ...]
    channels: tuple[str, int, int] | None
    names: tuple[str | None, str | None]

    def as_json(self) -> dict[str, Any]:
        """Return the signature as plain data."""
        return vars(self)


@dataclass(frozen=True)
class Match:
    """An architecture as a state dict tells it, or as it was asked for.

    Attributes:
        reference: the architecture.
        arguments: arguments of its factory, the number of classes among them.
        classes: number of classes, None where the network has no classifier.
        attributes: as in `Provenance.attributes`: what the factory cannot be told by arguments.
    """

    reference: Reference
    arguments: dict[str, Any]
    classes: int | None
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)


def shapes_of(tensors: Mapping[str, Any]) -> TensorShapes:
    """Return names and shapes of a state dict's tensors, without batch counters."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor) and not name.endswith(_UNCOUNTED)
    }


def signature(reference: Reference, arguments: Mapping[str, Any]) -> Signature:
    """Make the signature of an architecture by building it on the meta device.

    Raises:
        ArchitectureError: it cannot be built.
    """
    classes = building.takes(reference, *building.CLASSES)
    channels = building.takes(reference, *building.CHANNELS)
    wanted = {**building.placeholders(reference), **arguments}
    plain = building.skeleton(reference, wanted)
    shapes = shapes_of(plain.state_dict())
    free = tuple(place for place, _, _ in _varied(reference, wanted, shapes, classes))
    stem = None
    if channels:
        varied = _varied(reference, wanted, shapes, channels)
        stem = next(((*place, size // number) for place, size, number in varied), None)
    else:
        first = first_convolution(plain)
        stem = (f"{first[0]}.weight", 1, 1) if first else None
    return Signature(str(reference), dict(arguments), shapes, free, stem, (classes, channels))


def first_convolution(model: nn.Module) -> tuple[str, Convolution] | None:
    """Return the convolution that seems to read the image, or the signal, with its module path.

    None where the first one is transposed, is in groups, or computes its weight, which is stored by other names then:
    its inputs are not the second dimension of a `weight`.
    """
    path, first = next(((n, m) for n, m in model.named_modules() if isinstance(m, _ConvNd)), ("", None))
    if not isinstance(first, CONVOLUTIONS) or first.groups > 1 or "weight" not in first._parameters:
        return None
    return path, first


def match(given: TensorShapes, entry: Signature) -> Match | None:
    """Fit a state dict to one signature; None where it does not fit."""
    if given.keys() != entry.shapes.keys():
        return None
    wanted = {name: list(shape) for name, shape in entry.shapes.items()}
    classes: set[int] = set()
    for name, dim in entry.classes:
        if len(given[name]) != len(wanted[name]):
            return None
        wanted[name][dim] = given[name][dim]
        classes.add(given[name][dim])
    channels = None
    if entry.channels:
        name, dim, factor = entry.channels
        if len(given[name]) == len(wanted[name]) and given[name][dim] % factor == 0:
            channels = given[name][dim] // factor if given[name][dim] != wanted[name][dim] else None
            wanted[name][dim] = given[name][dim]
    if len(classes) > 1 or any(tuple(shape) != given[name] for name, shape in wanted.items()):
        return None
    return _matched(entry, next(iter(classes), None), channels)


def identify(tensors: Mapping[str, Tensor], where: str) -> Match:
    """Find the one architecture of the index that a state dict belongs to.

    Args:
        tensors: the state dict, prefixes taken off.
        where: the file it comes from, for the message.

    Raises:
        ArchitectureError: none fits, or several do; the message lists the nearest.
    """
    given = shapes_of(tensors)
    found = [fit for entry in index() if (fit := match(given, entry))]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(fit.reference) for fit in found)
        raise ArchitectureError(
            f"{where}: its tensors fit {len(found)} architectures: {names}.\n"
            f"  Say which: `arch={str(found[0].reference)!r}`"
        )
    raise ArchitectureError(_nothing_fits(given, where))


@functools.cache
def index() -> tuple[Signature, ...]:
    """Read the shipped index; networks of the zoo that it lacks are added by building them."""
    packed = resources.files("slimkit.models").joinpath("signatures.json.xz").read_bytes()
    entries = [
        Signature(
            each["arch"],
            each["arguments"],
            {name: tuple(shape) for name, shape in each["shapes"].items()},
            tuple((name, dim) for name, dim in each["classes"]),
            tuple(each["channels"]) if each["channels"] else None,
            (each["names"][0], each["names"][1]),
        )
        for each in json.loads(lzma.decompress(packed))
    ]
    from slimkit import zoo

    known = {entry.arch for entry in entries}
    new = [name for name in zoo.ARCHITECTURES if f"zoo:{name}" not in known]
    return (*entries, *(signature(Reference("zoo", name), {}) for name in new))


def _varied(
    reference: Reference, wanted: Mapping[str, Any], shapes: TensorShapes, argument: str | None
) -> list[tuple[tuple[str, int], int, int]]:
    """List (tensor name, dimension) that follow an argument, with the size they have for one value of it."""
    if argument is None:
        return []
    for number in (7, 11):  # one of them may be the factory's default
        other = shapes_of(building.skeleton(reference, {**wanted, argument: number}).state_dict())
        places = [
            ((name, dim), size, number)
            for name, shape in shapes.items()
            for dim, size in enumerate(other.get(name, ()))
            if len(other[name]) == len(shape) and size != shape[dim]
        ]
        if places:
            return places
    return []


def _matched(entry: Signature, classes: int | None, channels: int | None) -> Match:
    source, _, name = entry.arch.partition(":")
    reference = Reference(source, name) if source in ("torchvision", "zoo", "timm") else Reference("code", entry.arch)
    arguments = dict(entry.arguments)
    attributes = {}
    class_argument, channel_argument = entry.names
    if class_argument and classes is not None:
        arguments[class_argument] = classes
    if channels is not None and entry.channels:
        if channel_argument:
            arguments[channel_argument] = channels
        else:
            attributes[entry.channels[0].removesuffix(".weight")] = {"in_channels": channels}
    return Match(reference, arguments, classes, attributes)


def _nothing_fits(given: TensorShapes, where: str) -> str:
    ranked = sorted(index(), key=lambda entry: -_likeness(given, entry))[:3]
    best = ranked[0]
    ranked = [entry for entry in ranked if 2 * _likeness(given, entry) > _likeness(given, best)]
    how = "`arch='timm:NAME'`, `arch='package.module:factory'` or `arch='path/to/file.py:factory'`"
    if given and given.keys() == best.shapes.keys() and _narrower(given, best):
        name = next(n for n in given if given[n] != best.shapes[n])
        return (
            f"{where}: the tensors are named as in {best.arch}, but {_count(given, best)} of {len(given)} "
            "are smaller "
            f"({name} is {_by(given[name])}, not {_by(best.shapes[name])}): this network was already "
            "narrowed, and a "
            "state dict does not say how to build it.\n"
            "  Give slimkit's own file of it (model.safetensors), the "
            "dense network's checkpoint, or the code that builds the narrow one: `arch` "
            "path/to/file.py:factory"
        )
    if not given or _likeness(given, best) == 0:
        first = ", ".join(list(given)[:3]) or "no tensors"
        return (
            f"{where}: a state dict of {len(given)} tensors ({first}, ...) that is like none of the "
            f"{len(index())} known ones.\n  Say what builds the network: {how}"
        )
    near = "; ".join(describe(given, entry.shapes, entry.arch) for entry in ranked)
    return (
        f"{where}: its {len(given)} tensors fit none of the {len(index())} known architectures.\n"
        f"  Nearest: {near}.\n  Say what builds the network: {how}"
    )


def describe(given: TensorShapes, wanted: TensorShapes, arch: str) -> str:
    """Say in one clause how a state dict differs from an architecture."""
    equal = sum(given.get(name) == shape for name, shape in wanted.items())
    clauses = []
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    other = [name for name in wanted if name in given and given[name] != wanted[name]]
    if missing:
        clauses.append(f"without {_some(missing)}")
    if extra:
        clauses.append(f"with {_some(extra)} besides")
    if other:
        clauses.append(f"{other[0]} is {_by(given[other[0]])}, not {_by(wanted[other[0]])}" + _more(other, 1))
    return f"{arch} ({equal} of {len(wanted)} tensors agree; {', '.join(clauses)})"


def _likeness(given: TensorShapes, entry: Signature) -> float:
    """Rate 0 to 1 how much two state dicts have in common: names count once, equal shapes once more."""
    names = given.keys() & entry.shapes.keys()
    equal = sum(given[name] == entry.shapes[name] for name in names)
    return (len(names) + equal) / (2 * len(given.keys() | entry.shapes.keys()) or 1)


def _narrower(given: TensorShapes, entry: Signature) -> bool:
    free = {name for name, _ in entry.classes} | ({entry.channels[0]} if entry.channels else set())
    different = [name for name in given if given[name] != entry.shapes[name] and name not in free]
    return len(different) > 1 and all(
        len(given[name]) == len(entry.shapes[name])
        and all(mine <= its for mine, its in zip(given[name], entry.shapes[name], strict=True))
        and (len(given[name]) < 4 or given[name][2:] == entry.shapes[name][2:])
        for name in different
    )


def _count(given: TensorShapes, entry: Signature) -> int:
    return sum(given[name] != shape for name, shape in entry.shapes.items())


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _some(names: list[str]) -> str:
    return names[0] + _more(names, 1)


def _more(names: list[str], shown: int) -> str:
    return f" and {len(names) - shown} more" if len(names) > shown else ""
