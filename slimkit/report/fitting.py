"""Tables for terminals of any width: numbers never break, names break at spaces and hyphens alone."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

from slimkit.report.numbers import MISSING

KEPT = "\u00a0"  # a space at which no name breaks
_GAP = 2
_READABLE = 24  # columns that a sentence needs, unless it is shorter
_LINES = 2  # that a name may take beside its figures


@dataclass(frozen=True)
class Column:
    """One column; a `spare` one is left out where there is no room."""

    head: str
    cells: Sequence[str]
    kind: Literal["name", "number", "words"] = "number"
    spare: bool = False

    @property
    def most(self) -> int:
        """Width at which nothing breaks."""
        return max(map(cell_len, (self.head, *self.cells)))

    @property
    def least(self) -> int:
        """Width below which it cannot be read."""
        if self.kind == "number":
            return max(map(cell_len, (*self.head.split(), *self.cells)))
        pieces = max(cell_len(piece) for cell in (self.head, *self.cells) for piece in self.wrapped(cell, 1))
        return max(pieces, min(_READABLE, self.most) if self.kind == "words" else self.most // _LINES)

    def wrapped(self, cell: str, width: int) -> list[str]:
        """Break a cell into lines where it may break."""
        if self.kind == "number" and cell != self.head:
            return [cell]
        hyphens = self.kind == "name"
        return textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=hyphens) or [""]

    def lines(self, cell: str, width: int) -> list[str]:
        """Return a cell as lines of this width."""
        parts = [(part, " " * (width - cell_len(part))) for part in self.wrapped(cell, width)]
        return [space + part if self.kind == "number" else part + space for part, space in parts]


@dataclass(frozen=True)
class FittingTable:
    """A table whose first column names the rows.

    What says nothing in any row is left out. Where the rest does not fit side by side, names stand on a line above
    their figures, sentences below them, and spare columns go.
    """

    columns: Sequence[Column]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Write an empty line, and those of the table for the width that there is."""
        yield Text()
        for line, style in self._lines(options.max_width):
            yield Text(line.replace(KEPT, " ").rstrip(), style=style)

    def _lines(self, room: int) -> Iterator[tuple[str, str]]:
        """Give lines with their style."""
        layouts = list(_layouts([column for column in self.columns if _says(column)]))
        layout = next((one for one in layouts if one.least <= room), layouts[-1])
        widths = _widths(layout.beside, room - layout.indent)
        head = [column.head for column in layout.beside]
        yield from ((line, "bold") for line in _row(layout, head, widths))
        yield "─" * min(room, layout.indent + sum(widths) + _GAP * (len(widths) - 1)), ""
        before = None
        for place in range(len(self.columns[0].cells)):
            if layout.above and (name := layout.above.cells[place]) != before:
                yield from ((line, "") for line in layout.above.wrapped(name, room))
                before = name
            yield from ((line, "") for line in _row(layout, [c.cells[place] for c in layout.beside], widths))
            if layout.below:
                inside = max(1, room - 2 * layout.indent)
                said = layout.below.wrapped(layout.below.cells[place], inside)
                yield from ((2 * layout.indent * " " + line, "") for line in said)


@dataclass(frozen=True)
class _Layout:
    """What stands above the figures of a row, what beside each other, and what below."""

    above: Column | None
    beside: Sequence[Column]
    below: Column | None = None

    @property
    def indent(self) -> int:
        return 2 if self.above else 0

    @property
    def least(self) -> int:
        return self.indent + sum(column.least for column in self.beside) + _GAP * (len(self.beside) - 1)


def _layouts(columns: Sequence[Column]) -> Iterator[_Layout]:
    """Give ways to lay columns out, the widest first."""
    name, *rest = columns
    yield _Layout(None, columns)
    yield _Layout(name, rest)
    said = next((column for column in rest if column.kind == "words"), None)
    beside = [column for column in rest if column is not said]
    yield _Layout(name, beside, said)
    while spare := [column for column in beside if column.spare]:
        beside = [column for column in beside if column is not spare[0]]
        yield _Layout(name, beside, said)


def _widths(columns: Sequence[Column], room: int) -> list[int]:
    """Share out the room: each column what it needs, then those further left what they would like."""
    widths = [column.least for column in columns]
    free = room - sum(widths) - _GAP * (len(widths) - 1)
    for place, column in enumerate(columns):
        more = max(0, min(free, column.most - widths[place]))
        widths[place] += more
        free -= more
    return widths


def _row(layout: _Layout, cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    parts = [c.lines(cell, width) for c, cell, width in zip(layout.beside, cells, widths, strict=True)]
    for line in zip_longest(*parts):
        filled = (" " * width if part is None else part for part, width in zip(line, widths, strict=True))
        yield " " * layout.indent + (" " * _GAP).join(filled)


def _says(column: Column) -> bool:
    return any(cell not in ("", MISSING) for cell in column.cells)
