"""A study in the terminal: what it tells, its arms, their differences."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slimkit.report.numbers import MISSING, change, digits, interval, metric, milliseconds
from slimkit.report.sections.arms import judged, rows, said_of, span, timed_as, titled
from slimkit.results import Arm
from slimkit.results.comparison import differences, opponents


def study_table(arms: Sequence[Arm], notes: Sequence[str] = ()) -> RenderableType:
    """Show a study: the verdict first."""
    said, unit = said_of(arms), arms[0].unit
    means = _table("arm", "test", "95 % interval", "seeds", "cost", "MACs", "params", "latency")
    for row in rows(arms):
        cells = (
            row.title,
            metric(row.test.value, unit, 2),
            interval(row.test.interval, unit) or MISSING,
            str(row.test.seeds),
            digits(row.cost, 2),
            digits(row.macs, 2),
            digits(row.params, 2),
            milliseconds(row.latency),
        )
        means.add_row(*map(Text, cells))  # as Text: names from a file may look like markup
    found = _table("arm", "against", "difference", "verdict")
    for one in differences(arms, opponents(arms)):
        more = "" if one.more is None else f"; about {one.more} more would tell"
        moved = change(one.mean.value, 0, unit)
        if one.mean.interval:
            moved = f"{moved.removesuffix(' points')} ({span(one.mean, unit)})"
        found.add_row(*map(Text, (titled(one.arm, one.budget), one.against, moved, judged(one) + more)))
    parts: list[RenderableType] = [Text(said.sentence, style="bold"), means, found, *map(Text, said.notes)]
    if how := timed_as(arms):
        parts.append(Text(f"Latency: {how}."))
    return Group(*parts, *(Text(f"Warning: {note}", style="yellow") for note in notes))


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        words = name in ("arm", "against", "verdict")
        table.add_column(name, justify="left" if words else "right", overflow="fold")
    return table
