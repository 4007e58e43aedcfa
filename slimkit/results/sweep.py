"""What several budgets in one run of `compress` give."""

from dataclasses import dataclass
from typing import Literal

from slimkit.record import Record
from slimkit.results.report import Report


@dataclass(frozen=True, kw_only=True)
class SweepReport(Record):
    """The reports of a sweep.

    Attributes:
        schema: version of this record.
        names: of the folders, one a budget that was reached, in the order in which they were asked for.
        runs: their reports.
    """

    schema: Literal["slimkit.sweep/1"] = "slimkit.sweep/1"
    names: tuple[str, ...]
    runs: tuple[Report, ...]
