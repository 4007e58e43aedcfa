"""The mask-distance matrix of a search: which epochs would give the same ticket."""

from collections.abc import Sequence

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from slimkit.report.figures.canvas import MUTED, Drawing, canvas
from slimkit.report.numbers import digits, moment

_MOST_HOVERED = 40  # epochs; a hover text for each of 800 pairs is enough for a page
_WARM = LinearSegmentedColormap.from_list(
    "closer is warmer", ["#fff0bd", "#f8b04c", "#e05e3a", "#93385f", "#43306b", "#1f2547"]
)


def matrix(distances: Sequence[Sequence[float]], epochs: Sequence[float], threshold: float, width: int) -> Drawing:
    """Draw the distance between every two masks: warmer is closer; a line where it is `threshold`."""
    side = min(width, 470)
    scale = 60  # pixels on the right, for the colour scale
    drawing, (axes,) = canvas(side, side - scale, margins=(8, scale, 46, 54))
    size = len(epochs)
    top = max(max(max(row) for row in distances), threshold, 1e-9)
    image = axes.imshow(distances, cmap=_WARM, vmin=0, vmax=top, interpolation="none", aspect="auto")
    others = _off_diagonal(distances) if size > 1 else []
    if others and min(map(min, others)) < threshold < max(map(max, others)):
        axes.contour(others, levels=[threshold], colors=["#ffffff"], linewidths=1.5)
    room = max(len(moment(epoch)) for epoch in epochs) * 7 + 14  # pixels that a label takes, with air
    most = max(1, min(8, (side - scale - 54) // room))
    ticks = [round(tick) for tick in MaxNLocator(most, integer=True).tick_values(0, size - 1) if 0 <= tick < size]
    names = [moment(epochs[tick]) for tick in ticks]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set_xlabel("epoch")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    place = axes.get_position()
    beside = drawing.figure.add_axes((place.x1 + 14 / side, place.y0, 9 / side, place.height))
    bar = drawing.figure.colorbar(image, cax=beside)
    bar.outline.set_visible(False)
    beside.tick_params(length=0, colors=MUTED)
    beside.axhline(threshold, color="#ffffff", linewidth=1.5)
    for row in range(size if size <= _MOST_HOVERED else 0):
        for column in range(row + 1):
            words = f"epochs {moment(epochs[column])} and {moment(epochs[row])}: {digits(distances[row][column])}"
            drawing.hover(axes, column - 0.5, column + 0.5, words, y=(row - 0.5, row + 0.5))
            if column < row:
                drawing.hover(axes, row - 0.5, row + 0.5, words, y=(column - 0.5, column + 0.5))
    return drawing


def _off_diagonal(distances: Sequence[Sequence[float]]) -> list[list[float]]:
    """Let a mask's nearer neighbour stand for its distance to itself, which says nothing."""
    size = len(distances)
    rows = [list(row) for row in distances]
    for place, row in enumerate(rows):
        row[place] = min(row[near] for near in (place - 1, place + 1) if 0 <= near < size)
    return rows
