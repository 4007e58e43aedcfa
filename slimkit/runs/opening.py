"""The data of a run: opened as its settings and its network ask, and held against the network."""

from dataclasses import replace
from typing import Any

from torch import nn

from slimkit import data, provenance, tasks
from slimkit.errors import SpecError
from slimkit.models import Network
from slimkit.models.detectors import Heads
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
    detection.check_task(task(spec), network.model)
    dataset = detection.fitted(data_of(spec, spec.data, known, progress), network.model)
    check(network.model, dataset)
    note(network.model, dataset)
    return dataset


def data_of(
    spec: CompressSpec | EvaluateSpec, name: str, known: provenance.Provenance, progress: Progress
) -> data.Dataset:
    """Open a data set as a network takes it of which so much is known."""
    dataset = data.open(
        name, spec.data_root, spec.seed, task=task(spec), usual=task_of(known), reading=reading(spec), own=known,
        progress=progress,
    )  # fmt: skip
    dataset = data.in_order_of(dataset, known.use.class_names)
    if known.input_shape and dataset.input_shape != known.input_shape:
        here, there = ("x".join(map(str, shape)) for shape in (dataset.input_shape, known.input_shape))
        dataset = replace(dataset, notes=(*dataset.notes, f"images are {here}, as the data has them, not {there}"))
    by_name = ":" not in name or name.startswith("folder:")  # else a function of somebody's own makes it
    return dataset if spec.mean else as_trained(dataset, known, by_name)


def as_trained(dataset: data.Dataset, known: provenance.Provenance, by_name: bool) -> data.Dataset:
    """Return data normalised as in a network's training, as far as that is known: own statistics are another's.

    What is but guessed of the network serves data that is opened by its name, and not what somebody else has made.
    """
    scale = known.normalisation if by_name or "normalisation" not in known.guessed else None
    return dataset.normalised(scale) if scale and len(scale["mean"]) == dataset.input_shape[0] else dataset


def check(model: nn.Module, dataset: data.Dataset) -> None:
    """Check that a network and data go together, and note how many classes there are: layers alone leave it to guess.

    Raises:
        DataError: they do not.
    """
    classes = data.check_fits(dataset, model)
    if not isinstance(model, Heads):  # which says itself what it finds
        provenance.attach(model, replace(provenance.of(model), classes=classes))


def note(model: nn.Module, dataset: data.Dataset) -> None:
    """Attach to a network what a data set says of its use: shape, mean and std, task, names of classes, crop.

    Its labels are the network's class numbers by now: see `data.in_order_of`. Tensors say nothing of how picture files
    are read: that stays as it is known.
    """
    known = _without_guess(provenance.of(model))  # the data tells; where it is as the network takes it, nothing does
    known = provenance.of_shape(known, dataset.input_shape)
    read = known.use if dataset.resize is dataset.crop is None else dataset
    use = provenance.Use(
        task=dataset.task.name,
        class_names=dataset.class_names or known.use.class_names,
        resize=read.resize,
        crop=read.crop,
    )
    scale = dataset.normalisation or known.normalisation
    provenance.attach(model, replace(known, normalisation=scale, use=use))


def _without_guess(known: provenance.Provenance) -> provenance.Provenance:
    scale = None if "normalisation" in known.guessed else known.normalisation
    use = replace(known.use, crop=None) if "crop" in known.guessed else known.use
    return replace(known, normalisation=scale, use=use, guessed=())


def given_data(
    given: Any, spec: CompressSpec, network: Network, progress: Progress, unlabelled: bool = False
) -> data.Dataset | None:
    """Return the data of a call: what was given to it, as objects, or what its settings name.

    `unlabelled`: the call is given inputs as well.

    Raises:
        SpecError: both are there.
        DataError: what was given is no data set, or does not fit the network.
    """
    if given is None:
        return open_data(spec, network, progress, unlabelled)
    if spec.data is not None:
        raise SpecError(f"data is {spec.data!r}, and dataset is given too.\n  Give one of them")
    known = provenance.of(network.model)
    asked = task(spec)
    detection.check_task(asked, network.model)
    opened = data.as_dataset(given, task=asked, usual=task_of(known), seed=spec.seed, progress=progress)
    opened = as_trained(data.in_order_of(opened, known.use.class_names), known, by_name=isinstance(given, str))
    dataset = detection.fitted(opened, network.model)
    check(network.model, dataset)
    note(network.model, dataset)
    return dataset


def given_inputs(given: Any, spec: CompressSpec, network: Network, progress: Progress) -> data.Inputs | None:
    """Return the unlabelled inputs of a call: what was given to it, as objects, or what its settings name.

    Raises:
        SpecError: both are there.
        DataError: what was given holds no inputs, or none that the network takes.
    """
    if given is not None and spec.calibration is not None:
        raise SpecError(f"calibration is {spec.calibration!r} in the settings, and given too.\n  Give one of them")
    if given is None and spec.calibration is None:
        return None
    known = provenance.of(network.model)
    if spec.calibration is not None:
        named, read = spec.calibration, reading(spec)
        inputs = data.open_inputs(named, spec.data_root, spec.seed, reading=read, own=known, progress=progress)
    else:
        own = as_trained(given, known, by_name=False) if isinstance(given, data.Dataset) else given
        inputs = data.as_inputs(own, progress)
        known = _without_guess(known)
        provenance.attach(network.model, known)
        if known.normalisation:
            inputs = data.as_images(inputs, **known.normalisation)
    data.check_runs(inputs, network.model)
    return data.different(inputs)


def named(spec: CompressSpec, sources: dict[str, Any]) -> tuple[CompressSpec, list[Any]]:
    """Return settings that name what was given by name, so that the report does; and the rest: None for a name.

    Args:
        spec: the settings; what they name already is left as it is.
        sources: by the names of the settings, `data` and `calibration`.
    """
    names: dict[str, Any] = {
        key: one for key, one in sources.items() if isinstance(one, str) and getattr(spec, key) is None
    }
    return replace(spec, **names), [None if key in names else one for key, one in sources.items()]


def task(spec: DataSpec) -> tasks.Task | None:
    """Return the task that the settings name; None where it is left to the data, or to the network."""
    return None if spec.task is None else tasks.open(spec.task)


def task_of(known: provenance.Provenance) -> tasks.Task | None:
    """Return the task of a network, for data that brings none; None where the data tells: classes are the usual."""
    return None if known.use.task == CLASSIFICATION.name else TASKS.get(known.use.task or "")


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
