"""What stands in a slim file beside the weights: written from a provenance, checked when read."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from slimkit import provenance, usage
from slimkit._version import __version__
from slimkit.errors import ArchitectureError, CheckpointError, RecordError
from slimkit.models.names import is_shown
from slimkit.provenance import UNKNOWN, Provenance
from slimkit.record import Bounds, Count, Json, Positive, Record
from slimkit.usage import INPUT, Input

SCHEMA = "slimkit.slim/3"
_FIRST = "slimkit.slim/1"  # knew of narrowing only
_SECOND = "slimkit.slim/2"  # did not say how the network is used

_LONGEST = 2**24  # samples of a signal are many
_Size = Annotated[int, Bounds(1, _LONGEST)]
_TYPES = ("float32", "float64", "complex64", "int8", "int16", "int32", "int64", "uint8", "bool")  # of inputs
_LARGEST = 2**14  # of a factory's argument that is no size of a stored tensor
_CODE = ("features_only", "feature_cls")  # timm traces such networks with torch.fx
_MOST = 10_000  # values among the arguments


@dataclass(frozen=True, kw_only=True)
class Normalised(Record):
    """Mean and standard deviation of each input channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class NarrowedEntry(Record):
    """A `provenance.Narrowed`."""

    kind: Literal["narrowed"]
    kept: dict[str, tuple[Count, ...]]
    attributes: dict[str, dict[str, Json]]


@dataclass(frozen=True, kw_only=True)
class FactorisedEntry(Record):
    """A `provenance.Factorised`."""

    kind: Literal["factorised"]
    ranks: dict[str, Positive]


@dataclass(frozen=True, kw_only=True)
class MaskedEntry(Record):
    """A `provenance.Masked`."""

    kind: Literal["masked"]
    left: dict[str, Count]
    weights: Literal["ticket", "trained"]


@dataclass(frozen=True, kw_only=True)
class ReplacedEntry(Record):
    """A `provenance.Replaced`."""

    kind: Literal["replaced"]
    layers: dict[str, dict[str, Json]]


_EDITS: dict[str, type[provenance.Edit]] = {
    "narrowed": provenance.Narrowed,
    "factorised": provenance.Factorised,
    "masked": provenance.Masked,
    "replaced": provenance.Replaced,
}


@dataclass(frozen=True, kw_only=True)
class Metadata(Record):
    """What a slim file says of its network; `digest` is over everything else in the file."""

    format: Literal["slimkit.slim/3"]
    slimkit: str
    arch: str
    arguments: dict[str, Json]
    input_shape: tuple[_Size, ...] | None
    classes: Positive | None
    normalisation: Normalised | None
    usage: usage.Usage | None
    attributes: dict[str, dict[str, Json]]
    edits: tuple[NarrowedEntry | FactorisedEntry | MaskedEntry | ReplacedEntry, ...]
    aliases: dict[str, str]
    digest: str

    def __post_init__(self) -> None:
        if self.input_shape is not None and not 1 <= len(self.input_shape) <= 4:
            raise ValueError("input_shape must have one to four sizes")
        for one in self._named:
            sizes = _sizes(one)
            if sizes != one.shape or len(sizes) > 4 or max(sizes, default=1) > _LONGEST or one.dtype not in _TYPES:
                raise ValueError(f"input {one.name!r} must be of one to four known sizes, and of a type of numbers")
            if not one.name.isidentifier():
                raise ValueError(f"input {one.name!r} must be called as an argument is")

    @property
    def _named(self) -> tuple[Input, ...]:
        """The inputs that are told apart by their names."""
        inputs = () if self.usage is None else self.usage.inputs
        return () if [one.name for one in inputs] == [INPUT] else inputs

    def provenance(self) -> Provenance:
        """Return the record as the provenance to attach to the network."""
        plain = self.to_dict()
        return Provenance(
            arch=self.arch,
            arguments=plain["arguments"],
            input_shape=self.input_shape,
            inputs={one.name: (_sizes(one), one.dtype) for one in self._named},
            classes=self.classes,
            normalisation=plain["normalisation"],
            use=UNKNOWN.use if self.usage is None else self.usage.use,
            attributes=plain["attributes"],
            edits=tuple(_EDITS[edit.pop("kind")](**edit) for edit in plain["edits"]),
        )


def write(
    provenance: Provenance,
    aliases: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    held: Mapping[str, Tensor] | None = None,
) -> str:
    """Return the metadata of a network as JSON.

    Args:
        provenance: of the network; its `arch` is known.
        aliases: tensor name -> name under which the same tensor is stored.
        tensors: all stored tensors by name; part of the digest.
        held: those of the network, where they are stored elsewhere.

    Raises:
        ArchitectureError: it could not be read again.
    """
    fields: dict[str, Any] = {
        "format": SCHEMA,
        "slimkit": __version__,
        "arch": provenance.arch,
        "arguments": provenance.arguments,
        "input_shape": list(provenance.input_shape) if provenance.input_shape else None,
        "classes": provenance.classes,
        "normalisation": provenance.normalisation,
        "usage": usage.described(provenance).to_dict(),
        "attributes": provenance.attributes,
        "edits": [{"kind": type(edit).__name__.lower(), **asdict(edit)} for edit in provenance.edits],
        "aliases": dict(aliases),
    }
    fields = json.loads(json.dumps(fields))  # tuples become lists before the digest is taken
    fields = {**fields, "digest": digest(fields, tensors)}
    try:
        _record(fields, tensors if held is None else held)
    except RecordError as error:
        raise ArchitectureError(
            f"cannot save a network of {provenance.arch}: its description could not be read again "
            f"({str(error).rstrip('.')}).\n"
            "  Change what its provenance says: slimkit.provenance.attach(model, Provenance(...))"
        ) from None
    return json.dumps(fields)


def read(text: str, tensors: Mapping[str, Tensor], path: Path, held: Mapping[str, Tensor] | None = None) -> Metadata:
    """Check the metadata of a file from anywhere, and that neither it nor the tensors were changed.

    Args:
        text: of the metadata.
        tensors: as for `write`.
        path: of the file, for messages.
        held: as for `write`.

    Raises:
        CheckpointError: it is no slim file's metadata, of a newer format, or damaged.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(path, str(error)) from None
    if not isinstance(fields, dict):
        raise _broken(path, "not a table")
    if fields.get("format") not in (SCHEMA, _SECOND, _FIRST):
        raise CheckpointError(
            f"{path}: a slim file of format {fields.get('format')!r}; this slimkit ({__version__}) reads "
            f"{SCHEMA!r}.\n"
            "  Update slimkit: pip install -U slimkit"
        )
    try:
        record = _record(_upgraded(fields), tensors if held is None else held)
    except RecordError as error:
        raise _broken(path, str(error).rstrip(".")) from None
    del fields["digest"]
    if record.digest != digest(fields, tensors):
        raise CheckpointError(
            f"{path}: the file was changed after it was written: its digest does not fit.\n  Copy or make it again."
        )
    return record


def _record(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Metadata:
    """Return the fields as a record that describes no other networks than those of these tensors.

    Raises:
        RecordError: numbers without measure, names that are no names, or no such record.
    """
    record = Metadata.from_dict(fields)
    # a factory is told the widths from before a cut; each had a number for every channel at least
    most = max(sum(tensor.numel() for tensor in tensors.values()), _LARGEST)
    changed = [record.attributes, *(edit.attributes for edit in record.edits if isinstance(edit, NarrowedEntry))]
    changed += [edit.layers for edit in record.edits if isinstance(edit, ReplacedEntry)]
    values = list(_leaves([record.arguments, *changed]))
    for value in values:
        if isinstance(value, int | float) and not abs(value) <= most:
            raise RecordError(f"a network of {value} of anything has larger tensors than those in the file")
        if isinstance(value, str) and len(value) > 200:
            raise RecordError("an argument of more than 200 characters")
    if len(values) > _MOST:
        raise RecordError(f"more than {_MOST} arguments")
    names = [*record.aliases, *(name for table in changed for name in table)]
    names += [name for edit in record.edits if isinstance(edit, FactorisedEntry) for name in edit.ranks]
    names += [name for edit in record.edits if isinstance(edit, MaskedEntry) for name in edit.left]
    odd = next((name for name in names if not is_shown(name)), None)
    if odd is not None:
        raise RecordError(f"a part named {odd!r}")
    for name in _CODE:
        if name in record.arguments:
            raise RecordError(f"the argument {name!r} builds code")
    return record


def _sizes(one: Input) -> tuple[int, ...]:
    return tuple(size for size in one.shape if size is not None)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        yield value
        return
    for inner in value:
        yield from _leaves(inner)


def _upgraded(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a file of an earlier format as those of today's."""
    if fields["format"] == _FIRST and isinstance(fields.get("passes"), list):
        edits = [{"kind": "narrowed", "kept": kept, "attributes": {}} for kept in fields["passes"]]
        rest = {name: value for name, value in fields.items() if name != "passes"}
        fields = {**rest, "format": _SECOND, "edits": edits}
    if fields["format"] == _SECOND:
        fields = {"usage": None, **fields, "format": SCHEMA}
    return fields


def digest(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the metadata and of every tensor's name, type, shape and bytes."""
    total = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _broken(path: Path, detail: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: the description of the network inside it cannot be read ({detail}).\n  Make the file again."
    )
