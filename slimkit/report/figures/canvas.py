"""Where figures are drawn: stand-in colours, axes with margins in pixels, hover texts.

An inch of matplotlib is 72 CSS pixels here, so that font sizes, margins and line widths are pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

WIDE, NARROW = 760, 340  # CSS pixels; the page shows the one that fits

# Stand-ins for the page's colours: `svg.inline_svg` turns them into CSS variables, so that one drawing serves
# light and dark.
PAPER, INK, MUTED, RULE, BEFORE, AFTER, MARK = (f"#0000f{i}" for i in range(1, 8))
VARIABLES = {
    PAPER: "paper",
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    BEFORE: "before",
    AFTER: "after",
    MARK: "mark",
}


@dataclass(frozen=True)
class Strip:
    """A rectangle of an axes, in its data coordinates, that shows a text on hover; None: to the edge."""

    axes: Axes
    text: str
    x: tuple[float, float]
    y: tuple[float, float] | None = None


@dataclass
class Drawing:
    """A figure being drawn; `tips` says on hover what a mark (by the id it was given) shows."""

    figure: Figure
    tips: dict[str, str] = field(default_factory=dict)
    strips: list[Strip] = field(default_factory=list)

    def tip(self, text: str) -> str:
        """Note the hover text of a mark; give the id (`gid`) to draw it with."""
        name = f"tip{len(self.tips)}"
        self.tips[name] = text
        return name

    def hover(self, axes: Axes, left: float, right: float, text: str, y: tuple[float, float] | None = None) -> None:
        """Show a text on hover over [left, right] of the x axis, and over y where it is given."""
        self.strips.append(Strip(axes, text, (left, right), y))


def canvas(
    width: int,
    height: int,
    margins: tuple[int, int, int, int] = (28, 10, 46, 54),
    ratios: Sequence[float] = (1,),
) -> tuple[Drawing, list[Axes]]:
    """Start a drawing of width x height pixels.

    `margins` are those above, right, below and left of the axes; `ratios` are the heights of axes that stand
    above each other and share x.
    """
    figure = Figure(figsize=(width / 72, height / 72))
    above, right, below, left = margins
    place = {
        "left": left / width,
        "right": 1 - right / width,
        "bottom": below / height,
        "top": 1 - above / height,
        "height_ratios": ratios,
        "hspace": 0.45,
    }
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, gridspec_kw=place)
    return Drawing(figure), list(axes[:, 0])


def measure(axes: Axes, name: str, show: Callable[[float], str], ticks: int = 4) -> None:
    """Dress the y axis: its name above, level, and faint lines with numbers instead of a rule."""
    axes.set_title(name, loc="left", fontsize=11, color=MUTED, pad=9, x=0)
    axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y")


def graded(axes: Axes, name: str, unit: str, ticks: int = 4) -> None:
    """Dress the y axis of a task's metric: shares as percentages, with as many decimals as the ticks need."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.06 * (high - low))
    measure(axes, f"{name}, {unit}" if unit not in ("share", "") else name, lambda value: f"{value:g}", ticks)
    if unit == "share":
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
