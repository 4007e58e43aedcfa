"""A message of the library in the words of the command, and in characters that a terminal only shows."""

import ast
import re
import shlex
from typing import Any

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]+))?`")


def as_flags(message: str) -> str:
    """Turn every `name=value` or `name` between backticks into --name value.

    Library messages name Python arguments, such as `round_to=1`; whoever reads them on a terminal can only give
    flags. True is the flag alone, False its --no- form; text loses its quotes, but for those that a shell needs.
    """
    return _ARGUMENT.sub(_flag, message)


def printable(value: Any) -> Any:
    """Escape what would command the terminal in a text, or in all texts of a report: names come from files.

    Control characters but the end of a line, and those that turn the direction of writing, become \\uXXXX.
    """
    if isinstance(value, str):
        return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", value)
    if isinstance(value, dict):
        return {printable(name): printable(each) for name, each in value.items()}
    return [printable(each) for each in value] if isinstance(value, list | tuple) else value


def _flag(found: re.Match[str]) -> str:
    flag, word = found[1].replace("_", "-"), found[2]
    if word is None:
        return f"--{flag}"
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError):  # a placeholder, such as DIR
        return f"--{flag} {word}"
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {shlex.quote(str(value))}"
