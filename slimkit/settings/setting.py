"""One setting: its default, its meaning, and what it may be."""

from dataclasses import field
from typing import Any

from slimkit.settings.checks import Check


def setting(default: Any, meaning: str, check: Check) -> Any:
    """Make a field whose meaning is written once: the help, the settings file and the report all read it."""
    return field(default=default, metadata={"help": meaning, "check": check})
