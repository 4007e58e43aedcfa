"""One setting: its default, its meaning, and what it may be; and values made of settings."""

from collections.abc import Container
from dataclasses import dataclass, field, fields
from typing import Any

from slimkit.errors import SpecError
from slimkit.settings.checks import Check


def setting(default: Any, meaning: str, check: Check) -> Any:
    """Make a field whose meaning is written once: the help, the settings file and the report all read it."""
    return field(default=default, metadata={"help": meaning, "check": check})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that check themselves when made; every field is a `setting`. A value: safe to print, compare and store.

    Raises:
        SpecError: a value is of the wrong kind or outside its range.
    """

    def __post_init__(self) -> None:
        for entry in fields(self):
            checked = entry.metadata["check"](entry.name, getattr(self, entry.name))
            object.__setattr__(self, entry.name, checked)

    def refuse_idle(self, names: Container[str], why: str, remedy: str = "Leave `{name}` out") -> None:
        """Refuse settings that would be accepted and ignored; one at its default was not given.

        Args:
            names: of the settings.
            why: they are of no use.
            remedy: what to do; `{name}` stands for the setting.

        Raises:
            SpecError: one is not at its default.
        """
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name in names and value != entry.default:
                said = f"{value:g}" if isinstance(value, float) else repr(value)
                raise SpecError(f"{entry.name} is {said}: {why}.\n  {remedy.format(name=entry.name)}")
