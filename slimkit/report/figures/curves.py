"""Training over epochs: recovery, the search, the distance of its masks."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from slimkit.report.figures.canvas import AFTER, BEFORE, INK, MARK, MUTED, NARROW, Drawing, canvas, graded, measure
from slimkit.report.numbers import digits, metric, moment
from slimkit.results import Accuracy, Epoch, Look

Points = Sequence[tuple[float, float | None]]  # (epoch, value)


def recovery(history: Sequence[Epoch], dense: float | None, by: Accuracy, width: int) -> Drawing:
    """Draw validation accuracy over the epochs of retraining; the dense network is the line to reach."""
    drawing, (axes,) = canvas(width, 240)
    _line(axes, [(entry.epoch, entry.validation_accuracy) for entry in history], AFTER)
    if dense is not None:
        _level(axes, dense, f"dense {metric(dense, by.unit)}", BEFORE)
    graded(axes, f"validation {by.metric}", by.unit)
    _epochs(drawing, [axes], [(entry.epoch, _said(entry, by)) for entry in history], width)
    return drawing


def training(history: Sequence[Epoch], draws: Mapping[str, float], by: Accuracy, width: int) -> Drawing:
    """Draw accuracy and loss over the epochs of a search and what followed, with the draw marked."""
    drawing, (upper, lower) = canvas(width, 350, ratios=(3, 2))
    _line(upper, [(entry.epoch, entry.validation_accuracy) for entry in history], AFTER)
    _line(lower, [(entry.epoch, entry.loss) for entry in history], INK)
    graded(upper, f"validation {by.metric}", by.unit)
    measure(lower, "loss", lambda value: f"{value:g}", ticks=3)
    _epochs(drawing, [upper, lower], [(entry.epoch, _said(entry, by)) for entry in history], width)
    _draws(upper, draws, named=True)
    _draws(lower, draws, named=False)
    return drawing


def distance(looks: Sequence[Look], threshold: float | None, draws: Mapping[str, float], width: int) -> Drawing:
    """Draw the distance between masks over epochs, its threshold, and where the draws fell."""
    drawing, (axes,) = canvas(width, 250)
    points = [(look.epoch, look.distance) for look in looks]
    _line(axes, points, AFTER)
    top = max([threshold or 0.0, *(value for _, value in points if value is not None)])
    axes.set_ylim(0, 1.15 * top or 1)
    if threshold is not None:
        _level(axes, threshold, f"settled below {threshold:.3g}", MARK)
    measure(axes, "mask distance", lambda value: f"{value:g}")
    _epochs(drawing, [axes], [(epoch, f"distance {digits(value)}") for epoch, value in points], width)
    _draws(axes, draws, named=True)
    return drawing


def _said(entry: Epoch, by: Accuracy) -> str:
    known = entry.validation_accuracy
    right = [] if known is None else [f"{by.metric} {metric(known, by.unit, 2)}"]
    return ", ".join([*right, f"loss {digits(entry.loss)}"])


def _line(axes: Axes, points: Points, colour: str) -> None:
    known = [(epoch, value) for epoch, value in points if value is not None]
    if known:
        few = len(known) <= 20
        axes.plot(*zip(*known, strict=True), color=colour, linewidth=2, marker="o" if few else "", markersize=4)


def _level(axes: Axes, value: float, words: str, colour: str) -> None:
    axes.axhline(value, color=colour, linewidth=1.5, linestyle=(0, (4, 3)), zorder=1)
    left = colour == MARK  # the masks' distances end below it, on the right
    axes.annotate(
        words, (0 if left else 1, value), xycoords=("axes fraction", "data"), xytext=(2 if left else -2, 4),
        textcoords="offset points", ha="left" if left else "right", va="bottom", size=11,
        color=MARK if left else MUTED,
    )  # fmt: skip


def _draws(axes: Axes, draws: Mapping[str, float], named: bool) -> None:
    """Mark the epochs at which a ratio was drawn; the first of `draws` is the one that was used."""
    for index, (name, epoch) in enumerate(draws.items()):
        axes.set_xlim(left=min(axes.get_xlim()[0], epoch))  # a draw in the first epoch
        first, last = axes.get_xlim()
        late = epoch > first + 0.6 * (last - first)
        axes.axvline(epoch, color=MARK if index == 0 else BEFORE, linewidth=1.5, zorder=1)
        if named:
            offset = (-5 if late else 5, -1 - 15 * index)
            axes.annotate(
                name, (epoch, 1), xycoords=("data", "axes fraction"), xytext=offset,
                textcoords="offset points", ha="right" if late else "left", va="top", size=11,
                color=MARK if index == 0 else MUTED,
            )  # fmt: skip


def _epochs(drawing: Drawing, stack: Sequence[Axes], said: Sequence[tuple[float, str]], width: int) -> None:
    """Dress the x axis that stacked axes share, and say on hover what every epoch gave."""
    epochs = [epoch for epoch, _ in said]
    lowest = stack[-1]
    lowest.set_xlabel("epoch")
    whole = all(float(epoch).is_integer() for epoch in epochs)
    gaps = [b - a for a, b in zip(epochs, epochs[1:], strict=False) if b > a]
    half = min(gaps, default=epochs[0] or 1) / 2
    locator = MaxNLocator(6 if width == NARROW else 12, integer=whole, min_n_ticks=1, steps=[1, 2, 5, 10])
    lowest.xaxis.set_major_locator(locator)
    lowest.set_xlim(min(epochs) - half, max(epochs) + half)
    for epoch, words in said:
        for axes in stack:
            drawing.hover(axes, epoch - half, epoch + half, f"epoch {moment(epoch)}: {words}")
