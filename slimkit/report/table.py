"""Tables for the terminal: before and after, the groups of a network, models side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slimkit.report.numbers import (
    MISSING,
    amount,
    count,
    millijoules,
    milliseconds,
    percent,
    points,
    quartiles,
    ratio,
)
from slimkit.report.verdict import Record, latency_key, verdict


def run_table(report: Record) -> RenderableType:
    """Show a finished run: before and after, right after the cut, what was kept, and the verdict."""
    before, after = report.get("before") or {}, report.get("after") or {}
    table = _table("", "before", "after", "after / before")
    for name, old, new, change in comparison(before, after):
        _add(table, name, old, new, change)
    said = verdict(report)
    parts: list[RenderableType] = [table, Text(said.sentence, style="bold"), *map(Text, said.notes)]
    parts += [Text(f"Warning: {warning}", style="yellow") for warning in report.get("warnings") or []]
    return Group(*parts)


def comparison(before: Record, after: Record) -> list[tuple[str, str, str, str]]:
    """List the rows (what, before, after, change) of a run, as text; what was not measured is left out."""
    rows = []
    for split in ("validation", "test"):
        old, new = _accuracy(before, split), _accuracy(after, split)
        if old is not None or new is not None:
            change = MISSING if old is None or new is None else points(new - old)
            rows.append((f"accuracy ({split})", percent(old, 2), percent(new, 2), change))
    clock = latency_key(after)
    for name, key, show in (
        (f"latency ({'CPU time' if clock == 'cpu' else clock})", ("latency_ms", clock), milliseconds),
        ("MACs an image", ("macs",), amount),
        ("parameters", ("params",), amount),
        ("ONNX file", ("bytes",), lambda value: amount(value, "B")),
        ("energy an image", ("energy_mj", "value"), millijoules),
    ):
        old, new = _at(before, key), _at(after, key)
        if old is not None or new is not None:
            rows.append((name, show(old), show(new), ratio(new, old)))
    return rows


def inspect_tables(found: Record) -> RenderableType:
    """Show what `inspect` found: groups with their layers and MACs, gammas, and what is kept and why."""
    groups = _table("group", "layers", "channels", "MACs")
    for group in found.get("groups") or []:
        layers = group.get("layers") or []
        first = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
        _add(
            groups,
            str(group.get("name")),
            first,
            count(group.get("before", group.get("channels"))),
            amount(group.get("macs")),
        )
    arch, channels = found.get("arch") or {}, found.get("channels") or {}
    removable, total = channels.get("removable"), channels.get("total")
    share = f" ({percent(removable / total)})" if total and removable is not None else ""
    parts: list[RenderableType] = [
        Text(f"{arch.get('name')}: {removable} of {total} channels can be removed{share}", style="bold"),
        *(Text(f"Assumed: {words}") for words in arch.get("assumptions") or []),
        groups,
    ]
    gammas = found.get("gammas") or {}
    if gammas.get("before"):
        parts.append(_histogram(gammas["edges"], gammas["before"]))
    kept = channels.get("kept") or []
    if kept:
        table = _table("kept whole", "channels", "because", right=(1,))
        for entry in kept:
            _add(table, str(entry.get("layer")), str(entry.get("channels")), str(entry.get("reason")))
        parts.append(table)
    return Group(*parts)


def bench_table(found: Record) -> RenderableType:
    """Show models side by side: `models`, a row each, and the latency `table` that was written, if any.

    A row has `name`, `bytes`, `latency_ms` and `share`, its latency relative to the first.
    """
    rows: Sequence[Record] = found["models"]
    times: list[Record] = [row.get("latency_ms") or {} for row in rows]
    engines = list(dict.fromkeys(str(time.get("engine", "")) for time in times))
    parts: list[RenderableType] = []
    for engine in engines:
        table = _table("model", "size", "median", "quartiles", "CPU time", "/ first", left=("model",))
        for row, time in zip(rows, times, strict=True):
            if str(time.get("engine", "")) == engine:
                _add(
                    table,
                    str(row.get("name")),
                    amount(row.get("bytes"), "B"),
                    milliseconds(time.get("median")),
                    quartiles(time.get("q25"), time.get("q75")),
                    milliseconds(time.get("cpu")),
                    ratio(row.get("share"), 1.0),
                )
        parts += [Text(engine, style="bold"), table]
    how = times[0]
    runs = sorted({int(time["repeats"]) for time in times if "repeats" in time})
    words = [f"batch {how.get('batch', 1)}", _threads(how.get("threads", 1))]
    words += [f"{runs[0]} runs" if runs[0] == runs[-1] else f"{runs[0]} to {runs[-1]} runs"] if runs else []
    parts.append(Text(", ".join(words)))
    if any(time.get("noisy") for time in times):
        judged = "by CPU time of the process" if how.get("threads") == 1 else "by the fastest of all runs"
        parts.append(Text(f"Warning: the machine was too noisy for wall times; compared {judged}.", style="yellow"))
    return Group(*parts, *_table_written(found.get("table")))


def methods_table(found: Record) -> RenderableType:
    """Show methods, or the settings of one: name, default, meaning."""
    table = _table("", "default", "", right=(), left=())
    for row in found["rows"]:
        _add(table, row["name"], row["default"], row["meaning"])
    return Group(Text(found["title"], style="bold"), table)


def _table_written(made: Record | None) -> list[Text]:
    if made is None:
        return []
    clock = ", in CPU time" if made["clock"] == "cpu" else ""
    flags = [f"--engine {made['runtime']}"] if made["runtime"] != "onnxruntime" else []
    flags += [f"--{name} {made[name]}" for name in ("threads", "batch") if made[name] != 1]
    name = Path(made["path"]).name
    words = " ".join(["--max-latency 0.5", f"--latency-table {name}", *flags])
    return [
        Text(f"Table: {made['path']}, {made['layers']} layers, {milliseconds(made['network_ms'])} in all{clock}"),
        Text(f"Use it where the network is made smaller: slimkit compress CHECKPOINT {words}"),
    ]


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"


def _table(*columns: str, right: Sequence[int] | None = None, left: Sequence[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = index in right if right is not None else index > 0 and name not in ("layers", *left)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))  # as Text: names from a network may look like markup


def _histogram(edges: Sequence[float], counts: Sequence[int]) -> Text:
    blocks, top = " ▁▂▃▄▅▆▇█", max(counts) or 1
    bars = "".join(blocks[-(-8 * count // top)] for count in counts)
    return Text(f"|gamma|  {edges[0]:.3g} {bars} {edges[-1]:.3g}")


def _accuracy(side: Record, split: str) -> float | None:
    value = _at(side, ("accuracy", split))
    return None if value is None else float(value)


def _at(record: Record, keys: Sequence[str]) -> Any:
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
