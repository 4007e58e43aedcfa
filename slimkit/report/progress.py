"""What a run is doing and how far it is: a moving line on a terminal, a plain line an epoch anywhere else."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Protocol

from slimkit.progress import Moment
from slimkit.report.numbers import digits, duration, metric

_EVERY = 30.0  # seconds of silence after which long work without epochs says where it is


class Screen(Protocol):
    """Shows progress."""

    def __call__(self, what: str, share: float | None) -> None:
        """Show what is being done, and the share of it that is, in [0, 1]."""
        ...

    def watch(self, moment: Moment) -> None:
        """Show how a training goes."""
        ...


class Silent:
    """Shows nothing."""

    def __call__(self, what: str, share: float | None) -> None:
        """Show nothing."""

    def watch(self, moment: Moment) -> None:
        """Show nothing."""


class Plain:
    """Writes lines to stderr: one an epoch, and one now and then where nothing else is said."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, what: str, share: float | None) -> None:
        """Say what is being done, unless something was said a short while ago."""
        if time.monotonic() - self._said >= _EVERY:
            self._say(what if share is None else f"{what}, {100 * share:.0f} %")

    def watch(self, moment: Moment) -> None:
        """Say what an epoch gave."""
        if not moment.whole:
            return
        left = moment.seconds * (1 / moment.share - 1) if moment.share else math.nan
        coming = f", about {duration(left)} left" if left > 0 else ""
        self._say(
            f"{moment.doing}, {described(moment)} ({100 * moment.share:.0f} %), {duration(moment.seconds)}{coming}"
        )

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        with suppress(OSError, ValueError):  # a full disk, a closed pipe: no reason to end a run
            print(f"slimkit: {line}", file=sys.stderr, flush=True)


def described(moment: Moment, short: bool = False) -> str:
    """Say where a training is and what it gives: `epoch 3 of 10, loss 0.412, accuracy 91.2 %`; short: `3/10, ...`."""
    under_way = moment.epoch if moment.whole else min(moment.epoch + 1, math.ceil(moment.epochs))
    whole = moment.epochs == math.ceil(moment.epochs)
    place = f"epoch {under_way} of {moment.epochs:g}" if whole else f"epoch {under_way}, {moment.epochs:g} in all"
    said = [f"{under_way}/{math.ceil(moment.epochs)}" if short else place]
    if math.isfinite(moment.loss):
        said.append(f"loss {digits(moment.loss)}")
    if moment.quality is not None:
        said.append(f"{moment.metric} {metric(moment.quality, moment.unit)}")
    return ", ".join(said)


@contextmanager
def shown(wanted: bool = True) -> Iterator[Screen]:
    """Give what shows progress on stderr: a line that moves where that is a terminal, else plain ones.

    The moving line goes away at the end. Where it is not wanted, nothing is shown.
    """
    if not wanted:
        yield Silent()
    elif sys.stderr.isatty():
        with _live() as live:
            yield live
    else:
        yield Plain()


@contextmanager
def _live() -> Iterator[Screen]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.table import Column
    from rich.text import Text

    class Left(ProgressColumn):
        """The time left, by the pace of the last half minute."""

        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            left = task.time_remaining
            return Text("" if left is None else f"{timedelta(seconds=round(left))} left")

    class What(ProgressColumn):
        """What is done, cut off where the terminal is too narrow."""

        def render(self, task: Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    whole = Column(no_wrap=True)
    columns = (
        BarColumn(bar_width=10, table_column=whole),
        TextColumn("{task.fields[done]}", table_column=whole),
        TimeElapsedColumn(table_column=whole),
        Left(table_column=whole),
        What(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        class Live:
            doing = "starting"
            task = bars.add_task(doing, total=None, done="")

            def __call__(self, what: str, share: float | None) -> None:
                if what != self.doing:
                    bars.remove_task(self.task)
                    self.doing, self.task = what, bars.add_task(what, total=None, done="")
                if share is not None:
                    bars.update(self.task, total=1.0, completed=share, done=f"{100 * share:.0f} %")

            def watch(self, moment: Moment) -> None:
                bars.update(self.task, description=f"{moment.doing} {described(moment, short=True)}")

        yield Live()
