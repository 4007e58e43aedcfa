"""Before and after in numbers."""

from slimkit.quantity import number_of
from slimkit.report.numbers import (
    CLOCKS,
    MISSING,
    Show,
    amount,
    change,
    interval,
    metric,
    millijoules,
    milliseconds,
    quartiles,
    ratio,
    titled,
)
from slimkit.report.parts import Cell, Section, Table
from slimkit.results import Figures, LatencyEntry, Report, measured_on


def gains(report: Report) -> Section | None:
    """Before and after, everything that was measured."""
    rows = [*_accuracies(report.before, report.after), *_measures(report.before, report.after)]
    if not rows:
        return None
    about = "One MAC is one multiply-add, that is two FLOPs. "
    about += "Latency is the median of interleaved runs, or what its row says."
    if report.after.accuracy:
        about += " Below it is the 95 % interval: on other images of the same kind it may well be anywhere in it."
    head = ("", "dense", "slim", "slim / dense")
    return Section(name="gains", title="Before and after", about=about, parts=[Table(head=head, rows=rows)])


def _accuracies(before: Figures, after: Figures) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for known, old, new in measured_on(before, after):
        unit, split = known.by.unit, known.split
        cells = [
            Cell(
                text=metric(found.value, unit, 2) if found else MISSING,
                number=True,
                path=f"{side}/accuracy/{split}" if unit == "share" and known.by.metric == "accuracy" else None,
                value=found.value if found else None,
                note=interval(found.interval, unit) if found and found.interval else None,
            )
            for side, found in (("before", old), ("after", new))
        ]
        moved = MISSING if old is None or new is None else change(new.value, old.value, unit)
        rows.append((Cell(text=titled(known.by.metric), note=known.of), *cells, Cell(text=moved, number=True)))
    return rows


def _measures(before: Figures, after: Figures) -> list[tuple[Cell, ...]]:
    time, energy = after.latency_ms, after.energy_mj
    clock = time.clock if time else "median"
    measures: tuple[tuple[str, str, str, Show], ...] = (
        ("Latency", _how(time) if time else "", f"latency_ms/{clock}", milliseconds),
        ("MACs", "an image", "macs", amount),
        ("Parameters", "", "params", amount),
        ("Size", "ONNX file", "bytes", lambda value: amount(value, "B")),
        ("Energy", f"an image, {energy.method}" if energy else "", "energy_mj/value", millijoules),
    )
    rows: list[tuple[Cell, ...]] = []
    for name, note, key, show in measures:
        old, new = before.value(key), after.value(key)
        if old is None and new is None:
            continue
        share = new / old if old and new is not None else None
        rows.append(
            (
                Cell(text=name, note=note),
                _side(before, old, "before", key, show),
                _side(after, new, "after", key, show),
                Cell(text=ratio(new, old), number=True, bar=None if share is None else min(share, 1.0)),
            )
        )
    return rows


def _how(time: LatencyEntry) -> str:
    words = f"{time.engine}, {number_of(time.threads, 'thread')}, {number_of(time.repeats, 'run')}"
    busy = f", on a busy machine: {CLOCKS[time.clock]}" if time.noisy else ""
    return f"{words}, batch {time.batch}{busy}"


def _side(figures: Figures, value: float | None, side: str, key: str, show: Show) -> Cell:
    time = figures.latency_ms
    note = quartiles(time.q25, time.q75) if key == "latency_ms/median" and time else None
    return Cell(text=show(value), number=True, path=f"{side}/{key}", value=value, note=note)
