"""Progress: on a terminal what is done and how far it is, elsewhere nothing."""

import contextlib
import os
import pty
import sys

from slimkit.report import progress


def read_all(terminal: int) -> str:
    """Read what was written to a terminal whose other end is closed."""
    said = b""
    with contextlib.suppress(OSError):  # how Linux says that nothing more will come
        while chunk := os.read(terminal, 4096):
            said += chunk
    os.close(terminal)
    return said.decode()


def test_a_terminal_shows_what_and_how_far(monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress.shown() as show:
            show("tracing [channels]", None)
            show("retraining", 0.25)
            show("retraining", 0.5)
    said = read_all(ours)
    assert "retraining" in said and "50 %" in said
    assert said.rstrip().endswith("\x1b[2K"), "the line goes away at the end"


def test_elsewhere_it_is_silent(capfd, monkeypatch):
    with progress.shown() as show:
        show("tracing", 0.5)
    assert capfd.readouterr() == ("", "")
    assert show is progress.silent


def test_ranks_other_than_the_first_are_silent(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.shown(wanted=False) as show:
        assert show is progress.silent
