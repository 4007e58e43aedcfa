"""Data of the user's own, from `file.py:make` or `package.module:make`."""

import inspect
from collections.abc import Callable
from typing import Any

from slimkit import own_code
from slimkit.data.dataset import Dataset
from slimkit.data.own import dataset_of
from slimkit.errors import DataError
from slimkit.progress import Progress, quiet
from slimkit.tasks import Task


def from_factory(
    name: str,
    seed: int,
    task: Task | None = None,
    usual: Task | None = None,
    own_shape: tuple[int, ...] | None = None,
    progress: Progress = quiet,
) -> Dataset:
    """Call a function of the user's own and make a data set of what it returns, as `dataset_of` takes it.

    The function is called without arguments, or by name with those of `seed` and `input_shape` (the network's) that
    it has. `task` and `usual` are those of `dataset_of`.
    """
    given = f"data {name!r}"
    made = made_by(name, given, {"seed": seed, "input_shape": own_shape})
    return dataset_of(made, task=task, usual=usual, seed=seed, name=name, given=given, progress=progress)


def made_by(name: str, given: str, offered: dict[str, Any]) -> Any:
    """Import a function and call it with those of the arguments offered that it has a name for."""
    function: Callable[..., Any] = own_code.find(name, given, DataError)
    try:
        wanted = dict(inspect.signature(function).parameters)
    except ValueError:  # of some built-in callables
        wanted = {}
    with own_code.called(given, DataError):
        return function(**{key: value for key, value in offered.items() if key in wanted})
