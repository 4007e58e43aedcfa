"""From words of a command line, and the settings file that they name, to settings; no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from slimkit.errors import SpecError
from slimkit.settings.compress import CompressSpec
from slimkit.settings.run import BUDGETS, RUNTIMES, TRACERS
from slimkit.settings.setting import Settings
from slimkit.settings.study import BUDGET_AXES, StudySpec, study_spec
from slimkit.settings.toml_file import make, read_config, read_pairs, read_words
from slimkit.settings.train import TrainSpec

Spec = TypeVar("Spec", bound=Settings)

# `--engine` names who traces or who runs; the names are disjoint.
ENGINES = dict.fromkeys(TRACERS, "tracer") | dict.fromkeys(RUNTIMES, "runtime")
_BUDGETS = ("ratio", *(f"max_{kind}" for kind in BUDGETS), "max_drop")


def method_words(words: Sequence[str]) -> dict[str, str]:
    """Read `--name value`, `--name=value`, `--name` and `--no-name`: options that belong to a method."""
    found: dict[str, str] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise SpecError(f"{word!r}: there is no such argument.\n  See slimkit train --help")
        if not equals and left and not left[0].startswith("--"):
            value = left.pop(0)
        elif not equals:
            name, value = name.removeprefix("no-"), "false" if name.startswith("no-") else "true"
        name = name.replace("-", "_")
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def together(*given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that were given in several ways of a command line.

    Raises:
        SpecError: one has two values.
    """
    found: dict[str, Any] = {}
    for name, value in (pair for one in given for pair in one.items()):
        if str(found.setdefault(name, value)).lower() != str(value).lower():
            raise SpecError(f"{name} is {found[name]} and {value}: it is given twice.\n  Leave one of them out")
    return found


def settings_and_words(words: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a settings file holds, and what `--set` and flags add; these win, their budget too."""
    config, pairs, engines = words.pop("config", None), words.pop("pairs"), words.pop("engine", ())
    trusted = words.pop("trust_config")
    for engine in engines:
        if engine not in ENGINES:
            raise SpecError(f"engine is {engine!r}: it must be one of {', '.join(ENGINES)}.")
    flags = {name: value for name, value in words.items() if value is not None}
    given = together(*(read_pairs([pair]) for pair in pairs), flags, *({ENGINES[one]: one} for one in engines))
    settings = {} if config is None else read_config(config, given, trusted)
    if given.keys() & _BUDGETS:
        gone = _BUDGETS if "max_drop" in given else (*_BUDGETS, "minimise")  # which says what a drop makes small
        settings = {name: value for name, value in settings.items() if name not in gone}
    return settings, given


def gather(kind: type[Spec], words: dict[str, Any], only: Sequence[str] = ()) -> Spec:
    """Make a spec from a settings file, `--set` and flags.

    Args:
        kind: of spec.
        words: by name.
        only: names of the settings that the command has a use for; all unless given. A file may have others.

    Raises:
        SpecError: a value or a name is refused.
    """
    settings, given = settings_and_words(words)
    if only:
        settings = {name: value for name, value in settings.items() if name in only}
        idle = next((name for name in given if name not in only), None)
        if idle is not None:
            raise SpecError(f"{idle} is {given[idle]}: this command has no use for it.\n  Leave it out")
    return make(kind, settings | read_words(kind, given))


def gather_each(kind: type[CompressSpec], words: dict[str, Any]) -> list[CompressSpec]:
    """Make a spec for each value of the budget: `--ratio 0.3,0.5` are two.

    Raises:
        SpecError: a value is there twice.
    """
    settings, given = settings_and_words(words)
    for name in _BUDGETS:
        values = [word.strip() for word in given.get(name, "").split(",")]
        if len(values) > 1:
            specs = [make(kind, settings | read_words(kind, given | {name: value})) for value in values]
            asked = [spec.max_drop or spec.budget for spec in specs]
            if any(one in asked[:place] for place, one in enumerate(asked)):  # 0.50 and 50% are 0.5
                raise SpecError(f"{name} is {given[name]}: a value is there twice.\n  Leave one of them out")
            return specs
    return [make(kind, settings | read_words(kind, given))]


def file_among(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Find the one word that is no option and no option's value, a file; give it, and the others."""
    for place, word in enumerate(words):
        option = words[place - 1] if place else ""
        if not word.startswith("--") and not (option.startswith("--") and "=" not in option):
            return Path(word), [*words[:place], *words[place + 1 :]]
    return None, list(words)


def study_of(words: dict[str, Any], extra: Sequence[str]) -> StudySpec:
    """Make a study from its file, `--set`, flags, and `extra` words: settings of training that all arms share."""
    settings, given = settings_and_words(words)
    given = together(given, method_words(extra))
    if set(BUDGET_AXES) & set(given):
        settings = {name: value for name, value in settings.items() if name not in BUDGET_AXES}
    own = {entry.name for entry in fields(StudySpec)}
    read = read_words(StudySpec, {name: word for name, word in given.items() if name in own})
    read |= read_words(TrainSpec, {name: word for name, word in given.items() if name not in own})
    return study_spec({**settings, **read})
