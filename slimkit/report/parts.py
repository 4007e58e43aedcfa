"""What a page is made of: sections of tables, pictures and code; what they hold, not how they look."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slimkit.report.figures.canvas import NARROW, WIDE, Drawing
from slimkit.report.figures.svg import inline_svg


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: `text` to read; `path`, with slashes, and `value` say which number of `report.json`
    it shows.

    `bar`, in [0, 1], draws a bar behind or below the text; `note` is a smaller second line.
    """

    text: str
    number: bool = False
    path: str | None = None
    value: float | None = None
    bar: float | None = None
    note: str | None = None
    mono: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; `folded` ones open on a click, by their `caption`, and on paper where they are `printed`."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    folded: bool = False
    printed: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure as SVG for wide and for narrow screens, with its legend: (colour name, words)."""

    name: str
    wide: str
    narrow: str
    legend: Sequence[tuple[str, str]] = ()
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Code:
    """Code to copy."""

    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: `about` says in the margin how to read it."""

    name: str
    title: str
    about: str = ""
    parts: list[Any] = field(default_factory=list)


def picture(
    name: str,
    label: str,
    draw: Callable[[int], Drawing],
    legend: Sequence[tuple[str, str]] = (),
    caption: str = "",
) -> Picture:
    """Draw a figure for both kinds of screen; `label` says what it shows to those who cannot see it."""
    wide = inline_svg(draw, WIDE, f"{name}-wide", label)
    return Picture(
        name=name,
        wide=wide,
        narrow=inline_svg(draw, NARROW, f"{name}-narrow", label),
        legend=legend,
        caption=caption,
    )


def words(text: object, mono: bool = False) -> Cell:
    """Make a cell of text."""
    return Cell(text=str(text), mono=mono)


def quantity(
    value: float | None,
    show: Callable[[float | None], str],
    path: str | None = None,
    bar: float | None = None,
) -> Cell:
    """Make a cell of a number; `path` is where `report.json` has it."""
    return Cell(text=show(value), number=True, path=path, value=value, bar=bar)


def telling(head: Sequence[str], rows: Sequence[Sequence[Cell]], nothing: str) -> Table:
    """Make a table without the columns whose cells all say `nothing`, as the terminal's table leaves them out."""
    kept = [place for place in range(len(head)) if any(row[place].text != nothing for row in rows)]
    return Table(head=[head[place] for place in kept], rows=[[row[place] for place in kept] for row in rows])


def pairs(record: Mapping[str, Any], caption: str, folded: bool = False, mono: bool = True) -> Table:
    """Make a table of names and values."""
    return Table(
        head=(),
        rows=[(words(name, mono=mono), words(_plain(value))) for name, value in record.items()],
        caption=caption,
        folded=folded,
        printed=folded,
    )


def _plain(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(one)}" for name, one in value.items()) or "none"
    return str(value)
