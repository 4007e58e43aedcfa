"""What was paid and what was got: accuracy against a cost, training against its alternatives."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from slimkit.report.figures.canvas import AFTER, BEFORE, INK, MUTED, NARROW, PAPER, Drawing, canvas, graded
from slimkit.report.figures.labels import NEAR, Box, beside
from slimkit.report.numbers import digits, interval, metric, percent, possible, short
from slimkit.results import Accuracy

_DOT = 8.4  # pixels, across
_COLOURS = {"before": (BEFORE, BEFORE), "after": (AFTER, AFTER), "other": (PAPER, INK)}


@dataclass(frozen=True)
class Point:
    """One network: `role` is `before`, `after` or `other`; `cost` in the unit of the axis; `span` is an interval.

    `label` stands for the name in the drawing, where names would not find room.
    """

    name: str
    cost: float
    accuracy: float
    role: str = "other"
    span: tuple[float, float] | None = None
    label: str = ""


@dataclass(frozen=True)
class Expense:
    """What one way to the network costs, in parts (name, share of one dense training)."""

    name: str
    parts: tuple[tuple[str, float], ...]
    ours: bool = False


def best(by: Accuracy) -> str:
    """Say where the best networks are."""
    return f"{'Up' if by.better == 'higher' else 'Down'} and to the left is better"


def accuracy_against(
    points: Sequence[Point], name: str, show: Callable[[float], str], by: Accuracy, width: int
) -> Drawing:
    """Draw a metric against cost, from cost 0 on, so that no reduction is flattered; `show` writes it."""
    height = 340
    drawing, (axes,) = canvas(width, height)
    costs = [point.cost for point in points]
    values = [value for point in points for value in (point.accuracy, *(point.span or ()))]
    least = 0.02 if by.unit == "share" else 0.02 * max(map(abs, values)) or 1.0
    room = max(max(values) - min(values), least)  # less would make noise look like a difference
    middle = (max(values) + min(values)) / 2
    limits = possible((middle - 0.62 * room, middle + 0.62 * room), by.unit)
    axes.set(xlim=(0, 1.08 * max(costs)), ylim=limits)
    _dots(drawing, axes, points, show, by)
    graded(axes, by.metric, by.unit, ticks=6)
    axes.set_xlabel(name)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(show(value))))
    axes.xaxis.set_major_locator(MaxNLocator(4 if width == NARROW else 7, steps=[1, 2, 5, 10]))
    if all(point.label for point in points):
        _labels(axes, points)
    else:
        heights = _apart(points, 15 / (height - 74) * 1.24 * room, 1.08 * max(costs) / (width - 64))
        _names(axes, points, heights)
    return drawing


def _dots(drawing: Drawing, axes: Axes, points: Sequence[Point], show: Callable[[float], str], by: Accuracy) -> None:
    for point in points:
        face, edge = _COLOURS[point.role]
        said = f"{point.name}: {metric(point.accuracy, by.unit, 2)} at {show(point.cost)}"
        if point.span:
            said += f", {interval(point.span, by.unit)}"
            axes.plot([point.cost, point.cost], point.span, color=edge, linewidth=1.5, zorder=2)
        axes.scatter(
            point.cost, point.accuracy, s=_DOT**2, facecolor=face, edgecolor=edge, linewidth=1.5, zorder=3,
            clip_on=False, gid=drawing.tip(said),
        )  # fmt: skip


def _labels(axes: Axes, points: Sequence[Point]) -> None:
    """Write short labels beside their dots; a line leads to those that stand further off."""
    scale = 72 / axes.figure.dpi  # from matplotlib's pixels to the page's

    def at(cost: float, accuracy: float) -> tuple[float, float]:
        x, y = axes.transData.transform((cost, accuracy))
        return float(x) * scale, float(y) * scale

    dots = [Box(*at(point.cost, point.accuracy), _DOT + 3, _DOT + 3) for point in points]
    lines = []
    for point in points:
        if point.span:
            (x, low), (_, high) = (at(point.cost, end) for end in point.span)
            lines.append(Box(x, (low + high) / 2, 3, high - low))
    sizes = [(7.0 * len(point.label) + 2, 13.0) for point in points]
    inside = axes.bbox
    middle = (inside.x0 + inside.x1) / 2 * scale, (inside.y0 + inside.y1) / 2 * scale
    room = Box(*middle, inside.width * scale + 12, inside.height * scale)
    for point, dot, spot in zip(points, dots, beside(dots, sizes, lines, room), strict=True):
        away = spot.x - dot.x, spot.y - dot.y
        leader = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        axes.annotate(
            point.label, (point.cost, point.accuracy), xytext=away, textcoords="offset points",
            ha="center", va="center", size=11, color=MUTED if point.role == "before" else INK, zorder=4,
            arrowprops=leader if math.hypot(*away) > NEAR + 1 else None,
        )  # fmt: skip


def _names(axes: Axes, points: Sequence[Point], heights: Sequence[float]) -> None:
    """Write names beside their dots, at heights where none touches another."""
    most = max(point.cost for point in points)
    for point, level in zip(points, heights, strict=True):
        left = point.cost > 0.55 * most
        axes.annotate(
            point.name, (point.cost, level), xytext=(-9 if left else 9, 0), textcoords="offset points",
            ha="right" if left else "left", va="center", size=12,
            color=MUTED if point.role == "before" else INK,
        )  # fmt: skip


def expenses(rows: Sequence[Expense], width: int) -> Drawing:
    """Draw what training costs, each way one bar, as a share of one dense training."""
    drawing, (axes,) = canvas(width, 52 + 52 * len(rows), margins=(0, 40, 44, 2))
    top = max(sum(share for _, share in row.parts) for row in rows)
    for place, row in enumerate(rows):
        start = 0.0
        for index, (name, share) in enumerate(row.parts):
            axes.barh(
                place, share, left=start, height=0.4, color=AFTER if row.ours else BEFORE,
                alpha=0.5 if index < len(row.parts) - 1 else 1, linewidth=0,
                gid=drawing.tip(f"{row.name}, {name}: {share:.2f} of one dense training"),
            )  # fmt: skip
            start += share
        parts = " + ".join(f"{name} {share:.2f}" for name, share in row.parts) if len(row.parts) > 1 else ""
        axes.text(0, place - 0.28, row.name + (f": {parts}" if parts else ""), va="bottom", size=12, color=INK)
        axes.annotate(
            f"{start:.2f}",
            (start, place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            size=12,
            color=INK,
        )
    axes.set(xlim=(0, top), ylim=(len(rows) - 0.65, -0.75), yticks=[])
    axes.set_xlabel("MACs of training, one dense training is 1")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.spines["left"].set_visible(False)
    return drawing


def after_cut(rows: Sequence[tuple[str, float]], dense: float | None, by: Accuracy | None, width: int) -> Drawing:
    """Draw the task's metric (or, without data, output error) right after the cut, each treatment one line."""
    accuracy = by is not None and by.unit == "share"
    drawing, (axes,) = canvas(width, 66 + 44 * len(rows), margins=(18 if accuracy else 0, 44, 46, 2))
    show = percent if accuracy else digits
    top = max([1.0 if accuracy else 0.0, *(value for _, value in rows)]) or 1.0  # of a cut that changes nothing
    for place, (name, value) in enumerate(rows):
        axes.plot([0, value], [place, place], color=AFTER, linewidth=2, solid_capstyle="butt")
        axes.scatter(
            value,
            place,
            s=64,
            color=AFTER,
            zorder=3,
            clip_on=False,
            gid=drawing.tip(f"{name}: {show(value)}"),
        )
        axes.text(0, place - 0.2, name, va="bottom", ha="left", size=12, color=INK)
        axes.annotate(
            show(value),
            (value, place),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            size=12,
            color=INK,
        )
    if by is not None and dense is not None:
        axes.axvline(dense, color=BEFORE, linewidth=1.5, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"dense {show(dense)}", (dense, 1), xycoords=("data", "axes fraction"), xytext=(0, 5),
            textcoords="offset points", ha="right", va="bottom", size=11, color=MUTED,
        )  # fmt: skip
    axes.set(xlim=(0, top), ylim=(len(rows) - 0.5, -0.75), yticks=[])
    axes.set_xlabel(f"{by.metric} {by.unit if not accuracy else ''}".strip() if by else "output error")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0) if accuracy else f"{value:g}"))
    axes.spines["left"].set_visible(False)
    return drawing


def _apart(points: Sequence[Point], least: float, pixel: float) -> list[float]:
    """Give heights for the names of points: their accuracies, moved apart where two names would touch.

    `least` is how far apart they must be, in accuracy; `pixel` how wide a pixel is, in cost.
    """
    order = sorted(range(len(points)), key=lambda index: points[index].accuracy)
    half = max(points, key=lambda point: point.cost).cost * 0.55
    spans = []
    for point in points:
        long = 7 * len(point.name) + 12
        spans.append(
            (point.cost - long * pixel, point.cost) if point.cost > half else (point.cost, point.cost + long * pixel)
        )
    moved = [point.accuracy for point in points]
    for _ in range(30):
        for place, low in enumerate(order):
            for high in order[place + 1 :]:
                touch = spans[low][0] < spans[high][1] and spans[high][0] < spans[low][1]
                if touch and (gap := moved[high] - moved[low]) < least:
                    moved[low] -= (least - gap) / 2
                    moved[high] += (least - gap) / 2
    return moved
