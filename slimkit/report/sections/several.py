"""Several runs side by side: a table, and the trade-off between them."""

from collections.abc import Callable, Sequence
from typing import Any

from slimkit.report.figures import tradeoff
from slimkit.report.numbers import amount, milliseconds, percent, points, ratio
from slimkit.report.parts import Cell, Section, Table, picture, words
from slimkit.report.verdict import Headline, Record, Verdict, accuracy, latency_key, latency_ms

Runs = Sequence[tuple[str, Record]]


def comparison(runs: Runs) -> tuple[Verdict, list[Section]]:
    """Sum several runs up: what to say first, and the sections that show it."""
    return _verdict(runs), [section for section in (_tradeoff(runs), _table(runs)) if section is not None]


def _verdict(runs: Runs) -> Verdict:
    smallest = _best(runs, lambda report: _share(report, lambda side: side.get("bytes")))
    fastest = _best(runs, lambda report: _share(report, latency_ms))
    most = _best(runs, lambda report: _negative(accuracy(report.get("after"))[0]))
    headlines, clauses = [], []
    if most is not None:
        name, report = most
        right, split = accuracy(report["after"])
        headlines.append(Headline(f"best {split} accuracy", percent(right), name))
        clauses.append(f"“{name}” gets the most right ({percent(right)})")
    for best, label, verb, cost in (
        (fastest, "lowest latency", "is the fastest", latency_ms),
        (smallest, "smallest", "is the smallest", lambda side: side.get("bytes")),
    ):
        if best is not None:
            name, report = best
            text = ratio(cost(report["after"]), cost(report["before"]))
            headlines.append(Headline(label, f"× {text}", name, _share(report, cost)))
            clauses.append(f"“{name}” {verb} (× {text})")
    sentence = f"Of {len(runs)} runs, {'; '.join(clauses)}." if clauses else f"{len(runs)} runs."
    names = {str((report.get("arch") or {}).get("name")) for _, report in runs}
    notes = () if len(names) == 1 else (f"The runs are of different networks: {', '.join(sorted(names))}.",)
    return Verdict(sentence, tuple(headlines), notes)


def _tradeoff(runs: Runs) -> Section | None:
    for label, show, cost in (
        ("latency, median", milliseconds, latency_ms),
        ("MACs an image", amount, lambda side: side.get("macs")),
    ):
        found: dict[tuple[str, float, float], tradeoff.Point] = {}  # the dense one of several runs: once
        for name, report in runs:
            for side, shown, role in (("before", "dense", "before"), ("after", name, "after")):
                record = report.get(side) or {}
                spent, right = cost(record), accuracy(record)[0]
                if spent is not None and right is not None:
                    found.setdefault((shown, spent, right), tradeoff.Point(shown, float(spent), float(right), role))
        known = list(found.values())
        if sum(point.role == "after" for point in known) > 1:
            return _drawn(known, label, show)
    return None


def _drawn(known: list[tradeoff.Point], label: str, show: Callable[[float | None], str]) -> Section:
    drawn = picture(
        "tradeoff",
        f"Accuracy against {label}",
        lambda width: tradeoff.accuracy_against(known, label, show, width),
        legend=[("after", "runs"), ("before", "dense")],
    )
    about = "Up and to the left is better. The axis of cost starts at nothing."
    return Section(name="tradeoff", title="Accuracy against cost", about=about, parts=[drawn])


def _table(runs: Runs) -> Section:
    head = ["run", "asked", "accuracy", "latency", "MACs", "parameters", "size"]
    rows = []
    for index, (name, report) in enumerate(runs):
        before, after = report.get("before") or {}, report.get("after") or {}
        path = f"runs/{index}/report/after"
        (old, _), (new, split) = accuracy(before), accuracy(after)
        change = points(new - old) if old is not None and new is not None else None
        cells = [
            Cell(text=name, note=str((report.get("arch") or {}).get("name") or ""), mono=True),
            words(_asked(report.get("spec") or {})),
            Cell(text=percent(new, 2), number=True, path=f"{path}/accuracy/{split}", value=new, note=change),
        ]
        for keys, show in (
            (("latency_ms", latency_key(after)), milliseconds),
            (("macs",), amount),
            (("params",), amount),
            (("bytes",), lambda value: amount(value, "B")),
        ):
            first, last = (_at(side, keys) for side in (before, after))
            cells.append(
                Cell(
                    text=show(last),
                    number=True,
                    path="/".join((path, *keys)),
                    value=last,
                    note=f"× {ratio(last, first)}" if first and last is not None else None,
                )
            )
        rows.append(cells)
    about = "Each number of the slim network; below it, what became of the dense one’s."
    return Section(name="runs", title="All runs", about=about, parts=[Table(head=head, rows=rows)])


def _asked(spec: Record) -> str:
    for name in ("max_latency", "max_macs", "max_params", "max_bytes", "max_energy", "ratio"):
        if spec.get(name) is not None:
            return f"{name.removeprefix('max_')} {spec[name]}"
    return ""


def _best(runs: Runs, badness: Callable[[Record], float | None]) -> tuple[str, Record] | None:
    known = [(value, run) for run in runs if (value := badness(run[1])) is not None]
    return min(known, key=lambda pair: pair[0])[1] if known else None


def _share(report: Record, cost: Callable[[Record], Any]) -> float | None:
    old, new = (cost(report.get(side) or {}) for side in ("before", "after"))
    return new / old if old and new is not None else None


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _at(record: Record, keys: Sequence[str]) -> Any:
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
