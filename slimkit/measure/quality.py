"""How good a network is at its task: every metric of the task, over a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from slimkit.errors import DataError
from slimkit.example import Example, call, first, on
from slimkit.measure.engines import open_runner
from slimkit.modules import evaluating
from slimkit.tasks import CLASSIFICATION, Measurement, Task


class Split(Protocol):
    """What is read of a split."""

    def batches(self, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Give inputs and targets, every input once."""
        ...


def evaluate(
    network: nn.Module | str | Path, split: Split, task: Task = CLASSIFICATION, *, batch_size: int = 250
) -> dict[str, Measurement]:
    """Measure every metric of a task, of a network or of an ONNX file (in ONNX Runtime, one thread).

    Args:
        network: in evaluation mode for the time of the measurement; or the path of an ONNX file.
        split: inputs as the network expects them, normalised, with their targets.
        task: gives the metrics.
        batch_size: inputs at a time; no influence on the result.

    Raises:
        DataError: the split is empty, or outputs or targets are not of this task.
        CheckpointError: the ONNX file is missing or damaged.
    """
    if isinstance(network, nn.Module):
        device = next((t.device for t in chain(network.parameters(), network.buffers())), torch.device("cpu"))
        with evaluating(network), torch.inference_mode():
            return _measured(lambda inputs: call(network, on(device, inputs)), split, task, batch_size)
    runner = open_runner(network)

    def run(inputs: Example) -> Any:
        batch = first(inputs)
        assert batch is not None
        return [torch.from_numpy(array) for array in runner.run(batch.numpy())]

    return _measured(run, split, task, batch_size)


def quality(network: nn.Module | str | Path, split: Split, task: Task, *, batch_size: int = 250) -> float:
    """Return the first metric of a task, by which networks are chosen and compared; see `evaluate`."""
    return evaluate(network, split, task, batch_size=batch_size)[task.metric].value


def _measured(run: Callable[[Example], Any], split: Split, task: Task, batch_size: int) -> dict[str, Measurement]:
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in task.metrics}
    seen = 0
    for inputs, targets in split.batches(batch_size):
        outputs, *_ = task.outputs(run(inputs))
        where = first(outputs)
        targets = on(where.device, targets) if where is not None else targets
        if not seen and (why := task.misfit(outputs, targets, None)):
            raise DataError(f"{task.name}: {why}.\n  Give the task and the data that the network was made for")
        batch = first(inputs)
        images = len(batch) if batch is not None else 0
        for name, metric in task.metrics.items():
            rows[name].append(metric.rows(name, outputs, targets, images))
        seen += images
    if not seen:
        raise DataError(f"{task.name}: the split holds no images.\n  Give a data set with images in every split")
    return {name: metric.measured(torch.cat(rows[name])) for name, metric in task.metrics.items()}
