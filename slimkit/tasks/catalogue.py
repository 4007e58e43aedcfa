"""Tasks by name, and of the user's own by `file.py:make`."""

from difflib import get_close_matches
from typing import Any

from slimkit import own_code
from slimkit.errors import SpecError
from slimkit.tasks.classification import CLASSIFICATION
from slimkit.tasks.detection import DETECTION
from slimkit.tasks.segmentation import SEGMENTATION
from slimkit.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION, SEGMENTATION, DETECTION)}


def open(name: str) -> Task:
    """Return a task.

    Args:
        name: one of `TASKS`, or `file.py:make` or `package.module:make`, a function without arguments that
            returns a `Task`.

    Raises:
        SpecError: there is none of that name, or the function returned something else.
    """
    if name in TASKS:
        return TASKS[name]
    if ":" in name:
        make = own_code.find(name, f"task {name!r}", SpecError)
        with own_code.called(f"task {name!r}", SpecError):
            made = make()
        if isinstance(made, Task):
            return made
        raise SpecError(
            f"task {name!r}: it returned {type(made).__name__}, not a task.\n"
            "  Return slimkit.tasks.Task.of(loss=..., metrics={...}, better=...)"
        )
    near = get_close_matches(name.lower(), TASKS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise SpecError(f"task is {name!r}: unknown{hint}\n  Give one of {', '.join(TASKS)}, or file.py:make")


def fitting(outputs: Any, targets: Any, classes: int | None) -> list[str]:
    """Return the names of the tasks that outputs and targets go with."""
    return [task.name for task in TASKS.values() if task.misfit(outputs, targets, classes) is None]
