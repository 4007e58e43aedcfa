"""What a run is doing and how far it is, on a terminal; silent anywhere else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, float | None], None]  # (what is being done, share done in [0, 1] or None)


def silent(what: str, share: float | None = None) -> None:
    """Show nothing."""


@contextmanager
def shown(wanted: bool = True) -> Iterator[Report]:
    """Give a function that keeps one line on stderr up to date.

    Where stderr is no terminal, or it is not wanted, nothing is shown. The line goes away at the end.
    """
    if not (wanted and sys.stderr.isatty()):
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=None, done="")
        doing = ""

        def show(what: str, share: float | None = None) -> None:
            nonlocal doing
            if what != doing:
                doing = what
                bars.reset(task, description=what, total=None, done="")
            if share is not None:
                bars.update(task, total=1.0, completed=share, done=f"{100 * share:.0f} %")

        yield show
