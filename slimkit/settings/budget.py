"""How far a network is to shrink: one share or absolute amount, of one kind."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from slimkit.errors import SpecError

_COUNT = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_UNITS: dict[str, dict[str, float]] = {  # kind -> unit -> factor to the unit in which the budget is kept
    "macs": _COUNT,
    "params": _COUNT,
    "bytes": {
        "": 1,
        "B": 1,
        "kB": 1e3,
        "KB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "TB": 1e12,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
        "TiB": 2**40,
    },
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "energy": {"uJ": 1e-3, "mJ": 1.0, "J": 1e3},
}
_EXAMPLES = {"macs": "500M", "params": "4M", "bytes": "4MB", "latency": "2.5ms", "energy": "30mJ"}
_AMOUNT = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%|[A-Za-zµ]*)\s*")


@dataclass(frozen=True)
class Budget:
    """What is asked of the smaller network.

    Attributes:
        kind: `ratio` (share of the removable channels to remove), or what may be left: `macs`, `params`,
            `bytes`, `latency`, `energy`.
        value: a share (of the original; for `ratio`, of the channels), or an amount in MACs, parameters,
            bytes, ms or mJ.
        absolute: whether `value` is an amount.
        asked: as it was written.

    Raises:
        SpecError: there is no such kind, or the value is out of range.
    """

    kind: str
    value: float
    absolute: bool = False
    asked: str | float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in ("ratio", *_UNITS):
            raise SpecError(f"kind is {self.kind!r}: it must be one of ratio, {', '.join(_UNITS)}.")
        ratio, most = self.kind == "ratio", math.inf if self.absolute else 1
        if not (0 <= self.value < 1 if ratio else 0 < self.value <= most and self.value < math.inf):
            span = "[0, 1)" if ratio else "(0, infinity)" if self.absolute else "(0, 1]"
            raise SpecError(f"the budget of {self.kind} is {self.value}: it must be a number in {span}.")


def parse_budget(given: str | float, kind: str) -> Budget:
    """Read what may be left: a share in (0, 1], `50%`, or an amount: `500M`, `4MB`, `2.5ms`, `30mJ`.

    A number above 1 without a unit is an amount where no unit is needed (MACs, parameters, bytes).

    Raises:
        SpecError: it is neither, or not positive; there is no such kind.
    """
    if kind not in _UNITS:
        raise SpecError(f"kind is {kind!r}: it must be one of {', '.join(_UNITS)}.")
    match = None if isinstance(given, bool) else _AMOUNT.fullmatch(str(given))
    if match is None or not math.isfinite(float(match[1])):
        raise SpecError(_refusal(given, kind, "neither a share nor an amount"))
    value, unit = float(match[1]), match[2].replace("µ", "u")
    if value <= 0:
        raise SpecError(_refusal(given, kind, "not above 0"))
    if unit == "%":
        value, unit = value / 100, ""
        if value > 1:
            raise SpecError(_refusal(given, kind, "more than the original"))
    if unit == "" and value <= 1:
        return Budget(kind, value, asked=given)
    if unit not in _UNITS[kind]:
        wrong = f"{unit!r} is no unit of it" if unit else "above 1 without a unit"
        raise SpecError(_refusal(given, kind, f"{wrong}; units are {', '.join(filter(None, _UNITS[kind]))}"))
    return Budget(kind, value * _UNITS[kind][unit], absolute=True, asked=given)


def budget_setting(kind: str) -> Any:
    """Give the check of the setting `max_KIND`; the value is stored as it was written."""

    def check(name: str, value: Any) -> str | float:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise SpecError(_refusal(value, kind, "neither a share nor an amount"))
        parse_budget(value, kind)
        return value

    return check


def _refusal(given: object, kind: str, wrong: str) -> str:
    return (
        f"max_{kind} is {given!r}: {wrong}.\n"
        f"  Give a share of the original in (0, 1], such as 0.5, or an amount, such as {_EXAMPLES[kind]}"
    )
