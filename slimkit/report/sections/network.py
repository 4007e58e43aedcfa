"""The network over its depth: channels, work, BatchNorm scales, and what was kept and why."""

from collections.abc import Callable, Sequence
from typing import Any

from slimkit.quantity import number_of
from slimkit.report.figures import gammas, layers
from slimkit.report.numbers import amount, count, digits, milliseconds, percent
from slimkit.report.parts import Cell, Section, Table, picture, quantity, words
from slimkit.results import GroupEntry, LayerEntry, Report

_COLUMNS: tuple[tuple[str, Callable[[float | None], str]], ...] = (
    ("channels", count),
    ("macs", amount),
    ("params", amount),
    ("ms", milliseconds),
)


def silhouette(report: Report) -> Section | None:
    """Channels kept per layer, drawn over the network's depth."""
    every = report.layers
    if not every:
        return None
    shown = every
    last = every[-1]
    if len(every) > 1 and last.kind == "Linear" and last.channels_after == last.channels_before:
        shown = every[:-1]  # classes are no channels that could go; a thousand of them would dwarf the rest
    drawn = picture(
        "channels",
        "Channels of every layer, kept and removed",
        lambda width: layers.channels(shown, width),
        legend=[("after", "kept"), ("before", "removed")],
    )
    return Section(
        name="channels",
        title="The network, slimmed",
        about="Each layer from input to output, as high as it has channels. Layers whose outputs are added "
        "to each other keep the same channels.",
        parts=[
            drawn,
            _layer_table(every),
        ],
    )


def work(report: Report) -> Section | None:
    """MACs, and time where it was measured, of every layer before and after."""
    every = report.layers
    legend = [("before", "dense"), ("after", "slim")]
    timed = report.before.latency_ms
    batch = timed.batch if timed else 1
    parts: list[Any] = []
    if any(layer.macs_before for layer in every):
        parts.append(picture("macs", "MACs of every layer", lambda width: layers.macs(every, width), legend))
    if any(layer.ms_before for layer in every):
        parts.append(picture("times", "Time of every layer", lambda width: layers.times(every, width, batch), legend))
    if not parts:
        return None
    return Section(
        name="work",
        title="Where the work goes",
        about="A layer’s work falls with the channels it reads and again with those it writes: half of both "
        "is a quarter of the work.",
        parts=parts,
    )


def gamma_histogram(report: Report) -> Section | None:
    """The BatchNorm scales of the dense and of the slim network."""
    record = report.gammas
    if record is None:
        return None
    drawn = picture(
        "gammas",
        "Histogram of BatchNorm scales",
        lambda width: gammas.histogram(record, width),
        legend=[("before", "dense"), ("after", "slim, as delivered")],
    )
    edges = record.edges
    rows = [
        (
            words(f"{digits(edges[index])} to {digits(edges[index + 1])}"),
            quantity(old, count),
            quantity(new, count),
        )
        for index, (old, new) in enumerate(zip(record.before, record.after, strict=True))
    ]
    return Section(
        name="gammas",
        title="BatchNorm scales",
        about="How strongly each channel is passed on. Two heaps with a gap between them: the network itself "
        "says which channels it needs. One heap: the cut is a matter of degree.",
        parts=[
            drawn,
            Table(head=("|gamma|", "dense", "slim"), rows=rows, caption="These numbers", folded=True),
        ],
    )


def kept(report: Report) -> Section:
    """What could not be removed, and why; groups that reached a limit."""
    channels, groups = report.channels, report.groups
    parts: list[Any] = []
    reasons = [
        (words(entry.layer, mono=True), quantity(entry.channels, count), words(entry.reason)) for entry in channels.kept
    ]
    if reasons:
        caption = f"{number_of(len(reasons), 'layer')} out of reach"
        parts.append(
            Table(
                head=("layer", "channels", "why it stays"),
                rows=reasons,
                caption=caption,
                folded=len(reasons) > 12,
            )
        )
    rows = [_group(group) for group in groups]
    if rows:
        head = ("group", "layers", "before", "after", "kept")
        parts.append(Table(head=head, rows=rows, caption=f"All {len(rows)} groups", folded=True))
    about = f"Of {channels.total} channels {channels.removable} can be removed and {channels.removed} were. "
    at_limit = sum(group.limit is not None for group in groups)
    if at_limit:
        about += f"{at_limit} of {len(groups)} groups stopped at a limit, a floor or the cap."
    return Section(name="kept", title="What stayed, and why", about=about, parts=parts)


def _group(group: GroupEntry) -> tuple[Cell, ...]:
    names = group.layers
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    share = group.after / group.before
    return (
        words(group.name, mono=True),
        words(some, mono=True),
        quantity(group.before, count),
        quantity(group.after, count),
        Cell(
            text=percent(share, 0),
            number=True,
            bar=min(share, 1.0),
            note=None if group.limit is None else f"at its {group.limit}",
        ),
    )


def _layer_table(every: Sequence[LayerEntry]) -> Table:
    timed = any(layer.ms_before for layer in every)
    names = ["channels", "MACs", "parameters", "time"][: 3 + timed]
    head = ["layer", "kind", *(word for name in names for word in (name, "after"))]
    rows = []
    for index, layer in enumerate(every):
        cells = [words(layer.name, mono=True), words(layer.kind)]
        for key, show in _COLUMNS[: 3 + timed]:
            for side in ("before", "after"):
                name = f"{key}_{side}"
                cells.append(quantity(getattr(layer, name), show, f"layers/{index}/{name}"))
        rows.append(cells)
    return Table(head=head, rows=rows, caption=f"All {len(rows)} layers: before, after", folded=True)
