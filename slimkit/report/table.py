"""Tables for the terminal: before and after, the groups of a network, models side by side."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slimkit.quantity import number_of
from slimkit.report.next_command import next_command
from slimkit.report.numbers import (
    CLOCKS,
    MISSING,
    amount,
    change,
    count,
    interval,
    metric,
    millijoules,
    milliseconds,
    percent,
    quartiles,
    ratio,
)
from slimkit.report.verdict import behind, verdict
from slimkit.results import (
    Benchmark,
    Catalogue,
    Evaluation,
    Exports,
    Figures,
    Inspection,
    Report,
    SweepReport,
    TableSummary,
    measured_on,
)
from slimkit.settings.words import as_flags

_Row = tuple[str, str, str, str]  # what, before, after, change


def run_table(report: Report, checkpoint: str = "") -> RenderableType:
    """Show a finished run: the verdict first, then before and after, and what else is to be known.

    `checkpoint`: path of its network, as somebody gave it who is to read this.
    """
    said = verdict(report)
    table = _table("", "before", "after", "after / before")
    for row in comparison(report.before, report.after):
        _add(table, *row)
    parts: list[RenderableType] = [Text(said.sentence, style="bold")]
    if said.meaning:
        parts += [Text(said.meaning)]
    if said.command:  # in one line, which a shell takes as it is copied
        parts += [Text(f"Next: {next_command(report, checkpoint)}", no_wrap=True, overflow="ignore")]
    parts += [Text(said.proof), table, *map(Text, said.notes)]
    parts += [Text(f"Assumed: {as_flags(words)}") for words in report.arch.assumptions]
    parts += [Text(f"Warning: {as_flags(warning)}", style="yellow") for warning in report.warnings]
    return Group(*parts)


def sweep_table(found: SweepReport) -> RenderableType:
    """Show the runs of a sweep, a column each, the original first."""
    sides = [_by_place(comparison(report.before, report.after)) for report in found.runs]
    table = _table("", "original", *found.names)
    for place, (name, before, *_) in sides[0].items():
        _add(table, name, before, *(rows[place][2] if place in rows else MISSING for rows in sides))
    parts: list[RenderableType] = [table]
    for name, report in zip(found.names, found.runs, strict=True):
        slow = f" Time fell less than work: {share}." if (share := behind(report)) else ""
        parts += [Text(f"{name}: {verdict(report).sentence}{slow}")]
        parts += [Text(f"Warning: {as_flags(warning)}", style="yellow") for warning in report.warnings]
    return Group(*parts)


def _by_place(rows: Sequence[_Row]) -> dict[tuple[str, str], _Row]:
    """Return rows by their name and that of the one which they are about, as an interval is."""
    found, about = {}, ""
    for row in rows:
        about = about if row[0].startswith(" ") else row[0]
        found[about, row[0]] = row
    return found


def comparison(before: Figures, after: Figures) -> list[_Row]:
    """List the rows (what, before, after, change) of a run, as text; what was not measured is left out."""
    rows = _accuracies(before, after)
    time = after.latency_ms
    clock = time.clock if time else "median"
    how = CLOCKS[clock] + (f", batch of {time.batch}" if time and time.batch > 1 else "")
    measures: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
        (f"latency ({how})", f"latency_ms/{clock}", milliseconds),
        ("MACs an image", "macs", amount),
        ("parameters", "params", amount),
        ("ONNX file", "bytes", lambda value: amount(value, "B")),
        ("energy an image", "energy_mj/value", millijoules),
    )
    for name, path, show in measures:
        old, new = before.value(path), after.value(path)
        if old is not None or new is not None:
            rows.append((name, show(old), show(new), ratio(new, old)))
    return rows


def evaluation_table(found: Evaluation) -> RenderableType:
    """Show how good a network is: its first metric on both splits with intervals, then the others on test."""
    right = found.accuracy
    table = _table(right.task, "validation", "test")
    sides = [right.of(split) for split in ("validation", "test")]
    _add(table, right.metric, *(metric(side.value, right.unit, 2) if side else MISSING for side in sides))
    spans = [interval(side.interval, right.unit) if side and side.interval else "" for side in sides]
    if any(spans):
        _add(table, "  95 % interval", *spans)
    _add(table, "images", *(str(side.images or MISSING) if side else MISSING for side in sides))
    for one in right.others:
        _add(table, one.metric, "", metric(one.value, one.unit, 2) if one.value is not None else MISSING)
        if one.interval:
            _add(table, "  95 % interval", "", interval((one.interval[0], one.interval[1]), one.unit))
    assumed = [Text(f"Assumed: {words}") for words in found.assumptions]
    return Group(Text(f"{found.model} on {found.data}", style="bold"), *assumed, table)


def exports_table(found: Exports) -> RenderableType:
    """Show the files in which a network was written, and how far each is from it."""
    table = _table("format", "file", "size", "error", left=("format", "file"))
    for one in found.files:
        _add(table, one.format, one.file, amount(one.bytes, "B"), MISSING if one.error is None else f"{one.error:.1g}")
    notes = [Text(f"{one.format}: {one.note}.", style="yellow") for one in found.files if one.note]
    notes += [Text(f"Left out: {why}", style="yellow") for why in found.left_out]
    said = (
        "Error: largest difference from the network, over the spread of its outputs; "
        f"up to {found.tolerance:g} counts as equal."
    )
    return Group(table, Text(said), *notes)


def _accuracies(before: Figures, after: Figures) -> list[_Row]:
    rows = []
    for known, old, new in measured_on(before, after):
        unit, split = known.by.unit, known.split
        moved = MISSING if old is None or new is None else change(new.value, old.value, unit)
        label = f"{known.by.metric} ({known.images or ''} {split})".replace("( ", "(")
        first, last = (metric(side.value, unit, 2) if side else MISSING for side in (old, new))
        rows.append((label, first, last, moved))
        first, last = (interval(side.interval, unit) if side else "" for side in (old, new))
        if first or last:
            rows.append(("  95 % interval", first, last, ""))
    return rows


def inspect_tables(found: Inspection) -> RenderableType:
    """Show what `inspect` found: groups with their layers and MACs, gammas, and what is kept and why."""
    groups = _table("group", "layers", "channels", "MACs")
    for group in found.groups:
        more = f" and {len(group.layers) - 3} more" if len(group.layers) > 3 else ""
        _add(groups, group.name, ", ".join(group.layers[:3]) + more, count(group.channels), amount(group.macs))
    channels = found.channels
    share = f" ({percent(channels.removable / channels.total)})" if channels.total else ""
    said = f"{found.arch.name}: {channels.removable} of {channels.total} channels can be removed{share}"
    parts: list[RenderableType] = [
        Text(said, style="bold"),
        *(Text(f"Assumed: {words}") for words in found.arch.assumptions),
        groups,
    ]
    if found.gammas:
        parts.append(_histogram(found.gammas.edges, found.gammas.before))
    if channels.kept:
        table = _table("kept whole", "channels", "because", right=(1,))
        for entry in channels.kept:
            _add(table, entry.layer, str(entry.channels), entry.reason)
        parts.append(table)
    return Group(*parts)


def bench_table(found: Benchmark) -> RenderableType:
    """Show models side by side, engine by engine, and the latency table that was written, if any."""
    times = [row.latency_ms for row in found.models]
    several = len({time.batch for time in times}) > 1
    parts: list[RenderableType] = []
    for engine in dict.fromkeys(time.engine for time in times):
        of_each = ("model", "size", *["batch"] * several, "median", "quartiles", "CPU time", "/ first")
        table = _table(*of_each, left=("model",))
        for row in found.models:
            time = row.latency_ms
            if time.engine == engine:
                _add(
                    table,
                    row.name,
                    amount(row.bytes, "B"),
                    *[str(time.batch)] * several,
                    milliseconds(time.median),
                    quartiles(time.q25, time.q75),
                    milliseconds(time.cpu),
                    ratio(row.share, 1.0),
                )
        parts += [Text(engine, style="bold"), table]
    how = times[0]
    runs = sorted({time.repeats for time in times})
    batch = "times of a batch, compared an image" if several else f"batch {how.batch}"
    words = [batch, number_of(how.threads, "thread")]
    words += [f"{runs[0]} runs" if runs[0] == runs[-1] else f"{runs[0]} to {runs[-1]} runs"]
    parts.append(Text(f"{', '.join(words)}; one model runs several times in a row, with its weights in the caches"))
    if any(time.noisy for time in times):
        judged = "by CPU time of the process" if how.threads == 1 else "by the fastest of all runs"
        parts.append(Text(f"Warning: the machine was too noisy for wall times; compared {judged}.", style="yellow"))
    return Group(*parts, *(_table_written(found.table) if found.table else []))


def methods_table(found: Catalogue) -> RenderableType:
    """Show methods, or the settings of one: name, default, meaning."""
    table = _table("", "default", "", right=(), left=())
    for row in found.rows:
        _add(table, row.name, row.default, row.meaning)
    return Group(Text(found.title, style="bold"), table)


def _table_written(made: TableSummary) -> list[Text]:
    clock = ", in CPU time" if made.clock == "cpu" else ""
    flags = [f"--engine {made.runtime}"] if made.runtime != "onnxruntime" else []
    flags += [f"--{name} {value}" for name, value in (("threads", made.threads), ("batch", made.batch)) if value != 1]
    words = " ".join(["--max-latency 0.5", f"--latency-table {shlex.quote(Path(made.path).name)}", *flags])
    return [
        Text(f"Table: {made.path}, {number_of(made.layers, 'layer')}, {milliseconds(made.network_ms)} in all{clock}"),
        Text(f"Use it where the network is made smaller: slimkit compress CHECKPOINT {words}"),
    ]


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
