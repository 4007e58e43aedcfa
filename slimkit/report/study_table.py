"""A study in the terminal: what it tells, its arms, their differences."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from slimkit.report.fitting import KEPT, Column, FittingTable
from slimkit.report.numbers import MISSING, change, digits, interval, metric, milliseconds
from slimkit.report.sections.arms import judged, rows, said_of, span, timed_as, titled
from slimkit.results import Arm
from slimkit.results.comparison import Difference, differences, opponents


def study_table(arms: Sequence[Arm], notes: Sequence[str] = ()) -> RenderableType:
    """Show a study: the verdict first."""
    said, unit = said_of(arms), arms[0].unit
    found = rows(arms)
    means = FittingTable(
        [
            Column("arm", [_title(row.name, row.budget) for row in found], "name"),
            Column("test", [metric(row.test.value, unit, 2) for row in found]),
            Column("95 % interval", [interval(row.test.interval, unit) or MISSING for row in found]),
            Column("seeds", [str(row.test.seeds) for row in found], spare=True),
            Column("cost", [digits(row.cost, 2) for row in found]),
            Column("MACs", [digits(row.macs, 2) for row in found], spare=True),
            Column("params", [digits(row.params, 2) for row in found], spare=True),
            Column("latency", [milliseconds(row.latency) for row in found], spare=True),
        ]
    )
    parts: list[RenderableType] = [Text(said.sentence, style="bold"), means]
    if pairs := differences(arms, opponents(arms)):
        parts.append(
            FittingTable(
                [
                    Column("arm", [_title(one.arm, one.budget) for one in pairs], "name"),
                    Column("against", [one.against for one in pairs], "name"),
                    Column("difference", [_moved(one, unit) for one in pairs]),
                    Column("verdict", [_verdict(one) for one in pairs], "words"),
                ]
            )
        )
    parts += map(Text, ("", *said.notes))
    if how := timed_as(arms):
        parts.append(Text(f"Latency: {how}."))
    return Group(*parts, *(Text(f"Warning: {note}", style="yellow") for note in notes))


def _title(name: str, budget: str) -> str:
    return titled(name, budget.replace(" ", KEPT))


def _moved(one: Difference, unit: str) -> str:
    moved = change(one.mean.value, 0, unit)
    return f"{moved.removesuffix(' points')} ({span(one.mean, unit)})" if one.mean.interval else moved


def _verdict(one: Difference) -> str:
    return judged(one) + ("" if one.more is None else f"; about {one.more} more would tell")
