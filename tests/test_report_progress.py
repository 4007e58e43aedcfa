"""Progress: on a terminal a line whose bar and clock move, elsewhere a plain line an epoch."""

import contextlib
import os
import pty
import re
import sys
import time
from dataclasses import replace

import pytest
import rich.progress

from slimkit.progress import Moment
from slimkit.report import progress

MOMENT = Moment(
    doing="training", step=30, steps=120, epoch=2, epochs=8, loss=0.51234, learning_rate=0.1, quality=0.9125,
    metric="accuracy", unit="share", seconds=4.0, whole=False,
)  # fmt: skip


def read_all(terminal: int) -> str:
    """Read what was written to a terminal whose other end is closed."""
    said = b""
    with contextlib.suppress(OSError):  # how Linux says that nothing more will come
        while chunk := os.read(terminal, 4096):
            said += chunk
    os.close(terminal)
    return said.decode()


@contextlib.contextmanager
def terminal(monkeypatch, columns=120):
    """Make stderr a terminal; give a list that holds what was written to it after the block."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    said = []
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        yield said
    said.append(read_all(ours))


def test_a_terminal_shows_what_and_how_far(monkeypatch):
    with terminal(monkeypatch) as said, progress.shown() as show:
        show("tracing [channels]", None)
        show("measuring", 0.25)
        show("measuring", 0.5)
    assert "tracing [channels]" in said[0] and "measuring" in said[0] and "50 %" in said[0]
    assert said[0].rstrip().endswith("\x1b[2K"), "the line goes away at the end"


@pytest.fixture
def paced(monkeypatch):
    """Give a clock that stands until it is moved on, which draws the line anew: no busy machine delays that."""
    lines, now = [], [0.0]

    class Paced(rich.progress.Progress):
        def __init__(self, *columns, **settings):
            super().__init__(*columns, **settings, auto_refresh=False, get_time=lambda: now[0])
            lines.append(self)

    def move(seconds):
        now[0] += seconds
        lines[0].refresh()

    monkeypatch.setattr(rich.progress, "Progress", Paced)
    return move


def test_while_training_the_bar_and_the_clock_move_and_the_figures_are_shown(monkeypatch, paced):
    with terminal(monkeypatch) as said, progress.shown() as show:
        for step in range(1, 23):
            show("training", step / 120)
            show.watch(replace(MOMENT, step=step, epoch=step // 15, loss=1 / step, quality=step / 120))
            paced(0.125)
    clocks = [int(second) for second in re.findall(r"\x1b\[33m0:00:0(\d)", said[0])]
    assert clocks == sorted(clocks) and set(clocks) >= {0, 1, 2}
    shares = [int(share) for share in re.findall(r"(\d+) % \x1b", said[0])]
    assert shares == sorted(shares) and len(set(shares)) > 8
    assert len({len(bar) for bar in re.findall(r"━+", said[0])}) > 2, "the bar grows"
    assert "training 1/8, loss 0.1" in said[0] and "training 2/8, loss 0.05" in said[0]
    assert "accuracy 17.5 %" in said[0] and re.search(r"0:00:\d\d left", said[0])


def test_the_clock_moves_where_nothing_is_said(monkeypatch):
    with terminal(monkeypatch) as said, progress.shown() as show:
        show("tracing", None)
        time.sleep(2.2)
    assert len(set(re.findall(r"\x1b\[33m0:00:0(\d)", said[0]))) > 1


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_line_stays_one_line_with_its_clock_however_narrow_the_terminal(columns, monkeypatch, paced):
    with terminal(monkeypatch, columns) as said, progress.shown() as show:
        show("retraining", 0.5)
        show.watch(MOMENT)
        paced(0.3)
    shown = said[0].partition("\r\n")[0]
    last = re.sub(r"\x1b\[[\d;?]*\w", "", shown.rpartition("\r")[2])
    assert "\x1b[1A" not in shown and len(last) <= columns, "one line"
    assert re.fullmatch(r"━+╺━+ 50 % 0:00:00 .*", last)
    if columns == 80:
        assert last.rstrip().endswith("training 3/8, loss 0.512, accuracy 91.2 %")


def test_elsewhere_there_is_a_line_an_epoch(capfd):
    with progress.shown() as show:
        show("tracing", 0.5)
        show.watch(MOMENT)
        show.watch(replace(MOMENT, whole=True))
        show.watch(replace(MOMENT, whole=True, quality=None, step=120, epoch=8, seconds=75.0))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "slimkit: training, epoch 2 of 8, loss 0.512, accuracy 91.2 % (25 %), 4.0 s, about 12.0 s left",
        "slimkit: training, epoch 8 of 8, loss 0.512 (100 %), 1 min 15 s",
    ]


def test_long_work_without_epochs_is_heard_of_every_half_minute(capfd, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress.shown() as show:
        for _ in range(100):
            now += 1.0
            show("measuring", now / 100)
    assert capfd.readouterr().err.splitlines() == [f"slimkit: measuring, {share} %" for share in (30, 60, 90)]


def test_a_full_disk_under_the_log_of_a_run_does_not_end_it(monkeypatch):
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stderr", full)
    with progress.shown() as show:
        show.watch(replace(MOMENT, whole=True))
    monkeypatch.undo()
    with pytest.raises(OSError):
        full.close()


@pytest.mark.parametrize(
    ("epochs", "long", "short"), [(0.25, "epoch 1, 0.25 in all", "1/1"), (2.0, "epoch 1 of 2", "1/2")]
)
def test_parts_of_an_epoch_are_told(epochs, long, short):
    moment = replace(MOMENT, epoch=0, epochs=epochs)
    assert progress.described(moment).startswith(f"{long}, loss")
    assert progress.described(moment, short=True).startswith(f"{short}, loss")


def test_ranks_other_than_the_first_are_silent(monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.shown(wanted=False) as show:
        show("training", 0.5)
        show.watch(replace(MOMENT, whole=True))
    assert capfd.readouterr() == ("", "")
