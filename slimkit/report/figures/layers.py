"""A network over its depth: channels and work of every layer, before and after."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from slimkit.report.figures.canvas import AFTER, BEFORE, INK, MUTED, RULE, Drawing, canvas, measure
from slimkit.report.numbers import Show, amount, milliseconds, percent, short
from slimkit.results import LayerEntry


def channels(layers: Sequence[LayerEntry], width: int) -> Drawing:
    """Draw the silhouette of the network: a layer is as high as it has channels; inside, what is left."""
    drawing, (axes,) = canvas(width, 260, margins=(6, 6, 34, 30))
    old = [layer.channels_before for layer in layers]
    new = [layer.channels_after for layer in layers]
    for counts, colour in ((old, BEFORE), (new, AFTER)):
        axes.bar(
            range(len(layers)), counts, bottom=[-count / 2 for count in counts],
            width=_bar_width(layers, width), color=colour, linewidth=0,
        )  # fmt: skip
    top = max(old)
    axes.set(ylim=(-top / 2, top / 2), xlim=(-0.6, len(layers) - 0.4), yticks=[], xticks=[])
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    where: dict[str, Any] = {"xycoords": ("axes pixels", "data"), "annotation_clip": False}
    style = "|-|,widthA=0.3,widthB=0.3"
    axes.annotate(
        "", (-10, -top / 2), xytext=(-10, top / 2), textcoords=where["xycoords"],
        arrowprops={"arrowstyle": style, "color": MUTED, "linewidth": 1, "shrinkA": 0, "shrinkB": 0},
        **where,
    )  # fmt: skip
    axes.annotate(f"{top} channels", (-15, 0), rotation=90, ha="right", va="center", color=MUTED, size=11, **where)
    _stages(axes, layers, width - 36)
    for place, layer in enumerate(layers):
        left = percent(layer.channels_after / layer.channels_before, 0)
        change = f"{layer.channels_before} → {layer.channels_after} channels, {left} kept"
        drawing.hover(axes, place - 0.5, place + 0.5, f"{_name(layer)}: {change}")
    return drawing


def macs(layers: Sequence[LayerEntry], width: int) -> Drawing:
    """Draw the MACs of every layer, before and after."""
    return _bars(layers, width, "macs", "MACs an image", amount)


def times(layers: Sequence[LayerEntry], width: int, batch: int) -> Drawing:
    """Draw the time of every layer, before and after, ms, for a batch of so many images."""
    return _bars(layers, width, "ms", "time an image" if batch == 1 else f"time of a batch of {batch}", milliseconds)


def _bars(layers: Sequence[LayerEntry], width: int, key: str, name: str, show: Show) -> Drawing:
    drawing, (axes,) = canvas(width, 220, margins=(28, 6, 34, 54))
    old = [getattr(layer, f"{key}_before") or 0 for layer in layers]
    new = [getattr(layer, f"{key}_after") or 0 for layer in layers]
    for values, colour in ((old, BEFORE), (new, AFTER)):
        heights = [float(value) for value in values]  # counts may be beyond what numpy takes for whole numbers
        axes.bar(range(len(layers)), heights, width=_bar_width(layers, width), color=colour, linewidth=0)
    axes.set(xlim=(-0.6, len(layers) - 0.4), xticks=[], ylim=(0, 1.02 * float(max([*old, *new])) or 1))
    measure(axes, name, lambda value: short(show(value)))
    _stages(axes, layers, width - 60)
    for place, layer in enumerate(layers):
        change = f"{show(old[place])} → {show(new[place])}"
        drawing.hover(axes, place - 0.5, place + 0.5, f"{_name(layer)}: {change}")
    return drawing


def _bar_width(layers: Sequence[LayerEntry], width: int) -> float:
    return 1.0 if len(layers) > width / 12 else 0.86


def _name(layer: LayerEntry) -> str:
    return f"{layer.name} ({layer.kind})"


def _stages(axes: Axes, layers: Sequence[LayerEntry], width: int) -> None:
    """Name the parts of the network below, where there is room; a line where one begins."""
    parts: list[list[Any]] = []  # [name, first place, last place]
    depth = 1 if len({layer.name.split(".")[0] for layer in layers}) > 2 else 2
    for place, layer in enumerate(layers):
        name = ".".join(layer.name.split(".")[:depth])
        if parts and parts[-1][0] == name:
            parts[-1][2] = place
        else:
            parts.append([name, place, place])
    free = -1e9  # where the last name ended, in pixels
    for part, first, last in parts:
        name = layers[first].name if first == last and part.isdigit() else part  # of an nn.Sequential: 0.0, not 0
        middle = ((first + last) / 2 + 0.6) / len(layers) * width
        half = 3.2 * len(name)
        if first > 0 and len(parts) < width / 30:
            axes.axvline(first - 0.5, color=RULE, linewidth=1, zorder=0)
        if middle - half > free + 8:
            axes.annotate(
                name, ((first + last) / 2, 0), xycoords=("data", "axes fraction"), xytext=(0, -8),
                textcoords="offset points", ha="center", va="top", size=11, color=INK,
            )  # fmt: skip
            free = middle + half
