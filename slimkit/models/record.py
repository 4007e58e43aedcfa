"""What stands in a slim file beside the weights: written from a provenance, checked when read."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from torch import Tensor

from slimkit import provenance
from slimkit._version import __version__
from slimkit.errors import CheckpointError
from slimkit.models.names import is_plain
from slimkit.provenance import Provenance

SCHEMA = "slimkit.slim/2"
_FIRST = "slimkit.slim/1"  # knew of narrowing only

_Count = Annotated[int, Field(gt=0)]
_Index = Annotated[int, Field(ge=0)]
_Size = Annotated[int, Field(gt=0, le=2**16)]
_LARGEST = 2**14  # of a factory's argument that is no size of a stored tensor
_CODE = ("features_only", "feature_cls")  # timm traces such networks with torch.fx
_MOST = 10_000  # values among the arguments


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Normalisation(_Strict):
    """Mean and standard deviation of each input channel."""

    mean: list[float]
    std: list[float]


class Narrowed(_Strict):
    """A `provenance.Narrowed`."""

    kind: Literal["narrowed"]
    kept: dict[str, list[_Index]]
    attributes: dict[str, dict[str, JsonValue]]


class Factorised(_Strict):
    """A `provenance.Factorised`."""

    kind: Literal["factorised"]
    ranks: dict[str, _Count]


class Masked(_Strict):
    """A `provenance.Masked`."""

    kind: Literal["masked"]
    left: dict[str, _Index]
    weights: Literal["ticket", "trained"]


_EDITS: dict[str, type[provenance.Edit]] = {
    "narrowed": provenance.Narrowed,
    "factorised": provenance.Factorised,
    "masked": provenance.Masked,
}


class Record(_Strict):
    """The metadata of a slim file; `digest` is over everything else in the file."""

    format: Literal["slimkit.slim/2"]
    slimkit: str
    arch: str
    arguments: dict[str, JsonValue]
    input_shape: Annotated[list[_Size], Field(min_length=1, max_length=4)] | None
    classes: _Count | None
    normalisation: Normalisation | None
    attributes: dict[str, dict[str, JsonValue]]
    edits: list[Annotated[Narrowed | Factorised | Masked, Field(discriminator="kind")]]
    aliases: dict[str, str]
    digest: str

    def provenance(self) -> Provenance:
        """Return the record as the provenance to attach to the network."""
        return Provenance(
            arch=self.arch,
            arguments=dict(self.arguments),
            input_shape=tuple(self.input_shape) if self.input_shape else None,
            classes=self.classes,
            normalisation=self.normalisation.model_dump() if self.normalisation else None,
            attributes={path: dict(values) for path, values in self.attributes.items()},
            edits=tuple(_EDITS[edit.kind](**edit.model_dump(exclude={"kind"})) for edit in self.edits),
        )


def write(provenance: Provenance, aliases: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the metadata of a network as JSON.

    Args:
        provenance: of the network; its `arch` is known.
        aliases: tensor name -> name under which the same tensor is stored.
        tensors: all stored tensors by name; part of the digest.
    """
    fields: dict[str, Any] = {
        "format": SCHEMA,
        "slimkit": __version__,
        "arch": provenance.arch,
        "arguments": provenance.arguments,
        "input_shape": list(provenance.input_shape) if provenance.input_shape else None,
        "classes": provenance.classes,
        "normalisation": provenance.normalisation,
        "attributes": provenance.attributes,
        "edits": [{"kind": type(edit).__name__.lower(), **asdict(edit)} for edit in provenance.edits],
        "aliases": dict(aliases),
    }
    fields = json.loads(json.dumps(fields))  # tuples become lists before the digest is taken
    return json.dumps({**fields, "digest": _digest(fields, tensors)})


def read(text: str, tensors: Mapping[str, Tensor], path: Path) -> Record:
    """Check the metadata of a file from anywhere, and that neither it nor the tensors were changed.

    Raises:
        CheckpointError: it is no slim file's metadata, of a newer format, or damaged.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(path, str(error)) from None
    if not isinstance(fields, dict):
        raise _broken(path, "not a table")
    if fields.get("format") not in (SCHEMA, _FIRST):
        raise CheckpointError(
            f"{path}: a slim file of format {fields.get('format')!r}; this slimkit ({__version__}) reads "
            f"{SCHEMA!r}.\n"
            "  Update slimkit: pip install -U slimkit"
        )
    try:
        record = Record.model_validate(_upgraded(fields))
    except ValidationError as error:
        first = error.errors()[0]
        raise _broken(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    _check_arguments(record, tensors, path)
    del fields["digest"]
    if record.digest != _digest(fields, tensors):
        raise CheckpointError(
            f"{path}: the file was changed after it was written: its digest does not fit.\n  Copy or make it again."
        )
    return record


def _check_arguments(record: Record, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse arguments that no network of these tensors has: numbers without measure, names that are no names."""
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    changed = [record.attributes, *(edit.attributes for edit in record.edits if isinstance(edit, Narrowed))]
    values = list(_leaves([record.arguments, *changed]))
    for value in values:
        if isinstance(value, int | float) and not abs(value) <= max(largest, _LARGEST):
            raise _broken(path, f"a network of {value} of anything has larger tensors than those in the file")
        if isinstance(value, str) and len(value) > 200:
            raise _broken(path, "an argument of more than 200 characters")
    if len(values) > _MOST:
        raise _broken(path, f"more than {_MOST} arguments")
    names = [*record.aliases, *(name for table in changed for name in table)]
    names += [name for edit in record.edits if isinstance(edit, Factorised) for name in edit.ranks]
    names += [name for edit in record.edits if isinstance(edit, Masked) for name in edit.left]
    odd = next((name for name in names if not is_plain(name)), None)
    if odd is not None:
        raise _broken(path, f"a part named {odd!r}")
    for name in _CODE:
        if name in record.arguments:
            raise _broken(path, f"the argument {name!r} builds code")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        yield value
        return
    for inner in value:
        yield from _leaves(inner)


def _upgraded(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a file of the first format as those of today's."""
    if fields["format"] != _FIRST or not isinstance(fields.get("passes"), list):
        return fields
    rest = {name: value for name, value in fields.items() if name != "passes"}
    edits = [{"kind": "narrowed", "kept": kept, "attributes": {}} for kept in fields["passes"]]
    return {**rest, "format": SCHEMA, "edits": edits}


def _digest(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
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
