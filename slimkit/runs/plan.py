"""What `slimkit train` was asked to do: shared settings, a method, and the method's own settings."""

import difflib
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from slimkit.errors import SpecError
from slimkit.methods import METHODS, Method
from slimkit.settings import Settings, TrainSpec, new_words, read_words
from slimkit.settings.checks import choice
from slimkit.settings.train import OF_CHANNELS

log = logging.getLogger("slimkit")


@dataclass(frozen=True)
class Plan:
    """One run of one method."""

    spec: TrainSpec
    method: Method
    config: Settings

    @property
    def ranking(self) -> str:
        """The criterion that ranks channels."""
        return self.method.ranking if self.spec.ranking == "auto" else self.spec.ranking

    def settings(self) -> dict[str, Any]:
        """Return all settings by name, with the criterion that `auto` comes to."""
        return asdict(replace(self.spec, ranking=self.ranking)) | asdict(self.config)


def plan(
    settings: Mapping[str, Any],
    words: Mapping[str, str] | None = None,
    source: str = "the settings",
    *,
    named: Collection[str] = (),
    ignoring: Collection[str] = (),
) -> Plan:
    """Make a plan from settings by name, the method's among them.

    Args:
        settings: values; `method` is a name, or an object of the settings of one.
        words: further settings as they stand on a command line; they win.
        source: of the settings, for messages.
        named: which of the settings somebody wrote for this run, beside `words`: they are refused even at their
            default where the method has no use for them. A settings file holds what it holds.
        ignoring: settings that it may have no use for: of an arm of a study, those that all arms share.

    Raises:
        SpecError: a name is unknown to the method (the nearest known ones are listed), a value is refused, or a setting
            of the method stands beside the object that has it.
    """
    given, said = new_words({**settings, **(words or {})})
    if said:
        log.warning(said)
    own = {entry.name for entry in fields(TrainSpec)}
    read = {name: value for name, value in given.items() if words and (name in words or name not in settings)}
    given |= read_words(TrainSpec, {name: word for name, word in read.items() if name in own})
    shared = {name: value for name, value in given.items() if name in own}
    asked = shared.get("method", "scratch")
    method = _method(asked)
    rest = {name: value for name, value in given.items() if name not in own}
    known = {entry.name for entry in fields(method.config)}
    for name in (name for name in rest if name not in known):
        raise SpecError(_unknown(name, method, own | known, source))
    rest |= read_words(method.config, {name: word for name, word in rest.items() if name in read})
    spec = TrainSpec(**shared | {"method": method.name})
    config = _alone(asked, rest) if isinstance(asked, Settings) else method.config(**rest)
    written = {*named, *(words or {})}
    if not method.removes:
        why = f"the method {method.name!r} removes no channels, so it has no use for it"
        _refuse_idle(spec, dict.fromkeys(OF_CHANNELS, why), written)
    else:
        idle = method.idle(config, spec.budget).items()
        idle_here = {name: why for name, why in idle if name not in ignoring}
        _refuse_idle(spec, idle_here, written, f"{source}: " if ignoring else "")
    return Plan(spec, method, config)


def _method(asked: object) -> Method:
    """Return the method of a name, or of an object of its settings."""
    if not isinstance(asked, (Settings, type)):
        return METHODS[choice(*METHODS)("method", asked)]
    for method in METHODS.values():
        if type(asked) is method.config:
            return method
    given = f"the class {asked.__name__}" if isinstance(asked, type) else f"a {type(asked).__name__}"
    configs = ", ".join(method.config.__name__ for method in METHODS.values())
    raise SpecError(
        f"method is {given}: it must be a name, or an object of the settings of a method.\n"
        f"  Give one, such as `method='early-bird'` or slimkit.methods.EarlyBirdConfig(at=2); there are {configs}"
    )


def _alone(config: Settings, rest: Mapping[str, Any]) -> Settings:
    """Return the settings of a method that were given as an object; what else says them is refused."""
    for name, value in rest.items():
        kind = type(config).__name__
        raise SpecError(
            f"{name} is {value!r}, and method is {kind}(...), where it is {getattr(config, name)!r}: both say it.\n"
            f"  Write {kind}({name}={value!r}), or give the method by name"
        )
    return config


def _refuse_idle(spec: TrainSpec, idle: Mapping[str, str], written: Collection[str], whose: str = "") -> None:
    """Refuse settings that would be accepted and ignored. What a settings file holds by default may stay in it."""
    usual = TrainSpec(arch=spec.arch, data=spec.data)
    for name, why in idle.items():
        value = getattr(spec, name)
        if value is not None and (name in written or value != getattr(usual, name)):
            raise SpecError(
                f"{whose}{name} is {value!r}: {why}.\n  Leave `{name}` out, or give another method: slimkit methods"
            )


def _unknown(name: str, method: Method, known: set[str], source: str) -> str:
    """Say that nothing has such a setting, or who has."""
    others = [m.name for m in METHODS.values() if name in {entry.name for entry in fields(m.config)}]
    message = f"{name!r} in {source}: the method {method.name!r} has no such setting.\n"
    if others:
        return f"{message}  It is one of {', '.join(others)}: give method, or leave it out"
    near = difflib.get_close_matches(name.replace("-", "_").lower(), sorted(known), n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"See: slimkit methods {method.name}"
    return f"{message}  {hint}"


def described(name: str | None = None) -> dict[str, Any]:
    """Return the methods with what they do, or one with its settings.

    Raises:
        SpecError: there is no such method.
    """
    if name is None:
        rows = [{"name": m.name, "default": "", "meaning": m.summary} for m in METHODS.values()]
        return {"title": "Methods of slimkit train", "rows": rows}
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(METHODS)}"
        raise SpecError(f"{name!r}: there is no such method.\n  {hint}")
    rows = [
        {"name": entry.name, "default": str(entry.default), "meaning": entry.metadata["help"]}
        for entry in fields(METHODS[name].config)
    ]
    return {"title": f"{name}: {METHODS[name].summary}", "rows": rows}
