"""One training of a run, with its progress and state, and what all records of a search have."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from slimkit import training
from slimkit.measure.quality import quality
from slimkit.methods.job import Job
from slimkit.training import low_precision
from slimkit.training.state import LOG
from slimkit.training.watch import watch


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
        evaluate=lambda network: quality(network, job.dataset.validation, job.dataset.task),
        progress=lambda run: job.progress(doing, run.step / run.budget),
        store=store,
        task=job.dataset.task,
        first_step=first_step,
    )
    low_precision.restore_(trained.model)
    return trained


@dataclass(frozen=True)
class Search:
    """How a network was found, for the report.

    Attributes:
        method: its name.
        init: what the small network began from; None where it was trained from its beginning.
        history: of all trainings, one after the other.
        precision: of the search.
        penalty: what it was and brought; None where there was none.
        seen: what looks at the masks gave; empty where there were none.
    """

    method: str
    history: tuple[training.Epoch, ...]
    init: str | None = None
    precision: str = "fp32"
    penalty: dict[str, Any] | None = None
    seen: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON has them."""
        rows = [
            asdict(entry) | {"epoch": number, "accuracy": entry.validation_accuracy}
            for number, entry in enumerate(self.history, 1)
        ]
        return {
            "ratios": {},
            **(self.seen or {}),
            "method": self.method,
            "draw_policy": self.method,
            "init": self.init,
            "precision": self.precision,
            "history": rows,
            "penalty": self.penalty,
        }


def history(trained: Sequence[training.Trained]) -> tuple[training.Epoch, ...]:
    """Return the epochs of several trainings, one after the other."""
    return tuple(epoch for one in trained for epoch in one.history)
