"""Settings to and from a TOML file, and from single words of a command line."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from slimkit.errors import SpecError
from slimkit.settings.setting import Settings

Spec = TypeVar("Spec", bound=Settings)


def make(kind: type[Spec], settings: Mapping[str, Any], source: str = "the settings") -> Spec:
    """Make a spec from settings by name.

    Raises:
        SpecError: a name is unknown (the nearest known ones are listed), or a value is refused.
    """
    known = [entry.name for entry in fields(kind)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}"
            raise SpecError(f"{name!r} in {source}: there is no such setting of {kind.__name__}.\n  {hint}")
    return kind(**settings)


def read_config(path: Path, given: Iterable[str] = (), trusted: bool = False) -> dict[str, Any]:
    """Read a settings file that may come from anywhere: unless `trusted`, it names no code that would be run.

    Args:
        path: the file.
        given: names of settings that the command line gives itself; they win, so the file's do not count.
        trusted: the user trusts the file as much as a program.

    Raises:
        SpecError: the file is missing, unreadable or no TOML, or a setting names code.
    """
    settings = {name: value for name, value in _read(path).items() if name not in set(given)}
    for name, value in settings.items():
        if not trusted and _names_code(name, value):
            raise SpecError(
                f"{path}: {name} = {_literal(value)} runs code, which slimkit does not do on a file's word.\n"
                f"  If you know that code, say so on the command line, `{name}={value!r}`, or trust all of the file: "
                "`trust_config=True`"
            )
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) <= _LARGEST:
            return _parse(text.decode(), path.name)
        wrong = "the file is too large for settings"
    except OSError as error:
        wrong = f"the settings file cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        wrong = "the settings file is not UTF-8 text"
    raise SpecError(f"{path}: {wrong}.\n  Give a TOML file, such as the run.toml of an earlier run")


_LARGEST = 2**24  # bytes of a settings file: a study of thousands of arms takes one of these sixteen millions
# What has a colon and names no code, by the setting: elsewhere `cuda:make` is a module called cuda. A new setting that
# may name code need not be entered anywhere.
_ARCHITECTURES, _FOLDER = ("torchvision:", "zoo:", "timm:"), ("folder:",)
_NO_CODE = {
    "arch": _ARCHITECTURES, "data": _FOLDER, "calibration": _FOLDER, "draw": ("epoch:",), "device": ("cuda:",),
}  # fmt: skip
_PATHS = ("latency_table", "data_root")


def _names_code(name: str, value: Any) -> bool:
    if name == "trust_pickle":
        return value is not False
    if isinstance(value, dict):
        return any(_names_code(inner, each) for inner, each in value.items())
    if isinstance(value, list):
        return any(_names_code(name, each) for each in value)
    harmless = _NO_CODE.get(name, ())
    return name not in _PATHS and isinstance(value, str) and ":" in value and not value.startswith(harmless)


def from_toml(text: str, kind: type[Spec], source: str = "run.toml") -> Spec:
    """Make a spec from the text of a TOML file; `source` names it in messages."""
    return make(kind, _parse(text, source), source)


def to_toml(*specs: Settings, heading: str = "") -> str:
    """Write settings as TOML, complete, each with its meaning; `from_toml` gives an equal spec back.

    `heading` goes first, as comments.
    """
    lines = [f"# {line}" for line in heading.splitlines()]
    for spec in specs:
        for entry in fields(spec):
            value = getattr(spec, entry.name)
            lines += ["", f"# {entry.metadata['help']}"] if lines else [f"# {entry.metadata['help']}"]
            lines.append(f"# {entry.name}: not set" if value is None else f"{entry.name} = {_literal(value)}")
    return "\n".join(lines) + "\n"


def read_words(kind: type[Settings], words: Mapping[str, str]) -> dict[str, Any]:
    """Read values as they stand on a command line: as in TOML, or as text where nothing else fits; 0.3,0.7 is a list.

    Unknown names are left for `make` to refuse.
    """
    types = {entry.name: entry.type for entry in fields(kind)}
    return {name: _read_as(types.get(name), word) for name, word in words.items()}


def _read_as(kind: Any, word: str) -> Any:
    """Read a word for a field of some type."""
    if kind in (str, str | None):
        return word
    if get_origin(kind) is not tuple or word.startswith("["):
        return _read_word(word)
    texts = [each.strip() for each in word.split(",")]
    if get_args(kind)[0] is str and not word.startswith(('"', "'")):  # a layer may be called 0.0
        return texts
    found = _read_word(f"[{word}]")
    return texts if isinstance(found, str) else found


def read_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """Split `key=value` words.

    Raises:
        SpecError: a word has no key or no `=`.
    """
    words = {}
    for pair in pairs:
        name, equals, word = pair.partition("=")
        if not equals or not name.strip():
            raise SpecError(f"--set {pair}: it must be key=value.\n  For example --set round_to=16")
        words[name.strip().replace("-", "_")] = word.strip()
    return words


def _read_word(word: str) -> Any:
    if re.fullmatch(r"[+-]?(\d+\.|\.\d+)", str(word)):
        return float(word)  # .5 and 2. are numbers to everybody but TOML
    try:
        value = tomllib.loads(f"value = {word}")
    except (ValueError, RecursionError):
        return word
    return value["value"] if len(value) == 1 and isinstance(value["value"], (bool, int, float, str, list)) else word


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        settings = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError; numbers too long to read; nested without end
        raise SpecError(f"{source}: not valid TOML ({error}).\n  Write one name = value a line") from None
    for name, value in settings.items():
        if isinstance(value, int) and abs(value) >= 2**63:  # TOML's own limit; longer ones cannot even be printed
            raise SpecError(f"{source}: {name} is a number of more than 64 bits.\n  Write a smaller one")
    return settings


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, float):
        return repr(value)  # 0.1, 1e-05: the shortest text that reads back equal; valid TOML
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML escapes as JSON does
