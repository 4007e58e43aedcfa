"""Do a data set and a network go together?"""

from functools import partial
from typing import Any

import torch
from torch import nn

from slimkit import out_of_memory, tasks
from slimkit.data.dataset import Dataset, Split
from slimkit.data.finite import check_finite, wrong_row
from slimkit.data.inputs import Inputs
from slimkit.data.own import check_masks
from slimkit.data.tensor_split import TensorSplit
from slimkit.dtypes import advice
from slimkit.errors import DataError
from slimkit.example import Example, call, describe, first, on, tensors
from slimkit.hardware import device_of
from slimkit.modules import copied, raised_in
from slimkit.quantity import number_of

_AT_ONCE = 256  # targets
_OUTPUTS = "the network's outputs are not finite"


def check_fits(dataset: Dataset, model: nn.Module) -> int | None:
    """Run a copy of the network on two inputs of the validation split, and ask the task what it thinks of the outputs.

    Targets that are in memory are all looked at, of every split; others as they are read.

    Returns:
        Number of classes that the judged output tells apart; where the task knows no classes, what the data says.

    Raises:
        DataError: other channels, an input that the network cannot take, outputs or targets of another task, another
            number of classes.
    """
    for name in ("train", "validation", "test"):
        ruined = partial(_ruined, dataset, name, model)
        check_finite(getattr(dataset, name), f"data {dataset.name!r}: {name}", ruined)
    inputs, targets = next(iter(dataset.validation.batches(2)))
    check_masks(dataset.task, inputs, targets, f"data {dataset.name!r}")
    returned = _outputs(f"data {dataset.name!r}", inputs, dataset.task.called(inputs, targets), model)
    outputs = dataset.task.outputs(returned)[0]
    where = first(outputs)
    targets = on(where.device, targets) if where is not None else targets
    why = dataset.task.misfit(outputs, targets, dataset.stated_classes)
    if why is not None:
        fitting = tasks.fitting(outputs, targets, dataset.stated_classes)
        others = [name for name in fitting if name != dataset.task.name]
        advice = f"Give `task={others[0]!r}`" if others else "Give the data and the task the network was made for"
        raise DataError(f"data {dataset.name!r}, task {dataset.task.name}: {why}.\n  {advice}")
    for name in ("train", "validation", "test"):
        _check_in_memory(getattr(dataset, name), dataset, name, outputs)
    _check_largest(dataset, outputs)
    if dataset.task.outside is None:
        return dataset.classes
    return max(2, outputs.shape[1]) if outputs.dim() == 4 else int(outputs.shape[1])  # one map tells two


@torch.no_grad()
def _ruined(dataset: Dataset, part: str, model: nn.Module, inputs: Example, targets: Any) -> str | None:
    """Return what is not finite of two inputs of a split: the network's outputs, its loss or its metric."""
    task = dataset.task
    returned = called(copied(model).eval(), task.called(inputs, targets), inputs, f"data {dataset.name!r}")
    outputs = task.outputs(returned)[0]
    if wrong := wrong_row(outputs):
        return _OUTPUTS if wrong[0] else None  # of a whole input they are not either: it is no fault of this one
    targets = on(device_of(model), targets)
    if task.misfit(outputs, targets, None):
        return None  # as is said later
    try:
        if part == "train":
            return None if bool(torch.as_tensor(task.loss(outputs, targets)).isfinite().all()) else "the loss is not"
        task.metrics[task.metric].rows(task.metric, outputs, targets, 2)
    except DataError as error:
        return f"metric {task.metric!r} is not finite" if "finite" in str(error) else None
    except Exception as error:  # of so few, or in evaluation mode
        out_of_memory.pass_on(error)
    return None


def _check_largest(dataset: Dataset, outputs: Any) -> None:
    """Ask whether the network has a place for the largest label, of data that only labels tell the classes of.

    Raises:
        DataError: it has none.
    """
    task = dataset.task
    if not dataset.inferred or not dataset.classes or task.outside is None:
        return
    if task.outside(outputs, torch.tensor([dataset.classes - 1])):
        raise DataError(
            f"data {dataset.name!r}: its labels reach to {dataset.classes - 1}, "
            f"and the network has no more than {number_of(outputs.shape[1], 'class')}.\n"
            "  Number classes as the network has them"
        )


def _check_in_memory(split: Split, dataset: Dataset, name: str, outputs: Any) -> None:
    """Ask of all targets of a split, where they are in memory, whether they go with images and outputs.

    Raises:
        DataError: one does not; which.
    """
    task, given = dataset.task, f"data {dataset.name!r}: {name}"
    if not isinstance(split, TensorSplit) or task.outside is None:
        return
    labels, few = split.labels, min(len(split), len(outputs))
    check_masks(task, split.images, labels, given)
    if why := task.misfit(outputs[:few], labels[:few], None):
        raise DataError(f"{given}: {why}.\n  Give targets of the kind that validation has")
    for start in range(0, len(labels), _AT_ONCE):
        if task.outside(outputs, labels[start : start + _AT_ONCE]):
            wrong = ((place, task.outside(outputs, labels[place : place + 1])) for place in range(start, len(labels)))
            place, why = next(found for found in wrong if found[1])
            raise DataError(
                f"{given}: target {place}: {why}.\n  Number classes as the network has them, or leave this one out"
            )


def check_runs(inputs: Inputs, model: nn.Module) -> None:
    """Run a copy of the network on two inputs without targets.

    Raises:
        DataError: it does not run on them.
    """

    def ruined(rows: Example, _: Any) -> str | None:
        with torch.no_grad():
            wrong = wrong_row(called(copied(model).eval(), rows, rows, inputs.name))
        return _OUTPUTS if wrong and wrong[0] else None

    check_finite(inputs.split, inputs.name, ruined)
    batch = next(iter(inputs.batches(2)))
    try:
        _outputs(inputs.name, batch, batch, model)
    except DataError as error:
        if inputs.alone:
            raise
        raise DataError(
            f"{str(error).splitlines()[0]}\n  Of a batch only the first entry is taken as inputs, the others as "
            "targets: give several inputs as the first, [((a, b),), ...], or what the network was made for"
        ) from error


def _outputs(name: str, inputs: Example, asked: Example, model: nn.Module) -> Any:
    with torch.no_grad():
        return called(copied(model).eval(), asked, inputs, name)


def called(model: nn.Module, asked: Example, inputs: Example, name: str = "data") -> Any:
    """Call a network, wherever it is, on inputs from anywhere.

    Args:
        asked: what it is called with.
        inputs: those of them that the data gives, for the message.
        name: of the data.

    Raises:
        DataError: it does not run on them.
    """
    try:
        return call(model, on(device_of(model), asked))
    except (RuntimeError, TypeError) as error:
        out_of_memory.pass_on(error)
        kinds = " and ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors(inputs)}))
        where = f"in {path!r}, " if (path := raised_in(model, error)) else ""
        raise DataError(
            f"{name}: the network does not run on its inputs of shape {describe(inputs)}, {kinds}: "
            f"{where}{(str(error).splitlines() or ['no message'])[0]}.\n"
            f"  {advice(error, 'Give the data the network was made for')}"
        ) from error
