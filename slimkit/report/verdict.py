"""The verdict on a run: one sentence with its three numbers, and what readers would otherwise get wrong."""

from dataclasses import dataclass
from typing import Any

from slimkit.report.numbers import amount, milliseconds, percent, points, ratio

Record = dict[str, Any]


@dataclass(frozen=True)
class Headline:
    """One number of the verdict: what it is, how it reads, where from; `share` of the original."""

    label: str
    value: str
    detail: str
    share: float | None = None


@dataclass(frozen=True)
class Verdict:
    """`sentence` says it all; `headlines` are its three numbers; `notes` are further sentences."""

    sentence: str
    headlines: tuple[Headline, ...]
    notes: tuple[str, ...]


def accuracy(side: Record | None) -> tuple[float | None, str]:
    """Give the accuracy to quote of `before` or `after`, and the split it is of: test where there is one."""
    record = (side or {}).get("accuracy") or {}
    split = "test" if record.get("test") is not None else "validation"
    return record.get(split), split


def latency_ms(side: Record | None) -> float | None:
    """Give the median latency of `before` or `after`, ms."""
    record = (side or {}).get("latency_ms") or {}
    median = record.get("median")
    return None if median is None else float(median)


def verdict(report: Record) -> Verdict:
    """Sum a report up. Says only what was measured; copes with whatever the run does not have."""
    before, after = report.get("before") or {}, report.get("after") or {}
    clauses, headlines = [], []
    for part in (_accuracy(before, after), _latency(before, after), _size(before, after)):
        if part is not None:
            clauses.append(part[0])
            headlines.append(part[1])
    name = (report.get("arch") or {}).get("name") or "network"
    sentence = f"The slim {name} {_list(clauses)}." if clauses else f"The slim {name} was not measured."
    return Verdict(sentence, tuple(headlines), tuple(_notes(report, before, after)))


def _accuracy(before: Record, after: Record) -> tuple[str, Headline] | None:
    (old, _), (new, split) = accuracy(before), accuracy(after)
    if new is None:
        return None
    headline = Headline(f"{split} accuracy", percent(new), "")
    if old is None:
        return f"gets {percent(new)} of the {split} images right", headline
    detail = f"{points(new - old)}, from {percent(old)}"
    return (
        f"gets {percent(new)} of the {split} images right ({percent(old)} before)",
        Headline(headline.label, headline.value, detail),
    )


def _latency(before: Record, after: Record) -> tuple[str, Headline] | None:
    old, new = latency_ms(before), latency_ms(after)
    if old is None or new is None:
        return None
    share = new / old
    words = "takes" if share <= 0.98 else "still takes" if share <= 1.02 else "is slower, it takes"
    detail = f"{milliseconds(new)} instead of {milliseconds(old)}"
    return f"{words} {ratio(new, old)} of the time ({detail})", Headline(
        "latency", f"× {ratio(new, old)}", detail, share
    )


def _size(before: Record, after: Record) -> tuple[str, Headline] | None:
    for key, unit, noun in (("bytes", "B", "space"), ("params", "", "parameters")):
        old, new = before.get(key), after.get(key)
        if old and new is not None:
            detail = f"{amount(new, unit)} instead of {amount(old, unit)}"
            label = "size" if key == "bytes" else "parameters"
            return (
                f"needs {ratio(new, old)} of the {noun} ({detail})",
                Headline(label, f"× {ratio(new, old)}", detail, new / old),
            )
    return None


def _notes(report: Record, before: Record, after: Record) -> list[str]:
    notes = []
    channels = report.get("channels") or {}
    removed, macs_before, macs_after = channels.get("share_removed"), before.get("macs"), after.get("macs")
    if removed is not None and macs_before and macs_after is not None:
        left = ratio(macs_after, macs_before)
        if abs(removed - 0.5) < 0.02:
            notes.append(f"Half of the channels is not half of the work: MACs fell to {left}.")
        else:
            notes.append(f"{percent(removed)} of the removable channels were removed; MACs fell to {left}.")
        old, new = latency_ms(before), latency_ms(after)
        if old and new and new / old > 1.25 * macs_after / macs_before:
            notes.append(f"Time fell less than work: {ratio(new, old)} of the latency at {left} of the MACs.")
    total, removable = channels.get("total"), channels.get("removable")
    if total and removable is not None and removable < 0.98 * total:
        notes.append(
            f"{percent(1 - removable / total)} of all channels were out of reach; the reasons are listed."
        )
    if accuracy(after)[0] is None:
        notes.append("Accuracy was not measured: the run had no data.")
    return notes


def _list(clauses: list[str]) -> str:
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}"
