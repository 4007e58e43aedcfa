"""Rows of a benchmark: a line of JSON each, written as it comes, so that a tool goes on where it was stopped.

Each says on which commit it was made.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Return the rows of a file, none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, row: Row) -> None:
    """Add a row to a file, and the commit that is checked out."""
    with path.open("a") as file:
        file.write(json.dumps(row | {"commit": commit()}) + "\n")


def commit() -> str:
    """Return the short hash of the commit that is checked out, with a plus where slimkit/ or tools/ differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "../slimkit", "../model_zoo", ".")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def by_name(names: Sequence[str], path: Path, measure: Callable[[str], Row]) -> list[Row]:
    """Return a row a name, and measure those that the file lacks."""
    done = {row["name"]: row for row in read(path)}
    for name in names:
        if name not in done:
            done[name] = measure(name)
            append(path, done[name])
    return [done[name] for name in names]


def printed_by(script: str, *arguments: str, **settings: Any) -> tuple[Row | None, str]:
    """Run a tool in a process of its own; return the row that it printed last, and its last line of stderr."""
    found = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, **settings)
    last = (found.stderr.strip().splitlines() or ["?"])[-1]
    try:
        return json.loads(found.stdout.strip().splitlines()[-1]), last
    except (ValueError, IndexError):
        return None, last


def guarded(measure: Callable[[str], Row], name: str, seconds: float) -> Row:
    """Return what is measured in a copy of this process, or how that failed: it raised, took too long, was killed."""
    here, there = get_context("fork").Pipe(duplex=False)
    child = get_context("fork").Process(target=_sent, args=(there, measure, name))
    child.start()
    there.close()
    try:
        row: Row = here.recv() if here.poll(seconds) else {"failed": f"took more than {seconds} s"}
    except EOFError:
        child.join()
        row = {"failed": f"the process ended with {child.exitcode}"}
    child.kill()
    child.join()
    return row


def _sent(there: Connection, measure: Callable[[str], Row], name: str) -> None:
    try:
        row = measure(name)
    except Exception as error:
        row = {"failed": (str(error).splitlines() or [type(error).__name__])[0][:200]}
    there.send(row)
