"""BatchNorm scales: their histogram before and after, and over the epochs of a search."""

from collections.abc import Sequence

from matplotlib.ticker import LogLocator, NullLocator

from slimkit.report.figures.canvas import AFTER, BEFORE, INK, PAPER, Drawing, canvas, measure
from slimkit.report.numbers import digits, moment
from slimkit.results import Gammas, GammaSnapshot

_RISE = 2.4  # how many rows high the tallest of the stacked histograms is


def histogram(gammas: Gammas, width: int) -> Drawing:
    """Draw how many channels have which |gamma|, before and after (log scale)."""
    drawing, (axes,) = canvas(width, 240)
    edges, after = gammas.edges, gammas.after
    top = max([*gammas.before, *after, 1])
    axes.set(yscale="log", ylim=(0.7, 1.6 * top), xlim=(edges[0], edges[-1]), xlabel="|gamma|")
    axes.stairs(gammas.before, edges, fill=True, color=BEFORE, linewidth=0)
    axes.stairs(after, edges, fill=True, color=AFTER, alpha=0.3, linewidth=0, baseline=0.7)
    axes.stairs(after, edges, color=AFTER, linewidth=2, baseline=0.7)
    axes.set(ylim=(0.7, 1.6 * top), xlim=(edges[0], edges[-1]))
    measure(axes, "channels", lambda value: f"{value:.0f}")
    axes.yaxis.set_major_locator(LogLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    for index, count in enumerate(gammas.before):
        span = f"{digits(edges[index])} to {digits(edges[index + 1])}"
        words = f"|gamma| {span}: {count} channels before, {after[index]} after"
        drawing.hover(axes, edges[index], edges[index + 1], words)
    return drawing


def over_time(history: Sequence[GammaSnapshot], drawn: float | None, width: int) -> Drawing:
    """Draw one histogram an epoch, later ones in front, from the draw on in the slim network's colour."""
    shown = _spread(history, 12)
    drawing, (axes,) = canvas(width, 110 + 22 * len(shown), margins=(8, 10, 46, 54))
    top = max(max(entry.counts) for entry in shown) or 1
    for row, entry in enumerate(shown):
        edges = entry.edges
        middles = [edges[0], *((a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)), edges[-1]]
        counts = [entry.counts[0], *entry.counts, 0]
        heights = [-row + _RISE * (count / top) ** 0.5 for count in counts]
        colour = AFTER if drawn is not None and entry.epoch >= drawn else INK
        axes.fill_between(middles, heights, -row, color=PAPER, linewidth=0, zorder=2 * row)
        axes.plot(middles, heights, color=colour, linewidth=1.3, zorder=2 * row + 1)
        words = f"epoch {moment(entry.epoch)}: {sum(entry.counts)} channels, most often {_peak(entry)}"
        drawing.hover(axes, edges[0], edges[-1], words, y=(-row, -row + 1))
    axes.set_yticks([-float(row) for row in range(len(shown))], [f"{moment(entry.epoch)}" for entry in shown])
    axes.set(xlabel="|gamma|", ylim=(-len(shown) + 0.8, _RISE))
    axes.set_xlim(min(entry.edges[0] for entry in shown), max(entry.edges[-1] for entry in shown))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return drawing


def _peak(entry: GammaSnapshot) -> str:
    place = max(range(len(entry.counts)), key=lambda index: entry.counts[index])
    return f"{digits(entry.edges[place])} to {digits(entry.edges[place + 1])}"


def _spread(entries: Sequence[GammaSnapshot], most: int) -> list[GammaSnapshot]:
    """Choose at most so many of the entries, evenly, with the first and the last."""
    if len(entries) <= most:
        return list(entries)
    return [entries[round(index * (len(entries) - 1) / (most - 1))] for index in range(most)]
