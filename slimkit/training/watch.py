"""Telling how a training goes: to whoever watches, step by step, and to a log, epoch by epoch."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimkit.errors import OutputError
from slimkit.progress import Moment, Watcher
from slimkit.tasks import Task
from slimkit.training.losses import StepLoss
from slimkit.training.run import Hook, Run


def watch(doing: str, task: Task, watchers: Sequence[Watcher] = (), log: Path | None = None) -> Hook:
    """Return a hook that tells how a training goes. Give it before those that change the run.

    Args:
        doing: what is trained, in words.
        task: names the metric.
        watchers: called after each step, and once more after each epoch.
        log: file that gets a line of JSON an epoch. It is part of the state of the run: one that is resumed has
            the lines up to there, and goes on.

    Raises:
        OutputError: by the hook: the log cannot be written.
    """
    metric, unit = task.metric, task.metrics[task.metric].unit
    name = "accuracy" if task.classifies else "quality"
    began, earlier = time.perf_counter(), 0.0

    def seconds() -> float:
        return earlier + time.perf_counter() - began

    def now(run: Run, one: StepLoss, whole: bool = False) -> Moment:
        last = run.history[-1] if run.history else None
        return Moment(
            doing=doing,
            step=one.step + 1,
            steps=one.steps,
            epoch=-(-(one.step + 1) // run.steps_per_epoch) if whole else (one.step + 1) // run.steps_per_epoch,
            epochs=run.recipe.epochs,
            loss=one.loss,
            learning_rate=one.learning_rate,
            quality=last.validation_accuracy if last else None,
            metric=metric,
            unit=unit,
            seconds=seconds(),
            whole=whole,
        )

    def tell(run: Run) -> None:
        for one in run.losses.take():
            moment = now(run, one)
            for watcher in watchers:
                watcher(moment)

    def tell_epoch(run: Run) -> None:
        tell(run)
        last = run.history[-1].loss
        loss = run.loss if last is None else last
        moment = now(run, StepLoss(run.step - 1, run.budget, run.learning_rate, loss), whole=True)
        if log is not None:
            row = {"doing": doing, "epoch": moment.epoch, "step": moment.step, "loss": moment.loss}
            row |= {name: moment.quality, "learning_rate": moment.learning_rate, "seconds": round(moment.seconds, 3)}
            _write(log, "a", json.dumps(row) + "\n")
        for watcher in watchers:
            watcher(moment)

    def save() -> dict[str, Any]:
        return {"log": "" if log is None else _read(log), "seconds": seconds()}

    def restore(run: Run, saved: dict[str, Any]) -> None:
        nonlocal earlier
        earlier = float(saved["seconds"])
        if log is not None:
            _write(log, "w", saved["log"])

    return Hook(after_step=tell, after_epoch=tell_epoch, save=save, restore=restore)


def _read(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _unusable(log, error) from error


def _write(log: Path, mode: str, text: str) -> None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise _unusable(log, error) from error


def _unusable(log: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{log}: the log of the training cannot be written ({error.strerror or error}).\n"
        "  Make room or mend the folder, then go on with `resume=True`"
    )
