"""How a network is retrained in a run of `compress`: its recipe, and the task that it is judged by."""

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
from slimkit.runs.opening import task
from slimkit.tasks import CLASSIFICATION, Task, heads
from slimkit.training.others import imitated


def recipe(given: Given) -> training.Recipe:
    """Return the settings of a retraining; without labels all that can be learnt is what the original says."""
    spec, dataset = given.spec, given.dataset
    found = recovery.recipe(spec.epochs, spec.seed, "sgd" if spec.optimizer == "auto" else spec.optimizer)
    found = replace(found, precision=spec.precision, device=spec.device)
    if not spec.distill:
        found = replace(found, distillation=0.0)
    if dataset is None or dataset.task.smoothed is None:
        found = replace(found, label_smoothing=0.0)
    if isinstance(given.dense, Heads):
        found = detection.paced(found)
    found = replace(found, **spec.pace)
    return found if dataset else replace(found, distillation=1.0)


def judged_by(given: Given) -> Task:
    """Return the task of the data, else the one that the settings or the network's file name.

    Where nothing does, the original alone is learnt from: as scores of classes, or as values, as its outputs look.
    """
    if given.dataset is not None:
        return given.dataset.task
    if (named := task(given.spec, provenance.of(given.dense))) is not None:
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
