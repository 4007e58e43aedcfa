"""What a run measures: sizes, times, accuracy, as records of its report."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import data, provenance
from slimkit.errors import DataError, EngineError
from slimkit.example import Example, named, of_batch
from slimkit.export.int8 import quantise
from slimkit.export.pixels import normalisation_of
from slimkit.hardware import on_device
from slimkit.measure import energy, latency, quality
from slimkit.measure.latency import Latency
from slimkit.measure.macs import count_macs
from slimkit.measure.node_times import PROFILED, latency_by_node, unprofiled
from slimkit.measure.onnx_bytes import bytes_of_onnx
from slimkit.measure.size import count_params
from slimkit.models import Network
from slimkit.results import Accuracy, Architecture, Figures, LayerEntry, MeasuredBudget, Normalisation, OtherMetric
from slimkit.runs.folder.files import DENSE_ONNX, INT8_ONNX, ONNX, Delivery, missing
from slimkit.runs.given import Judge
from slimkit.runs.pixels import pixels, pixels_alone
from slimkit.runs.start import conditions
from slimkit.surgery import rows

_BATCH, _CALIBRATION_BATCHES = 64, 8  # images at a time, and of them
_TURNS, _REPEATS = 2, 5  # of timing the layers of both files, and runs in each


@dataclass(frozen=True)
class Sides:
    """What was measured of the networks of a run.

    Attributes:
        before, after: the dense and the slim network.
        int8: the INT8 file; None where there is none.
        notes: what a reader of the times has to know.
    """

    before: Figures
    after: Figures
    int8: Figures | None = None
    notes: tuple[str, ...] = ()


def now() -> str:
    """Return the time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def architecture(
    network: Network,
    example: Example,
    dataset: data.Dataset | None = None,
    calibration: data.Inputs | None = None,
    *,
    shape_given: bool = False,
) -> Architecture:
    """Return the network before anything was done to it, and what had to be assumed of it and of what it is given."""
    known = provenance.of(network.model)
    sized = shape_given or (dataset is not None and dataset.sized)
    normal = known.normalisation
    notes = [note for given in (dataset, calibration) if given is not None for note in given.notes]
    return Architecture(
        name=known.arch or type(network.model).__name__,
        arguments=known.arguments,
        source=network.source,
        input_shape=tuple(example.shape[1:]) if isinstance(example, Tensor) else None,
        classes=known.classes,
        normalisation=Normalisation(mean=tuple(normal["mean"]), std=tuple(normal["std"])) if normal else None,
        assumptions=tuple(dict.fromkeys((*network.assumed(sized), *notes))),
        file=network.file if network.file.isprintable() else "",  # of other bytes JSON can be none
    )


def measure(
    delivery: Delivery,
    dataset: data.Dataset | None,
    known: Accuracy | None = None,
    judge: Judge | None = None,
    device: torch.device | None = None,
    unlabelled: data.Inputs | None = None,
) -> Sides:
    """Return the figures of both networks, and of the INT8 file if one is asked for.

    Args:
        delivery: both networks, and the folder with their ONNX files; an INT8 one is written there.
        dataset: what accuracy is of; None measures none.
        known: how good the dense network is; None where nobody asks, as of one that was not trained to the end.
        judge: says how good the slim network is where there is no data set of ours.
        device: where it is judged; None: where it is.
        unlabelled: what an INT8 file is calibrated on where there is no data set.
    """
    example, spec, work = delivery.example, delivery.spec, delivery.work
    judge = judge or (partial(judged, dataset=dataset, device=device) if dataset else None)
    for_files = dataset
    if dataset is not None and spec.embed_normalisation:
        for_files = pixels(dataset, normalisation_of(delivery.dense, example))
    notes = [missing("INT8", wrong)] if (wrong := _quantised(delivery, for_files, unlabelled)) else []
    paths = [path for path in (work / DENSE_ONNX, work / ONNX, work / INT8_ONNX) if path.exists()]
    found = latency.measure(paths, shapes_of(example), **asdict(conditions(spec))) if paths else []
    timed = dict(zip(paths, found, strict=True))
    if any(time.noisy for time in found):
        shown = "CPU time of the process" if spec.threads == 1 else "the fastest run"
        half = "; energy is of the quieter half of the readings" * any(time.energy_mj is not None for time in found)
        notes.append(f"The machine was busy while latency was measured: {shown} is shown instead{half}.")
    before, after = (
        replace(
            _of_file(work / name, timed),
            params=count_params(network),
            macs=count_macs(network, of_batch(example, 1)),
            accuracy=right,
        )
        for network, name, right in (
            (delivery.dense, DENSE_ONNX, known),
            (delivery.model, ONNX, judge(delivery.model) if judge else None),
        )
    )
    int8 = None
    if (small := work / INT8_ONNX).exists():
        int8 = _of_file(small, timed)
        try:
            int8 = replace(int8, accuracy=judged(small, for_files) if for_files else None)
        except DataError as wrong:  # of outputs that are no numbers, say: no reason to lose what was trained
            notes.append(f"The INT8 file is not judged: {str(wrong).splitlines()[0]}")
    return Sides(before, after, int8, tuple(notes))


def _quantised(delivery: Delivery, dataset: data.Dataset | None, unlabelled: data.Inputs | None) -> EngineError | None:
    """Write the INT8 file where one is asked for; return why there is none."""
    spec, work = delivery.spec, delivery.work
    if not spec.int8 or (dataset is None and unlabelled is None):
        return None
    if not (work / ONNX).exists():
        return EngineError("it is made of the ONNX file, and there is none.")
    inputs: Iterable[Example]
    if dataset is not None:
        batches = data.some(dataset.train, _BATCH, _CALIBRATION_BATCHES, spec.seed)
        inputs = (dataset.task.called(*batch) for batch in batches)
    elif unlabelled is not None:
        if spec.embed_normalisation:
            unlabelled = pixels_alone(unlabelled, normalisation_of(delivery.dense, delivery.example))
        inputs = unlabelled.batches(_BATCH, at_most=_BATCH * _CALIBRATION_BATCHES, seed=spec.seed)
    try:
        quantise(work / ONNX, work / INT8_ONNX, inputs)
    except EngineError as wrong:
        return wrong
    return None


def weighed(budget: MeasuredBudget | None, sides: Sides) -> MeasuredBudget | None:
    """Return how a budget was met, of bytes by the file that was written after recovery."""
    if budget is None or budget.kind != "bytes" or sides.after.bytes is None:
        return budget
    return replace(budget, reached=sides.after.bytes)


def shapes_of(example: Example) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one image's inputs, by the names that an ONNX file gives them."""
    return {name: tuple(tensor.shape[1:]) for name, tensor in named(example).items()}


def _of_file(path: Path, timed: Mapping[Path, Latency]) -> Figures:
    if path not in timed:
        return Figures()
    time = timed[path]
    return Figures(bytes=bytes_of_onnx(path), latency_ms=time.record(), energy_mj=energy.per_inference(time))


@dataclass
class _Counted:
    """Reads a split, and counts its classes on the way."""

    split: data.Readable
    counts: Counter[int] = field(default_factory=Counter)

    def batches(self, batch_size: int) -> Iterator[tuple[Any, Any]]:
        for inputs, targets in self.split.batches(batch_size):
            if isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point():
                self.counts.update(targets.tolist())
            yield inputs, targets

    @property
    def commonest(self) -> float | None:
        """Share of the commonest class; None where targets are no classes."""
        return max(self.counts.values()) / self.counts.total() if self.counts else None


def judged(network: nn.Module | Path, dataset: data.Dataset, device: torch.device | None = None) -> Accuracy:
    """Return how good a network or an ONNX file is at its task, on the validation and on the test split.

    `device`: where a network is computed; None: where it is.
    """
    task = dataset.task
    network = network if isinstance(network, Path) else on_device(network, device)
    decided = quality.evaluate(network, dataset.validation, task, classes=dataset.stated_classes)[task.metric]
    test = _Counted(dataset.test)
    size = data.at_once(dataset.test)
    found = quality.evaluate(network, test, task, batch_size=size, classes=dataset.stated_classes)
    last = found[task.metric]
    return Accuracy(
        task=task.name,
        metric=task.metric,
        unit=task.metrics[task.metric].unit,
        better=task.better,
        validation=decided.value,
        test=last.value,
        validation_images=decided.images,
        test_images=last.images,
        interval=last.interval,
        validation_interval=decided.interval,
        tested_apart=dataset.tested_apart,
        commonest=test.commonest if task.classifies else None,
        metrics={name: one.value for name, one in found.items()},
        others=tuple(
            OtherMetric(metric=name, unit=metric.unit, value=found[name].value, interval=found[name].interval)
            for name, metric in task.metrics.items()
            if name != task.metric
        ),
    )


def timed_layers(delivery: Delivery, sides: Sides) -> tuple[LayerEntry, ...]:
    """Return the layers with the milliseconds that each takes, before and after; all no more than the network takes.

    Both files are timed in turns and the least of each layer counts, so that a busy machine makes neither slower.
    """
    files = (delivery.work / DENSE_ONNX, sides.before), (delivery.work / ONNX, sides.after)
    turns = [[_times(path, whole, delivery) for path, whole in files] for _ in range(_TURNS)]
    before, after = (_least(each, whole) for (_, whole), each in zip(files, zip(*turns, strict=True), strict=True))
    return tuple(
        replace(
            layer,
            ms_before=None if before is None else before.get(layer.name, 0.0),
            ms_after=None if after is None else rows.summed(after, layer.name),
        )
        for layer in rows.layers(delivery.dense, delivery.model, of_batch(delivery.example, 1))
    )


def _times(path: Path, whole: Figures, delivery: Delivery) -> dict[str, float] | None:
    """Return the times of the layers of a file, ms, by name; None where there is no file, or no profiler."""
    if whole.latency_ms is None or delivery.spec.runtime not in PROFILED:
        return None
    how = asdict(conditions(delivery.spec))
    spent: dict[str, float] = {}
    nodes = latency_by_node(path, shapes_of(delivery.example), **how, repeats=_REPEATS)
    for node in unprofiled(nodes, whole.latency_ms.quoted)[0]:
        spent[node.layer] = spent.get(node.layer, 0.0) + node.turn_ms
    return spent


def _least(turns: Sequence[dict[str, float] | None], whole: Figures) -> dict[str, float] | None:
    """Return the least times of the layers of a file, which add up to no more than the file takes."""
    timed = [turn for turn in turns if turn is not None]
    if whole.latency_ms is None or not timed:
        return None
    least = {layer: min(turn.get(layer, time) for turn in timed) for layer, time in timed[0].items()}
    slower = max(1.0, sum(least.values()) / whole.latency_ms.quoted)  # the machine may have been, meanwhile
    return {layer: time / slower for layer, time in least.items()}
