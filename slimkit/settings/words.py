"""A message of the library in the words of the command: arguments in backticks become flags."""

import ast
import re

_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]+))?`")


def as_flags(message: str) -> str:
    """Turn every `name=value` or `name` between backticks into --name value.

    Library messages name Python arguments, such as `round_to=1`; whoever reads them on a terminal can only give
    flags. True is the flag alone, False its --no- form; text loses its quotes.
    """
    return _ARGUMENT.sub(_flag, message)


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
    return f"--{flag} {value}"
