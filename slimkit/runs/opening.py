"""The data of a run: opened as its settings and its network ask, and held against the network."""

from dataclasses import replace
from typing import Any

from torch import nn

from slimkit import data, provenance, tasks
from slimkit.errors import SpecError
from slimkit.models import Network
from slimkit.progress import Progress
from slimkit.runs import detection
from slimkit.settings import CompressSpec, EvaluateSpec
from slimkit.settings.data import READING, DataSpec
from slimkit.tasks import CLASSIFICATION
from slimkit.tasks.catalogue import TASKS


def open_data(
    spec: CompressSpec, network: Network, progress: Progress, unlabelled: bool = False
) -> data.Dataset | None:
    """Open the data set of a run, normalised as the network was trained, and check that the two fit.

    `unlabelled`: inputs are given beside the settings. Of such alone the task says what the outputs are.
    """
    known = provenance.of(network.model)
    if spec.data is None:
        if spec.calibration is None and not unlabelled:  # the input shape serves without
            names = {"task", *READING} - {"input_shape"}
            spec.refuse_idle(names, "there is no data for it", "Add `data`, or leave `{name}` out")
        elif spec.task is not None:
            asked = tasks.open(spec.task)
            detection.check_task(asked, network.model)
            provenance.attach(network.model, replace(known, use=replace(known.use, task=asked.name)))
        return None
    detection.check_task(task(spec, known), network.model)
    dataset = detection.fitted(data_of(spec, spec.data, known, progress), network.model)
    data.check_fits(dataset, network.model)
    note(network.model, dataset)
    return dataset


def data_of(
    spec: CompressSpec | EvaluateSpec, name: str, known: provenance.Provenance, progress: Progress
) -> data.Dataset:
    """Open a data set as a network takes it of which so much is known."""
    asked, read = task(spec, known), reading(spec)
    dataset = data.open(name, spec.data_root, spec.seed, task=asked, reading=read, own=known, progress=progress)
    dataset = data.in_order_of(dataset, known.use.class_names)
    if known.input_shape and dataset.input_shape != known.input_shape:
        here, there = ("x".join(map(str, shape)) for shape in (dataset.input_shape, known.input_shape))
        dataset = replace(dataset, notes=(*dataset.notes, f"images are {here}, as the data has them, not {there}"))
    scale = known.normalisation
    if scale is not None and not spec.mean and len(scale["mean"]) == dataset.input_shape[0]:
        return dataset.normalised(scale)
    return dataset


def note(model: nn.Module, dataset: data.Dataset) -> None:
    """Attach to a network what a data set says of its use: shape, mean and std, task, names of classes, crop.

    Its labels are the network's class numbers by now: see `data.in_order_of`.
    """
    known = provenance.of(model)
    use = provenance.Use(
        task=dataset.task.name,
        class_names=dataset.class_names or known.use.class_names,
        resize=dataset.resize,
        crop=dataset.crop,
    )
    scale = dataset.normalisation or known.normalisation
    provenance.attach(model, replace(known, input_shape=dataset.input_shape, normalisation=scale, use=use))


def given_data(
    given: Any, spec: CompressSpec, network: Network, progress: Progress, unlabelled: bool = False
) -> data.Dataset | None:
    """Return the data of a call: what was given to it, of whatever kind, or what its settings name.

    `unlabelled`: the call is given inputs as well.

    Raises:
        SpecError: both are there.
        DataError: what was given is no data set, or does not fit the network.
    """
    if given is None:
        return open_data(spec, network, progress, unlabelled)
    if spec.data is not None:
        raise SpecError(f"data is {spec.data!r}, and dataset is given too.\n  Give one of them")
    if isinstance(given, str):
        return open_data(replace(spec, data=given), network, progress)
    known = provenance.of(network.model)
    asked = task(spec, known)
    detection.check_task(asked, network.model)
    opened = data.as_dataset(given, task=asked, seed=spec.seed, progress=progress)
    opened = data.in_order_of(opened, known.use.class_names)
    dataset = detection.fitted(opened, network.model)
    data.check_fits(dataset, network.model)
    note(network.model, dataset)
    return dataset


def given_inputs(given: Any, spec: CompressSpec, network: Network, progress: Progress) -> data.Inputs | None:
    """Return the unlabelled inputs of a call: what was given to it, or what its settings name.

    Raises:
        SpecError: both are there.
        DataError: what was given holds no inputs, or none that the network takes.
    """
    if given is not None and spec.calibration is not None:
        raise SpecError(f"calibration is {spec.calibration!r} in the settings, and given too.\n  Give one of them")
    name = given if isinstance(given, str) else spec.calibration
    if given is None and name is None:
        return None
    known = provenance.of(network.model)
    inputs = (
        data.as_inputs(given, progress)
        if name is None
        else data.open_inputs(name, root=spec.data_root, reading=reading(spec), own=known, progress=progress)
    )
    data.check_runs(inputs, network.model)
    return data.different(inputs)


def task(spec: DataSpec, known: provenance.Provenance = provenance.UNKNOWN) -> tasks.Task | None:
    """Return the task that the settings name, else the network's file; None where it is left to the data."""
    if spec.task is None:
        return None if known.use.task == CLASSIFICATION.name else TASKS.get(known.use.task or "")
    return tasks.open(spec.task)


def reading(spec: DataSpec) -> data.Reading:
    """Return how the settings want the pictures of a folder to be read."""
    if isinstance(spec.shapes, dict):
        raise SpecError(
            f"input_shape is {spec.input_shape}: with data, that is where the inputs come from.\n"
            "  Leave out `input_shape`, or `data`"
        )
    return data.Reading(
        input_shape=spec.shapes,
        resize=spec.resize,
        crop=spec.crop,
        mean=spec.mean or None,
        std=spec.std or None,
        allow_bad=spec.allow_bad,
    )
