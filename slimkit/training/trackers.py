"""Trainings in TensorBoard and in Weights & Biases: each a context that gives a watcher.

with trackers.tensorboard("runs/first") as watcher:
    slimkit.train(model, "digits", watchers=[watcher])
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from slimkit.errors import SpecError
from slimkit.progress import Moment, Watcher

TRACKERS = ("tensorboard", "wandb")


@contextmanager
def tensorboard(folder: Path | str) -> Iterator[Watcher]:
    """Write event files for TensorBoard into a folder: the loss of each step, and what each epoch gave.

    Raises:
        SpecError: TensorBoard is not installed.
    """
    _require("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def write(moment: Moment) -> None:
            for name, value in figures(moment).items():
                writer.add_scalar(name, value, moment.step)
            if moment.whole:
                writer.flush()

        yield write


@contextmanager
def wandb(
    project: str = "slimkit", name: str | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[Watcher]:
    """Log to a run of Weights & Biases; its own variables, such as WANDB_MODE=offline, say where that goes.

    Args:
        project, name: of the run.
        settings: of the training, shown beside it.

    Raises:
        SpecError: wandb is not installed.
    """
    library = _require("wandb", "wandb")
    quiet = library.Settings(console="off")  # it would take stderr, on which progress is shown
    run = library.init(project=project, name=name, config=dict(settings or {}), settings=quiet)
    failed = True
    try:
        yield lambda moment: run.log({**figures(moment), f"{moment.doing}/step": moment.step})
        failed = False
    finally:
        run.finish(exit_code=int(failed))


def figures(moment: Moment) -> dict[str, float]:
    """Return what a tracker draws: of a step loss and learning rate, of an epoch its mean loss and quality."""
    doing = moment.doing
    if not moment.whole:
        return {f"{doing}/loss": moment.loss, f"{doing}/learning rate": moment.learning_rate}
    found = {f"{doing}/mean loss of the epoch": moment.loss}
    return found if moment.quality is None else found | {f"{doing}/{moment.metric}": moment.quality}


@contextmanager
def opened(names: Sequence[str], target: Path, settings: Mapping[str, Any]) -> Iterator[list[Watcher]]:
    """Open trackers by name, for a run whose output is `target`: TensorBoard's files come to lie beside it.

    Raises:
        SpecError: one is unknown, or not installed.
    """
    with ExitStack() as stack:
        watchers = []
        for name in dict.fromkeys(names):
            if name == "tensorboard":
                watchers.append(stack.enter_context(tensorboard(target.with_name(f"{target.name}.tensorboard"))))
            elif name == "wandb":
                watchers.append(stack.enter_context(wandb(name=target.name, settings=settings)))
            else:
                raise SpecError(f"track is {name!r}: it must be one of {', '.join(TRACKERS)}.")
        yield watchers


def _require(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise SpecError(
            f"track is {extra!r}: it is not installed ({error}).\n  pip install 'slimkit[{extra}]'"
        ) from None
