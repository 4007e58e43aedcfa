"""Before and after in numbers, and accuracy against what it costs."""

from collections.abc import Callable
from typing import Any

from slimkit.report.figures import tradeoff
from slimkit.report.numbers import (
    MISSING,
    amount,
    millijoules,
    milliseconds,
    percent,
    points,
    quartiles,
    ratio,
)
from slimkit.report.parts import Cell, Section, Table, picture, quantity, words
from slimkit.report.verdict import Record, accuracy, latency_key, latency_ms

Show = Callable[[float | None], str]


def gains(report: Record) -> Section | None:
    """Before and after, everything that was measured."""
    before, after = report.get("before") or {}, report.get("after") or {}
    rows = [*_accuracies(before, after), *_measures(before, after)]
    if not rows:
        return None
    return Section(
        name="gains",
        title="Before and after",
        about="One MAC is one multiply-add, that is two FLOPs. Latency is the median of interleaved runs.",
        parts=[Table(head=("", "dense", "slim", "slim / dense"), rows=rows)],
    )


def tradeoffs(report: Record) -> Section | None:
    """Accuracy against latency, or MACs where latency was not measured, with the run's alternatives."""
    sides = [("dense", report.get("before") or {}, "before"), ("slim", report.get("after") or {}, "after")]
    others = report.get("alternatives") or []
    axes: tuple[tuple[str, Show, Callable[[Record], Any], str], ...] = (
        ("latency, median", milliseconds, latency_ms, "latency_ms"),
        ("MACs an image", amount, lambda side: side.get("macs"), "macs"),
    )
    for label, show, cost, key in axes:
        found = [(name, cost(side), accuracy(side)[0], role) for name, side, role in sides]
        found += [(entry.get("name"), entry.get(key), entry.get("accuracy"), "other") for entry in others]
        known = [
            tradeoff.Point(str(name), float(spent), float(right), role)
            for name, spent, right, role in found
            if spent is not None and right is not None
        ]
        if len(known) > 1:
            return _tradeoff(known, label, show)
    return None


def _tradeoff(known: list[tradeoff.Point], label: str, show: Show) -> Section:
    drawn = picture(
        "tradeoff",
        f"Accuracy against {label}",
        lambda width: tradeoff.accuracy_against(known, label, show, width),
    )
    rows = [
        (
            words(point.name),
            quantity(point.cost, show),
            quantity(point.accuracy, _right),
        )
        for point in known
    ]
    return Section(
        name="tradeoff",
        title="What it costs, what it gets",
        about="Up and to the left is better. The axis of cost starts at nothing, so that no gain looks "
        "larger than it is.",
        parts=[drawn, Table(head=("", label, "accuracy"), rows=rows, caption="These numbers", folded=True)],
    )


def _right(share: float | None) -> str:
    return percent(share, 2)


def _accuracies(before: Record, after: Record) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for split in ("validation", "test"):
        old, new = ((side.get("accuracy") or {}).get(split) for side in (before, after))
        if old is None and new is None:
            continue
        change = MISSING if old is None or new is None else points(new - old)
        rows.append(
            (
                Cell(text="Accuracy", note=f"{split} images"),
                quantity(old, _right, f"before/accuracy/{split}"),
                quantity(new, _right, f"after/accuracy/{split}"),
                Cell(text=change, number=True),
            )
        )
    return rows


def _measures(before: Record, after: Record) -> list[tuple[Cell, ...]]:
    time, energy = after.get("latency_ms") or {}, after.get("energy_mj") or {}
    how = [str(time.get("engine") or "")]
    how += [f"{time[key]} {noun}" for key, noun in (("threads", "thread"), ("repeats", "runs")) if time.get(key)]
    how += [f"batch {time['batch']}"] if time.get("batch") else []
    how += ["on a busy machine" + (", CPU time" if latency_key(after) == "cpu" else "")] if time.get("noisy") else []
    measures: tuple[tuple[str, str, tuple[str, ...], Show], ...] = (
        ("Latency", ", ".join(filter(None, how)), ("latency_ms", latency_key(after)), milliseconds),
        ("MACs", "an image", ("macs",), amount),
        ("Parameters", "", ("params",), amount),
        ("Size", "ONNX file", ("bytes",), lambda value: amount(value, "B")),
        (
            "Energy",
            f"an image, {energy.get('method') or 'method unknown'}",
            ("energy_mj", "value"),
            millijoules,
        ),
    )
    rows: list[tuple[Cell, ...]] = []
    for name, note, keys, show in measures:
        old, new = _at(before, keys), _at(after, keys)
        if old is None and new is None:
            continue
        share = new / old if old and new is not None else None
        rows.append(
            (
                Cell(text=name, note=note),
                _side(before, old, "before", keys, show),
                _side(after, new, "after", keys, show),
                Cell(text=ratio(new, old), number=True, bar=None if share is None else min(share, 1.0)),
            )
        )
    return rows


def _side(record: Record, value: float | None, side: str, keys: tuple[str, ...], show: Show) -> Cell:
    time = record.get("latency_ms") or {}
    note = None
    if keys == ("latency_ms", "median") and time.get("q25") is not None and time.get("q75") is not None:
        note = quartiles(time["q25"], time["q75"])
    path = "/".join((side, *keys))
    return Cell(text=show(value), number=True, path=path, value=value, note=note)


def _at(record: Record, keys: tuple[str, ...]) -> Any:
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
