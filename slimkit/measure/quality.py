"""How good a network is at its task: every metric of the task, over a whole split."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from slimkit import out_of_memory
from slimkit.data.at_once import Readable, at_once
from slimkit.data.finite import named, wrong_row
from slimkit.data.fit import called
from slimkit.errors import DataError
from slimkit.example import Example, describe, fed, first, in_parts, on
from slimkit.hardware import on_device
from slimkit.measure.engines import Runner, open_runner, sizes, takes
from slimkit.modules import evaluating
from slimkit.returned import RETURNED, Form, rebuilt
from slimkit.tasks import CLASSIFICATION, Measurement, Task
from slimkit.tasks.measurement import deviation
from slimkit.tasks.metric import BatchRows, joined
from slimkit.tasks.task import no_numbers


@out_of_memory.told()
def evaluate(
    network: nn.Module | str | Path,
    split: Readable,
    task: Task = CLASSIFICATION,
    *,
    batch_size: int | None = None,
    classes: int | None = None,
    device: torch.device | None = None,
) -> dict[str, Measurement]:
    """Measure every metric of a task, of a network or of an ONNX file (in ONNX Runtime, one thread).

    Args:
        network: in evaluation mode for the time of the measurement; or the path of an ONNX file.
        split: inputs as the network expects them, normalised, with their targets.
        task: gives the metrics.
        batch_size: inputs at a time; None: as many as their size allows. No influence on the result.
        classes: of the data, where they are known.
        device: where the network is computed; None: where it is.

    Raises:
        DataError: the split is empty, outputs or targets are not of this task, outputs hold NaN, or the network does
            not run on them.
        CheckpointError: the ONNX file is missing or damaged.
    """
    if isinstance(network, nn.Module):
        model = on_device(network, device)
        with evaluating(model), torch.inference_mode():
            return _measured(lambda asked: _called(model, asked), split, task, batch_size, classes)
    runner, form = open_runner(network), _form(network)

    def run(asked: Example) -> Any:
        return _run(runner, asked, form)

    return _measured(run, split, task, batch_size, classes)


def _called(model: nn.Module, inputs: Example) -> Any:
    return called(model, inputs, inputs)


def _form(path: str | Path) -> Form:
    """Return what a file of ours says that its outputs are in, None of any other file."""
    said = {entry.key: entry.value for entry in onnx.load(str(path), load_external_data=False).metadata_props}
    with suppress(ValueError, RecursionError):  # the latter of nesting without end
        found: Form = json.loads(said.get(RETURNED, "null"))
        return found
    return None


def _run(runner: Runner, inputs: Example, form: Form) -> Any:
    """Run an ONNX file on a batch, in parts where it is bound to another size; `form`: what its outputs are in."""
    names = [port.name for port in runner.inputs]
    bound = next((port.shape[0] for port in runner.inputs if port.shape), None)

    def compute(part: Example) -> list[torch.Tensor]:
        return list(map(torch.from_numpy, runner.run([tensor.numpy() for tensor in fed(part, names).values()])))

    try:
        outputs = in_parts(compute, inputs, bound)
        return outputs if form is None else rebuilt(form, outputs)
    except Exception as error:  # each engine has kinds of its own
        out_of_memory.pass_on(error)
        why = _misfit(runner, inputs) or (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the ONNX file does not run on inputs of shape {describe(inputs)}: {why}.\n"
            "  Give the data the network was made for, or evaluate the slim file or checkpoint that the file was made "
            "from"
        ) from error


def _misfit(runner: Runner, inputs: Example) -> str:
    """Say which sizes an ONNX file takes, where inputs are of others; "" where that is not what is wrong."""
    with suppress(KeyError):  # an input that is not among them
        given = fed(inputs, [port.name for port in runner.inputs])
        wrong = [port.shape[1:] for port in runner.inputs if not takes(port.shape[1:], given[port.name].shape[1:])]
        return f"it takes {' and '.join(map(sizes, wrong))} alone" if wrong else ""
    return ""


def quality(
    network: nn.Module | str | Path,
    split: Readable,
    task: Task = CLASSIFICATION,
    *,
    batch_size: int | None = None,
    device: torch.device | None = None,
) -> float:
    """Return the first metric of a task, by which networks are chosen and compared; see `evaluate`."""
    return evaluate(network, split, task, batch_size=batch_size, device=device)[task.metric].value


@dataclass(frozen=True)
class Drop:
    """What a network is worse by than another, on the same images.

    Attributes:
        value: in the unit of the metric, in points (hundredths) where it is a share; above 0 is worse.
        margin: what other images, as many, may say beyond that: 90 % of them at the most.
        images: that both were judged on; groups of them, where they resemble each other.
        unit: of value and margin: `points`, or the metric's own, "" where it has none.
    """

    value: float
    margin: float
    images: int
    unit: str = "points"


def drop_from(
    dense: nn.Module, split: Readable, task: Task, device: torch.device | None = None
) -> Callable[[nn.Module], Drop]:
    """Return what tells how much other networks lose against `dense` in the first metric of a task, image by image.

    All are judged on the same images, so that only those count on which two differ: McNemar's variance where images
    are right or wrong, else a bootstrap over images. A metric that is one figure a batch has no margin. `device`: where
    they are computed; None: where they are.
    """
    wanted = _rows(on_device(dense, device), split, task)
    best = task.metrics[task.metric].measured(wanted).value

    def judge(slim: nn.Module) -> Drop:
        return _lost(task, best, wanted, _rows(on_device(slim, device), split, task))

    return judge


def _lost(task: Task, best: float, wanted: list[BatchRows], found: list[BatchRows]) -> Drop:
    """Return what is lost from rows of a metric to others, of the same images; `best` is the metric of the first."""
    metric = task.metrics[task.metric]
    sign = 1.0 if task.better == "higher" else -1.0
    count = sum(map(len, wanted))
    lost = sign * (best - metric.measured(found).value)
    in_points = metric.unit == "share" or are_hits(wanted[0])
    unit, named = (100.0, "points") if in_points else (1.0, metric.unit)
    if metric.of_all is not None:
        return Drop(unit * lost, LIKELY * math.sqrt(2) * unit * metric.spread(wanted, found), count, named)
    before, after = joined(wanted), joined(found)
    spread, count_of = 0.0, metric.of_sum
    if count_of is not None:
        both = torch.stack([before, after], 1)
        spread = unit * deviation(both, lambda sums: count_of(sums[0]) - count_of(sums[1]))
    elif before.dim() == 1:
        spread = unit * float((before.double() - after.double()).std()) / math.sqrt(count)
    if before.dtype == torch.bool:
        spread = max(spread, unit / count)
    return Drop(unit * lost, LIKELY * math.sqrt(2) * spread, count, named)


_SOME = 8  # images
LIKELY = 1.2816  # of a normal distribution, 90 % of which are below


def are_hits(rows: BatchRows) -> bool:
    """Tell whether each image is right or wrong by a metric."""
    return isinstance(rows, torch.Tensor) and rows.dtype == torch.bool


def some_rows(network: nn.Module, split: Readable, task: Task) -> BatchRows | None:
    """Return the rows of the first metric of a task for some images: what kind it is, seen early; None: it fails."""
    try:
        return _rows(network, split, task, _SOME, batches=1)[0]
    except Exception as error:  # whatever somebody's own metric raises, of so few images
        out_of_memory.pass_on(error)
        return None


def _rows(
    network: nn.Module, split: Readable, task: Task, size: int | None = None, batches: int | None = None
) -> list[BatchRows]:
    metric, found, seen = task.metrics[task.metric], list[BatchRows](), 0
    with evaluating(network), torch.inference_mode():
        for inputs, targets in islice(split.batches(size or at_once(split)), batches):
            batch = first(inputs)
            images = len(batch) if batch is not None else 0
            with _blamed(split, seen, inputs, targets):
                outputs, targets = _judgeable(_called(network, task.called(inputs, targets)), targets, task)
                found.append(metric.rows(task.metric, outputs, targets, images))
            seen += images
    return found


@contextmanager
def _blamed(split: Readable, seen: int, inputs: Any, targets: Any) -> Iterator[None]:
    """Name the input or the target that is not finite where nothing can be judged: it is not the network's fault.

    Args:
        split: where they are from.
        seen: inputs before these.
        inputs, targets: a batch.
    """
    try:
        yield
    except DataError as error:
        for what, batch in (("input", inputs), ("target", targets)):
            if (wrong := wrong_row(batch)) and ("NaN" in str(error) or "finite" in str(error)):
                said = str(error).splitlines()[0].removesuffix(".")
                raise DataError(
                    f"{named(split)}: {what} {seen + wrong[0]} holds {wrong[1]}; {said}.\n  Mend it, or leave it out"
                ) from error
        raise


def _judgeable(returned: Any, targets: Any, task: Task, classes: int | None = None) -> tuple[Any, Any]:
    """Return the main output that a network returned, and the targets where it is.

    Raises:
        DataError: they are not of the task.
    """
    outputs, *_ = task.outputs(returned)
    where = first(outputs)
    targets = on(where.device, targets) if where is not None else targets
    if why := task.misfit(outputs, targets, classes):
        weights = "a network of finite weights, or " if no_numbers(outputs) else ""
        raise DataError(f"{task.name}: {why}.\n  Give {weights}the task and the data that the network was made for")
    return outputs, targets


def _measured(
    run: Callable[[Example], Any], split: Readable, task: Task, batch_size: int | None, classes: int | None
) -> dict[str, Measurement]:
    if not hasattr(split, "batches"):
        raise DataError(
            f"split is {type(split).__name__}: it has no batches().\n"
            "  Give a split of a data set, as slimkit.data.as_dataset((train, validation)).validation"
        )
    rows: dict[str, list[BatchRows]] = {name: [] for name in task.metrics}
    seen = 0
    for inputs, targets in split.batches(batch_size or at_once(split)):
        batch = first(inputs)
        images = len(batch) if batch is not None else 0
        with _blamed(split, seen, inputs, targets):
            outputs, targets = _judgeable(run(task.called(inputs, targets)), targets, task, classes)
            shared: dict[Any, BatchRows] = {}  # by several thresholds: drawing masks takes longer than all else here
            for name, metric in task.metrics.items():
                by = metric.per_image if metric.of_all else name
                if by not in shared:
                    shared[by] = metric.rows(name, outputs, targets, images)
                rows[name].append(shared[by])
        seen += images
    if not seen:
        raise DataError(f"{task.name}: the split holds no images.\n  Give a data set with images in every split")
    found = {name: metric.measured(rows[name]) for name, metric in task.metrics.items()}
    for name, one in found.items():
        if not math.isfinite(one.value):  # of sums, or of all images together
            raise DataError(f"metric {name!r}: it gave {one.value} for {seen} images.\n  Let it give a finite number")
    return found
