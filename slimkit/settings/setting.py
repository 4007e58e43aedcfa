"""One setting: its default, its meaning, and what it may be; and values made of settings."""

from dataclasses import dataclass, field, fields
from typing import Any

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
