"""What a setting may be: one small function a kind of value, which says what was given when it refuses."""

import math
import re
from collections.abc import Callable
from typing import Any

from slimkit.errors import SpecError

Check = Callable[[str, Any], Any]  # (name of the setting, value) -> the value to store, or SpecError


def number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Check:
    """Accept a finite number in [low, high]; `above` and `below` leave out the lower and the upper bound."""
    opening, closing = "(" if above else "[", ")" if below or math.isinf(high) else "]"
    span = f"{opening}{low:g}, {'infinity' if math.isinf(high) else f'{high:g}'}{closing}"

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise SpecError(f"{name} is {value!r}: it must be a number in {span}.")
        if value < low or value > high or (above and value == low) or (below and value == high):
            message = f"{name} is {value:g}: it must be in {span}."
            if high == 1 < value < 100:
                message += f"\n  It is a share: for {value:g} % write {value / 100:g}"
            raise SpecError(message)
        return float(value)

    return check


_MOST = 2**63 - 1  # what torch takes as a whole number; the seed of a second network is one more


def whole(low: int) -> Check:
    """Accept a whole number, `low` or more, of less than 64 bits."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise SpecError(f"{name} is {value!r}: it must be a whole number, {low} or more.")
        if value >= _MOST:
            raise SpecError(f"{name} is {value}: it must be below {_MOST}.")
        return value

    return check


def choice(*words: str) -> Check:
    """Accept one of a few words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise SpecError(f"{name} is {value!r}: it must be {' or '.join(map(repr, words))}.")
        return value

    return check


def pattern(expression: str, meaning: str) -> Check:
    """Accept a word that matches a regular expression; `meaning` says in words what that is."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(expression, value):
            raise SpecError(f"{name} is {value!r}: it must be {meaning}.")
        return value

    return check


def text(name: str, value: Any) -> str:
    """Accept any text that can be written to a file."""
    if not isinstance(value, str) or not value.encode("utf-8", "ignore").decode() == value:
        raise SpecError(f"{name} is {value!r}: it must be text.")
    return value


def flag(name: str, value: Any) -> bool:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise SpecError(f"{name} is {value!r}: it must be true or false.")
    return value


def word_or(word: str, check: Check) -> Check:
    """Accept one word, or what `check` accepts."""

    def either(name: str, value: Any) -> Any:
        if value == word:
            return value
        try:
            return check(name, value)
        except SpecError as error:
            raise SpecError(f"{error}\n  Or {word!r}") from None

    return either


def optional(check: Check) -> Check:
    """Accept None (not set), or what `check` accepts."""
    return lambda name, value: None if value is None else check(name, value)


def several(check: Check) -> Check:
    """Accept a list of values, each of which `check` accepts; a single value is a list of one."""

    def each(name: str, value: Any) -> tuple[Any, ...]:
        values = value if isinstance(value, (list, tuple)) else (value,)
        return tuple(check(name, one) for one in values)

    return each
