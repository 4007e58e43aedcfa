"""Records that become JSON and come back checked, and the JSON Schema of them.

A record is a frozen dataclass. What a field may hold is its annotation, within the `Bounds` of an `Annotated` number;
what it means stands under `Attributes:` in the docstring. A record that must hold together in another way raises
ValueError when it is made.
"""

import inspect
import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from slimkit.errors import RecordError

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_KINDS: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_HUGE = 1e30  # beyond any figure of a run, and safe to compute with
_DEEPEST = 16  # levels of plain JSON within a record


@dataclass(frozen=True)
class Bounds:
    """The least and the most that a number may be."""

    least: float = -_HUGE
    most: float = _HUGE


_FINITE = Bounds()
Count = Annotated[int, Bounds(0)]
Positive = Annotated[int, Bounds(1)]
Amount = Annotated[float, Bounds(0)]
Share = Annotated[float, Bounds(0, 1)]
Json = Any  # numbers, text, true, false, null, and lists and dicts of them


class Record:
    """Base of all records."""

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON has: dicts, lists, text and numbers; NaN and infinity become None."""
        return {entry.name: _plain(getattr(self, entry.name)) for entry in _fields(type(self))}

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name, so that a record reads like the JSON that it becomes."""
        if name not in {entry.name for entry in _fields(type(self))}:
            raise KeyError(name)
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field by its name, or the default where there is no such field."""
        try:
            return self[name]
        except KeyError:
            return default

    @classmethod
    def from_dict(cls, value: object, path: str = "") -> Self:
        """Make a record of what `to_dict` gave, or of anything that claims to be that.

        Args:
            value: what JSON held.
            path: where it stood, for the message: names and numbers with slashes.

        Raises:
            RecordError: a field is missing, unknown, of another kind or out of range; the message has its path.
        """
        if not isinstance(value, Mapping):
            raise RecordError(f"{path or _called(cls)}: it is {_shown(value)}, but must be an object.")
        found: dict[str, Any] = {}
        known = {entry.name: entry for entry in _fields(cls)}
        for name in value:
            if name not in known:
                raise RecordError(f"{_join(path, name)}: there is no such field here.")
        hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable
        for name, entry in known.items():
            if name in value:
                found[name] = _read(hints[name], value[name], _join(path, name))
            elif entry.default is MISSING and entry.default_factory is MISSING:
                raise RecordError(f"{_join(path, name)}: it is missing.")
        try:
            return cls(**found)
        except ValueError as error:
            raise RecordError(f"{path or _called(cls)}: {error}.") from None

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (draft 2020-12) of a record, with every record within it under `$defs`."""
        within: dict[str, Any] = {}
        own = _object(cls, within)
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": cls.__name__, **own} | (
            {"$defs": dict(sorted(within.items()))} if within else {}
        )


def meanings(kind: type) -> dict[str, str]:
    """Return what the fields of a record mean, as its docstring says under `Attributes:`."""
    _, _, text = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", text.rstrip()):
        names, _, meaning = entry.strip().partition(": ")
        found |= {name.strip(): " ".join(meaning.split()) for name in names.split(",")}
    return found


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _fields(kind: Any) -> tuple[Field[Any], ...]:
    return fields(kind)


def _called(kind: type) -> str:
    """Return what a record is called in messages: the latency table."""
    return "the" + re.sub(r"[A-Z]", lambda capital: f" {capital[0].lower()}", kind.__name__)


def _join(path: str, name: object) -> str:
    shown = str(name)[:60]
    shown = shown if shown.isprintable() else ascii(shown)
    return f"{path}/{shown}" if path else shown


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _read(kind: Any, value: object, path: str) -> Any:
    """Check a value against an annotation and return it as a record holds it."""
    if kind in _WORDS:
        return _simple(kind, value, path)
    if get_origin(kind) is Annotated:
        return _simple(kind.__origin__, value, path, *kind.__metadata__)
    if kind is Any:
        return _json(value, path)
    if get_origin(kind) in (Union, types.UnionType):
        return _one_of(get_args(kind), value, path)
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise RecordError(f"{path}: it is {_shown(value)}, but must be {' or '.join(map(repr, get_args(kind)))}.")
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise RecordError(f"{path}: it is {_shown(value)}, but must be a list.")
        return tuple(_read(get_args(kind)[0], one, _join(path, place)) for place, one in enumerate(value))
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            raise RecordError(f"{path}: it is {_shown(value)}, but must be an object.")
        each = get_args(kind)[1]
        return {_text(name, path): _read(each, one, _join(path, name)) for name, one in value.items()}
    record: type[Record] = kind
    return record.from_dict(value, path)


def _simple(kind: type, value: object, path: str, bounds: Bounds = _FINITE) -> Any:
    if kind is str:
        return _text(value, path)
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise RecordError(f"{path}: it is {_shown(value)}, but must be {_WORDS[kind]}.")
    if isinstance(value, (int, float)) and not bounds.least <= value <= bounds.most:
        raise RecordError(f"{path}: it is {_shown(value)}, but must be {_span(bounds)}.")
    return value


def _one_of(kinds: tuple[Any, ...], value: object, path: str) -> Any:
    """Read what may be null, of one of several plain kinds, or one of several records, told apart by their `kind`."""
    rest = [kind for kind in kinds if kind is not type(None)]
    if value is None and len(rest) < len(kinds):
        return None
    if len(rest) == 1:
        return _read(rest[0], value, path)
    if all(isinstance(kind, type) and issubclass(kind, Record) for kind in rest):
        tag = value.get("kind") if isinstance(value, Mapping) else None
        tags = {tag: kind for kind in rest for tag in get_args(_hints(kind)["kind"])}
        if not isinstance(tag, str) or tag not in tags:
            raise RecordError(f"{_join(path, 'kind')}: it is {_shown(tag)}, but must be {' or '.join(tags)}.")
        return _read(tags[tag], value, path)
    for kind in rest:
        try:
            return _read(kind, value, path)
        except RecordError:
            continue
    raise RecordError(f"{path}: it is {_shown(value)}, but must be {' or '.join(_word(kind) for kind in rest)}.")


def _text(value: object, path: str) -> str:
    if not isinstance(value, str) or value.encode("utf-8", "ignore").decode() != value:
        raise RecordError(f"{path}: it is {_shown(value)}, but must be text.")
    return value


def _json(value: object, path: str, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise RecordError(f"{path}: it is nested too deeply.")
    if isinstance(value, Mapping):
        return {_text(name, path): _json(one, _join(path, name), depth + 1) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_json(one, _join(path, place), depth + 1) for place, one in enumerate(value))
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _read(float if isinstance(value, float) else int, value, path)
    if value is None or isinstance(value, bool):
        return value
    raise RecordError(f"{path}: it is {_shown(value)}, which JSON does not have.")


def _word(kind: Any) -> str:
    return _WORDS[kind.__origin__ if get_origin(kind) is Annotated else kind]


def _span(bounds: Bounds) -> str:
    if bounds.least <= -_HUGE:
        return "finite"
    return f"in [{bounds.least:g}, {bounds.most:g}]" if bounds.most < _HUGE else f"{bounds.least:g} or more, and finite"


def _object(kind: type, within: dict[str, Any]) -> dict[str, Any]:
    hints, said = _hints(kind), meanings(kind)
    needed = [f.name for f in _fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    return {
        "description": (inspect.getdoc(kind) or "").partition("\n")[0],
        "type": "object",
        "properties": {
            entry.name: _schema(hints[entry.name], within) | {"description": said[entry.name]}
            for entry in _fields(kind)
        },
        "required": needed,
        "additionalProperties": False,
    }


def _schema(kind: Any, within: dict[str, Any]) -> dict[str, Any]:
    if get_origin(kind) is Annotated:
        inner, bounds = get_args(kind)
        limits = {"minimum": bounds.least, "maximum": bounds.most}
        return _schema(inner, within) | {name: limit for name, limit in limits.items() if abs(limit) < _HUGE}
    if kind is Any:
        return {}
    if get_origin(kind) in (Union, types.UnionType):
        return {"anyOf": [_schema(one, within) for one in get_args(kind)]}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _schema(get_args(kind)[0], within)}
    if get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": _schema(get_args(kind)[1], within)}
    if issubclass(kind, Record):
        if kind.__name__ not in within:
            within[kind.__name__] = _object(kind, within)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    return {"type": _KINDS[kind]}
