"""What a training run works on: data, a fresh network, and the job that a method takes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from slimkit import data, training
from slimkit.measure.engines import require
from slimkit.methods import Job, Selection
from slimkit.models import Network
from slimkit.progress import Progress, quiet
from slimkit.runs.detection import refuse_to_train
from slimkit.runs.folder.files import check_files, check_kept
from slimkit.runs.opening import check, reading, task
from slimkit.runs.plan import Plan
from slimkit.runs.start import (
    allowed_widths,
    conditions,
    context,
    measured_budget,
    proof_inputs,
    random_input,
    told_apart,
    trace_with,
)
from slimkit.selection.measured import agreed, remembered
from slimkit.settings import TrainSpec
from slimkit.settings.data import READING

_PRECISIONS = ("precision", "search_precision")  # of training, and of a method's search


def opened(spec: TrainSpec, given: Any = None, progress: Progress = quiet) -> data.Dataset:
    """Open the data set that the settings name, or take what was given in Python."""
    if given is None or isinstance(given, str):
        read = reading(spec)
        found = data.open(spec.data, spec.data_root, spec.seed, task=task(spec), reading=read, progress=progress)
    else:
        spec.refuse_idle(READING, "dataset is given as it is, not read")
        found = data.as_dataset(given, task=task(spec), seed=spec.seed, progress=progress)
    refuse_to_train(found)
    return found


def job_of(
    network: Network,
    fresh: Callable[[], nn.Module],
    dataset: data.Dataset,
    asked: Plan,
    store: training.Store | None = None,
    progress: Progress = quiet,
) -> Job:
    """Return what a method works on.

    Args:
        network: the network with fresh weights.
        fresh: builds it with other weights.
        dataset: what to train on.
        asked: settings and method.
        store: where the state of the run is kept.
        progress: called with what is being done, and the share done.
    """
    spec = replace(asked.spec, ranking=asked.ranking)
    require(spec.runtime)
    check(network.model, dataset)
    recipe = training.Recipe(
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        schedule=spec.schedule,
        seed=spec.seed,
        precision=spec.precision,
        device=spec.device,
    )
    objective, batch = training.Objective(dataset.task, recipe), next(iter(dataset.validation.batches(2)))
    precisions = {name: value for name, value in asked.settings().items() if name in _PRECISIONS}
    training.check_first_step(network.model, objective, batch, **precisions)
    example = random_input(dataset, spec.seed)
    check_files(spec, network.model, example)
    check_kept(spec, network.model, example)
    progress("tracing channels", None)
    graph = trace_with(spec, network.model, example)
    solver = measured_budget(spec, network.model, example, progress, asked.method.aim(asked.config))
    chosen = Selection(
        budget=spec.budget,
        widths=allowed_widths(spec),
        ranking=spec.ranking,
        scope=spec.scope,
        context=context(spec, dataset),
        inputs=told_apart(proof_inputs(network.model, example, dataset, spec.seed)),
        keep=spec.keep,
        without_bn=spec.without_bn,
        fold=spec.constants == "fold",
        measured=agreed(remembered(solver, store), spec.device),
    )
    return Job(network.model, graph, dataset, recipe, chosen, fresh, store, progress, conditions=conditions(spec))
