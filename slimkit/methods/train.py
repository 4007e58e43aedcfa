"""One training of a run, with its progress and state."""

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from slimkit import training
from slimkit.measure.quality import quality
from slimkit.methods.job import Job
from slimkit.results import Epoch
from slimkit.training import low_precision
from slimkit.training.state import LOG
from slimkit.training.watch import watch

OVERSPENT = 1.05  # times what may be spent: a step more or less is no reason for a word


def train(
    job: Job,
    model: nn.Module,
    *,
    hooks: Sequence[training.Hook] = (),
    recipe: training.Recipe | None = None,
    doing: str = "training",
    part: str = "",
    first_step: int = 0,
) -> training.Trained:
    """Train a network by the recipe of the run, or by another.

    Args:
        job: data, recipe, store, and who is told how it goes.
        model: not changed.
        hooks: watch the training, and may change it.
        recipe: another than the run's.
        doing: what is being done, in words.
        part: names the state of this training, where the run has several.
        first_step: step to begin at.
    """
    store = replace(job.store, folder=job.store.folder / part) if job.store else None
    log = job.store.folder / LOG if job.store and job.speaks else None
    told = watch(doing, job.dataset.task, job.watchers, log)
    trained = training.train(
        model,
        job.dataset.train,
        recipe or job.recipe,
        hooks=[told, *hooks],
        evaluate=lambda network: quality(network, job.dataset.validation, job.dataset.task, device=job.device),
        progress=lambda run: job.progress(doing, run.step / run.budget),
        store=store,
        task=job.dataset.task,
        first_step=first_step,
    )
    low_precision.restore_(trained.model)
    return trained


def history(trained: Sequence[training.Trained]) -> tuple[Epoch, ...]:
    """Return the epochs of several trainings, one after the other and counted so."""
    epochs = (epoch for one in trained for epoch in one.history)
    return tuple(replace(epoch, epoch=number) for number, epoch in enumerate(epochs, 1))


def whole_epochs(epochs: float) -> int:
    """Return as many whole epochs as fit; a number that is whole but for the rounding of floats is."""
    return math.floor(epochs + 1e-9)
