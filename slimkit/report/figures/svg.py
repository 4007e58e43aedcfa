"""From a matplotlib figure to SVG inside a page: theme colours, the page's fonts, hover texts."""

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import Any

from matplotlib import rc_context

from slimkit.report.figures.canvas import INK, MUTED, NARROW, RULE, VARIABLES, Drawing, Strip

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "slimkit",
    "text.parse_math": False,
    "path.simplify": True,
    "font.size": 12,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.labelpad": 6,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "grid.color": RULE,
    "grid.linewidth": 1,
    "lines.solid_joinstyle": "round",
}


def inline_svg(draw: Callable[[int], Drawing], width: int, name: str, label: str) -> str:
    """Draw at a width and give `<svg>` text for a page.

    `name` makes its ids unique in the page, `label` says what it shows to those who cannot see it.
    """
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the page's fonts, not matplotlib's, draw the text
        drawing = draw(width)
        buffer = io.StringIO()
        drawing.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = _stripped(buffer.getvalue())
    text = re.sub("|".join(VARIABLES), lambda match: f"var(--{VARIABLES[match[0]]})", text)
    text = re.sub(
        r'<g id="(tip\d+)">',
        lambda match: f'<g class="tip" id="{match[1]}"><title>{escape(drawing.tips[match[1]])}</title>',
        text,
    )
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("</svg>", "".join(map(_hit, drawing.strips)) + "</svg>")
    kind = "narrow" if width == NARROW else "wide"
    most = drawing.figure.get_figwidth() * 72 * (1.4 if kind == "narrow" else 1)  # on screens in between
    head = f'<svg role="img" aria-label="{escape(label)}" class="{kind}" style="max-width:{most:.0f}px"'
    return re.sub(r'<svg(?: width="[^"]*"| height="[^"]*")?', head, text, count=1)


def _stripped(text: str) -> str:
    """Leave out of matplotlib's SVG what a page has already or does not need."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)
    text = re.sub(r' (?:width|height)="[^"]*pt"', "", text)
    text = re.sub(r"font-family: [^;\"]*;?\s*|font: ([\d.]+px) [^;\"]*", _font_size, text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r"<[^>]*>", _rounded, text)
    return re.sub(r"\s*\n\s*", "\n", text)


def _rounded(tag: re.Match[str]) -> str:
    """Round the numbers of a tag to a hundredth of a pixel; the text between tags stays."""
    return re.sub(r"(\.\d\d)\d+", r"\1", tag[0])


def _font_size(match: re.Match[str]) -> str:
    return f"font-size: {match[1]}" if match[1] else ""


def _hit(strip: Strip) -> str:
    """Write an invisible rectangle that shows a text on hover."""
    low, high = strip.y or strip.axes.get_ylim()
    corners = strip.axes.transData.transform([(strip.x[0], low), (strip.x[1], high)])
    inside = strip.axes.bbox
    left, right = sorted(min(max(float(x), inside.x0), inside.x1) for x in corners[:, 0])
    bottom, top = sorted(min(max(float(y), inside.y0), inside.y1) for y in corners[:, 1])
    figure = strip.axes.get_figure()
    assert figure is not None
    scale = 72 / figure.dpi
    height = figure.bbox.height
    box = [("x", left), ("y", height - top), ("width", right - left), ("height", top - bottom)]
    place = " ".join(f'{key}="{value * scale:.1f}"' for key, value in box)
    return f'<rect class="tip hit" {place}><title>{escape(strip.text)}</title></rect>\n'
