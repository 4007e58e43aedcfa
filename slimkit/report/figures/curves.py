"""Training over epochs: recovery, the search, the distance of its masks."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from slimkit.report.figures.canvas import AFTER, BEFORE, INK, MARK, MUTED, NARROW, Drawing, canvas, measure
from slimkit.report.numbers import digits, percent

History = Sequence[Mapping[str, Any]]


def recovery(history: History, dense: float | None, width: int) -> Drawing:
    """Draw validation accuracy over the epochs of retraining; the dense network is the line to reach."""
    drawing, (axes,) = canvas(width, 240)
    _line(axes, history, "validation_accuracy", AFTER)
    if dense is not None:
        _level(axes, dense, f"dense {percent(dense)}", BEFORE)
    _accuracies(axes, "validation accuracy")
    _epochs(drawing, [axes], history, width)
    return drawing


def training(history: History, draws: Mapping[str, float], width: int) -> Drawing:
    """Draw accuracy and loss over the epochs of a search and what followed, with the draw marked."""
    drawing, (upper, lower) = canvas(width, 350, ratios=(3, 2))
    _line(upper, history, "accuracy", AFTER)
    _line(lower, history, "loss", INK)
    _accuracies(upper, "accuracy")
    measure(lower, "loss", lambda value: f"{value:g}", ticks=3)
    _epochs(drawing, [upper, lower], history, width)
    _draws(upper, draws, named=True)
    _draws(lower, draws, named=False)
    return drawing


def distance(distances: History, threshold: float | None, draws: Mapping[str, float], width: int) -> Drawing:
    """Draw the distance between masks over epochs, its threshold, and where the draws fell."""
    drawing, (axes,) = canvas(width, 250)
    _line(axes, distances, "distance", AFTER)
    top = max([threshold or 0, *(entry["distance"] for entry in distances)])
    axes.set_ylim(0, 1.15 * top or 1)
    if threshold is not None:
        _level(axes, threshold, f"settled below {threshold:.3g}", MARK)
    measure(axes, "mask distance", lambda value: f"{value:g}")
    _epochs(drawing, [axes], distances, width)
    _draws(axes, draws, named=True)
    return drawing


def _line(axes: Axes, history: History, key: str, colour: str) -> None:
    known = [(entry["epoch"], entry[key]) for entry in history if entry.get(key) is not None]
    if known:
        few = len(known) <= 20
        axes.plot(*zip(*known, strict=True), color=colour, linewidth=2, marker="o" if few else "", markersize=4)


def _accuracies(axes: Axes, name: str) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.06 * (high - low))
    places = 0 if high - low > 0.04 else 1
    measure(axes, name, lambda value: percent(value, places))


def _level(axes: Axes, value: float, words: str, colour: str) -> None:
    axes.axhline(value, color=colour, linewidth=1.5, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        words, (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 4), textcoords="offset points",
        ha="right", va="bottom", size=11, color=MARK if colour == MARK else MUTED,
    )  # fmt: skip


def _draws(axes: Axes, draws: Mapping[str, float], named: bool) -> None:
    """Mark the epochs at which a ratio was drawn; the first of `draws` is the one that was used."""
    for index, (name, epoch) in enumerate(draws.items()):
        axes.set_xlim(left=min(axes.get_xlim()[0], epoch))  # a draw in the first epoch
        first, last = axes.get_xlim()
        late = epoch > first + 0.75 * (last - first)
        axes.axvline(epoch, color=MARK if index == 0 else BEFORE, linewidth=1.5, zorder=1)
        if named:
            offset = (-5 if late else 5, -1 - 15 * index)
            axes.annotate(
                name, (epoch, 1), xycoords=("data", "axes fraction"), xytext=offset,
                textcoords="offset points", ha="right" if late else "left", va="top", size=11,
                color=MARK if index == 0 else MUTED,
            )  # fmt: skip


def _epochs(drawing: Drawing, stack: Sequence[Axes], history: History, width: int) -> None:
    """Dress the x axis that stacked axes share, and say on hover what every epoch gave."""
    epochs = [entry["epoch"] for entry in history]
    lowest = stack[-1]
    lowest.set_xlabel("epoch")
    whole = all(float(epoch).is_integer() for epoch in epochs)
    half = min((b - a for a, b in zip(epochs, epochs[1:], strict=False)), default=epochs[0] or 1) / 2
    lowest.xaxis.set_major_locator(MaxNLocator(6 if width == NARROW else 12, integer=whole, min_n_ticks=1))
    lowest.set_xlim(min(epochs) - half, max(epochs) + half)
    for entry in history:
        said = [f"{name} {digits(entry[name])}" for name in ("distance", "loss") if entry.get(name) is not None]
        right = entry.get("accuracy", entry.get("validation_accuracy"))
        words = ", ".join([f"{percent(right, 2)} right"] * (right is not None) + said)
        for axes in stack:
            drawing.hover(axes, entry["epoch"] - half, entry["epoch"] + half, f"epoch {entry['epoch']:g}: {words}")
