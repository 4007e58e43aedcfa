"""Do a data set and a network go together?"""

import copy
from itertools import chain

import torch
from torch import nn

from slimkit import provenance, tasks
from slimkit.data.dataset import Dataset
from slimkit.errors import DataError
from slimkit.example import call, describe, on


def check_fits(dataset: Dataset, model: nn.Module) -> None:
    """Run a copy of the network on two inputs of the validation split and ask the task what it thinks of the outputs.

    Raises:
        DataError: other channels, an input that the network cannot take, outputs or targets of another task, another
            number of classes.
    """
    shape = dataset.input_shape
    known = provenance.of(model).input_shape
    if known is not None and known[0] != shape[0]:
        raise DataError(
            f"data {dataset.name!r}: its images have {shape[0]} channels, the network takes {known[0]}.\n"
            "  Give the data the network was trained for"
        )
    inputs, targets = next(iter(dataset.validation.batches(2)))
    copied = copy.deepcopy(model).eval()
    device = next((t.device for t in chain(copied.parameters(), copied.buffers())), torch.device("cpu"))
    try:
        with torch.no_grad():
            returned = call(copied, on(device, inputs))
    except RuntimeError as error:
        raise DataError(
            f"data {dataset.name!r}: the network does not run on its inputs of shape {describe(inputs)}: "
            f"{str(error).splitlines()[0]}.\n  Give the data the network was trained for"
        ) from error
    outputs = dataset.task.outputs(returned)[0]
    targets = on(device, targets)
    why = dataset.task.misfit(outputs, targets, dataset.classes)
    if why is not None:
        others = [name for name in tasks.fitting(outputs, targets, dataset.classes) if name != dataset.task.name]
        advice = f"Give `task={others[0]!r}`" if others else "Give the data and the task the network was trained for"
        raise DataError(f"data {dataset.name!r}, task {dataset.task.name}: {why}.\n  {advice}")
