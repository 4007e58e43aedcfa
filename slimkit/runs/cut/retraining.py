"""How a network is retrained in a run of `compress`: its recipe, and the task that it is judged by."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from slimkit import provenance, recovery, training
from slimkit.example import first, of_batch
from slimkit.measure.macs import count_macs
from slimkit.models.detectors import Heads
from slimkit.results import ledger
from slimkit.runs import detection
from slimkit.runs.given import Given
from slimkit.runs.opening import task, task_of
from slimkit.tasks import CLASSIFICATION, Task, heads
from slimkit.training.others import imitated


def recipe(given: Given, images: int = 0) -> training.Recipe:
    """Return the settings of a retraining; without labels all that can be learnt is what the original says.

    Args:
        given: what the run starts from.
        images: to train on, by which batches are as large; 0: they do not matter.
    """
    spec, dataset = given.spec, given.dataset
    optimizer = spec.optimizer
    own = dataset is not None and dataset.task.smoothed is None and not isinstance(given.dense, Heads)
    if optimizer == "auto":
        # How far a step of SGD goes hangs on the scale of the loss, which of an own one nobody knows.
        optimizer = "adamw" if own else "sgd"
    found = recovery.recipe(spec.epochs, spec.seed, optimizer)
    if own and images:
        found = replace(found, batch_size=_batch(images))
    found = replace(found, precision=spec.precision, device=spec.device)
    if not spec.distill:
        found = replace(found, distillation=0.0)
    if dataset is None or dataset.task.smoothed is None:
        found = replace(found, label_smoothing=0.0)
    if isinstance(given.dense, Heads):
        found = detection.paced(found)
    found = replace(found, **spec.pace)
    return found if dataset else replace(found, distillation=1.0)


def _batch(images: int) -> int:
    """Return a power of two, from 16 to 128, that makes some 32 steps of an epoch.

    With 128 of 600 images, 4 steps an epoch, super-resolution at 0.2 of its multiply-adds gained 0.24 dB in 6 epochs,
    with 16 0.53; a generator of 1,200, 2.2 and 2.5 (one seed each, by adamw). Classifiers of digits: no difference.
    """
    return min(128, max(16, 1 << round(math.log2(max(32, images) / 32))))


def judged_by(given: Given) -> Task:
    """Return the task of the data, else the one that the settings or the network's file name.

    Where nothing does, the original alone is learnt from: as scores of classes, or as values, as its outputs look.
    """
    if given.dataset is not None:
        return given.dataset.task
    if (named := task(given.spec) or task_of(provenance.of(given.dense))) is not None:
        return named
    looks = _VALUES if given.task is None and given.returns_values else CLASSIFICATION
    return replace(looks, outputs=_of_any_nest)


def _of_any_nest(returned: Any) -> tuple[Any, ...]:
    """Find the main output as `tasks.heads` does, or the first tensor in it, as of scores and boxes a level."""
    main, *auxiliary = heads(returned)
    return (main, *auxiliary) if isinstance(main, Tensor) else (first(main),)


def _of_values(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    return imitated(wanted, outputs)


_VALUES = replace(CLASSIFICATION, name="values", imitation=_of_values, smoothed=None)


def taught(given: Given) -> bool:
    """Tell whether the original is the teacher of a retraining of ours."""
    return bool(recipe(given).distillation) and judged_by(given).imitation is not None


def macs(given: Given, model: nn.Module, images: int, taught: bool) -> int:
    """Return the multiply-adds of retraining a network; three forward passes an image, and one of its teacher.

    Args:
        given: what the run starts from.
        model: the slim network.
        images: that it is trained on.
        taught: the original is its teacher.
    """
    if not images:
        return 0
    own, whole = (count_macs(network, of_batch(given.example, 1)) for network in (model, given.dense))
    return images * (ledger.FORWARDS_PER_IMAGE * own + whole * taught)


def objective(given: Given) -> training.Objective:
    """Return what a retraining minimises."""
    return training.Objective(judged_by(given), recipe(given))
