"""Numbers as people read them: three digits, a unit, the same in the terminal and on the page."""

import math
from collections.abc import Callable

Show = Callable[[float | None], str]  # writes a number, or says that it is missing

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
MISSING = "–"
CLOCKS = {"median": "median", "cpu": "CPU time", "fastest": "fastest run"}  # by `LatencyEntry.clock`
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def digits(value: float | None, places: int = 3) -> str:
    """Round to significant digits, without exponent where it can be read without."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if abs(value) < 1e-4 or abs(value) >= 1e7:
        front, power = f"{value:.{places - 1}e}".split("e")
        return f"{front} × 10{str(int(power)).translate(_RAISED)}"
    value = float(f"{value:.{places - 1}e}")  # 999.6 has become 1000 before its digits are counted
    decimals = max(0, places - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def amount(value: float | None, unit: str = "") -> str:
    """Write a large number with a decimal prefix: 11.7 M, 46.8 MB."""
    if value is None:
        return MISSING
    for factor, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * factor:
            return f"{digits(value / factor)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def count(value: float | None) -> str:
    """Write a whole number in full."""
    return MISSING if value is None else f"{value:.0f}"


def milliseconds(value: float | None) -> str:
    """Write a time given in ms in the unit that suits it."""
    if value is None:
        return MISSING
    if value >= 1000:
        return f"{digits(value / 1000)} s"
    return f"{digits(value)} ms" if value >= 0.1 else f"{digits(value * 1000)} µs"


def quartiles(low: float | None, high: float | None) -> str:
    """Write a span of times given in ms, the unit once: 19.5 – 19.8 µs."""
    first, last = milliseconds(low), milliseconds(high)
    number, _, unit = first.partition(" ")
    return f"{number if last.endswith(unit) else first} – {last}"


def moment(epoch: float | None) -> str:
    """Write a point in time, in epochs: 12, 0.00475, 103.5."""
    if epoch is None:
        return MISSING
    return f"{epoch:.4g}" if epoch >= 1 else f"{epoch:.3g}"


def duration(seconds: float | None) -> str:
    """Write a time given in seconds: 0.42 s, 12 s, 3 min 20 s, 2 h 05 min."""
    if seconds is None:
        return MISSING
    if seconds < 59.5:
        return f"{seconds:.2f} s" if seconds < 1 else f"{digits(seconds, 2 if seconds < 10 else 3)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def millijoules(value: float | None) -> str:
    """Write an energy given in mJ."""
    if value is None:
        return MISSING
    return f"{digits(value / 1000)} J" if value >= 1000 else f"{digits(value)} mJ"


def percent(share: float | None, places: int = 1) -> str:
    """Write a share in [0, 1] as a percentage."""
    return MISSING if share is None else f"{100 * share:.{places}f} %"


def titled(name: str) -> str:
    """Write a name as the first word of a line: Accuracy; one of a case of its own, as mAP50-95, stays."""
    return name if name[1:2].isupper() else name[:1].upper() + name[1:]


def metric(value: float | None, unit: str, places: int = 1) -> str:
    """Write a metric: a share as a percentage, others with their unit."""
    return percent(value, places) if unit == "share" else f"{digits(value, 4)} {unit}".rstrip()


def possible(span: tuple[float, float], unit: str, least: float = 0.0) -> tuple[float, float]:
    """Return what a metric can be of an interval that a formula may take further: shares end at 1, and at `least`."""
    low, high = (min(1.0, max(least, end)) if unit == "share" else end for end in span)
    return low, high


def interval(span: tuple[float, float] | None, unit: str = "share") -> str:
    """Write an interval of a metric, the unit once: 88.3 – 94.1 %; nothing where there is none."""
    if span is None:
        return ""
    span = possible(span, unit)
    return f"{metric(span[0], unit).removesuffix(' %').removesuffix(f' {unit}')} – {metric(span[1], unit)}"


def change(new: float, old: float, unit: str) -> str:
    """Write a difference of two figures of a metric, with its sign: that of shares in percentage points."""
    if unit == "share":
        return points(new - old)
    return f"{'+' if new >= old else '−'}{digits(abs(new - old))} {unit}".rstrip()


def points(difference: float | None) -> str:
    """Write a difference of two shares in percentage points, with its sign."""
    if difference is None:
        return MISSING
    text = f"{100 * difference:+.1f}".replace("-", "−")
    return f"{'±0.0' if text in ('+0.0', '−0.0') else text} points"


def short(text: str) -> str:
    """Leave out the zeros after the point, as on an axis: 0.600 ms is 0.6 ms; 0 needs no unit."""
    number, _, unit = text.partition(" ")
    number = number.rstrip("0").rstrip(".") if "." in number else number
    return f"{number} {unit}".rstrip() if number not in ("0", "") else "0"


def ratio(after: float | None, before: float | None) -> str:
    """Write after / before with two decimals."""
    if after is None or not before:
        return MISSING
    return f"{after / before:.2f}" if after / before >= 0.095 else digits(after / before, 2)
