"""What a run measures: sizes, times, accuracy, costs, as rows of its report."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slimkit import data, provenance
from slimkit._version import __version__
from slimkit.example import Example
from slimkit.export.int8 import quantise
from slimkit.measure import energy, latency, quality
from slimkit.measure.environment import environment
from slimkit.measure.macs import count_macs
from slimkit.measure.node_times import latency_by_node
from slimkit.measure.size import count_params
from slimkit.measure.stages import Stages
from slimkit.models import Network
from slimkit.results.earlier import SCHEMA_1
from slimkit.runs.files import DENSE_ONNX, INT8_ONNX, ONNX
from slimkit.runs.start import allowed_widths, conditions
from slimkit.settings import RunSpec
from slimkit.surgery import rows
from slimkit.surgery.prove import Slimmed

_CALIBRATION_BATCHES = 8  # of 64 images


def slimming_rows(
    slimmed: Slimmed, spec: RunSpec, dense: nn.Module, model: nn.Module, example: Example
) -> dict[str, Any]:
    """Return the parts of a report that say which channels went."""
    allowed = allowed_widths(spec)
    graph, mask = slimmed.graph, slimmed.mask
    return {
        "channels": rows.channels(graph, mask, slimmed.fixed, slimmed.failing, spec.ratio),
        "groups": rows.groups(graph, mask, allowed),
        "layers": rows.layers(dense, model, one_image(example)),
        "gammas": rows.gammas(dense, model),
    }


def head(
    command: str, spec: RunSpec, network: Network, example: Example, dataset: data.Dataset | None = None
) -> dict[str, Any]:
    known = provenance.of(network.model)
    return {
        "schema": SCHEMA_1,
        "slimkit": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "spec": asdict(spec),
        "seed": spec.seed,
        "arch": {
            "name": known.arch or type(network.model).__name__,
            "arguments": known.arguments,
            "source": network.source,
            "input_shape": list(example.shape[1:]) if isinstance(example, Tensor) else None,
            "classes": known.classes,
            "normalisation": known.normalisation,
            "assumptions": [*network.assumptions, *(dataset.notes if dataset else ())],
        },
        "environment": environment(),
        "warnings": [],
    }


def measure(
    dense: nn.Module,
    model: nn.Module,
    example: Example,
    spec: RunSpec,
    dataset: data.Dataset | None,
    work: Path,
) -> dict[str, Any]:
    """Return the figures `before`, `after` and, if asked for, `int8`: size, MACs, latency, energy, accuracy."""
    image = one_image(example)
    shape = tuple(example.shape[1:]) if isinstance(example, Tensor) else None
    if spec.int8 and dataset is not None:
        batches = islice(dataset.train.batches(64, seed=spec.seed), _CALIBRATION_BATCHES)
        quantise(work / ONNX, work / INT8_ONNX, (images for images, _ in batches))
    paths = [path for path in (work / DENSE_ONNX, work / ONNX, work / INT8_ONNX) if path.exists()]
    found = latency.measure(paths, shape, **asdict(conditions(spec))) if paths else []
    sides: dict[str, Any] = {}
    for name, network, path in (
        ("before", dense, work / DENSE_ONNX),
        ("after", model, work / ONNX),
        ("int8", work / INT8_ONNX, work / INT8_ONNX),
    ):
        side: dict[str, Any] = {}
        if isinstance(network, nn.Module):
            side |= {"params": count_params(network), "macs": count_macs(network, image)}
        elif not path.exists():
            continue
        if path in paths:
            time = found[paths.index(path)]
            side |= {"bytes": path.stat().st_size, "latency_ms": time.record().to_dict()}
            side["energy_mj"] = asdict(energy.per_inference(time))
        if dataset is not None:
            side |= judged(network, dataset)
        sides[name] = side
    if any(time.noisy for time in found):
        alone = spec.threads == 1
        advice = "CPU time of the process is shown instead" if alone else "trust the ratio more than the times"
        sides["warnings"] = [f"The machine was busy while latency was measured: {advice}."]
    return sides


def judged(network: nn.Module | Path, dataset: data.Dataset) -> dict[str, Any]:
    """Return how good a network or an ONNX file is at its task, as `quality`, and as `accuracy` if it classifies."""
    task = dataset.task
    splits = {"validation": dataset.validation, "test": dataset.test}
    found = {name: quality.evaluate(network, split, task) for name, split in splits.items()}
    decides = {name: measured[task.metric] for name, measured in found.items()}
    rows: dict[str, Any] = {
        "quality": {
            "task": task.name,
            "metric": task.metric,
            "unit": task.metrics[task.metric].unit,
            "better": task.better,
            **{name: asdict(measured) for name, measured in decides.items()},
            "others": {name: m.value for name, m in found["test"].items() if name != task.metric},
        }
    }
    if task.classifies:
        values = {name: measured.value for name, measured in decides.items()}
        rows["accuracy"] = {**values, "images": decides["test"].images}
    return rows


def time_layers(found: list[dict[str, Any]], work: Path, spec: RunSpec) -> list[dict[str, Any]]:
    """Add to the rows of the layers the milliseconds that each takes, before and after."""
    for key, path in (("ms_before", work / DENSE_ONNX), ("ms_after", work / ONNX)):
        if not path.exists():
            continue
        spent: dict[str, float] = {}
        for node in latency_by_node(path, engine=spec.runtime, threads=spec.threads, batch=spec.batch, repeats=10):
            spent[node.layer] = spent.get(node.layer, 0.0) + node.fastest_ms
        for row in found:
            row[key] = spent.get(row["name"], 0.0)
    return found


def cost(sides: Mapping[str, Any], images: int, stages: Stages) -> dict[str, Any]:
    """Return what the run cost. Training one image is taken as three forward passes; a teacher adds one.

    Args:
        sides: figures `before` and `after`.
        images: that were trained on.
        stages: of the run.
    """
    seconds, cpu_seconds = (math.fsum(getattr(s, k) for s in stages.finished) for k in ("seconds", "cpu_seconds"))
    return {
        "search_macs": 0,
        "training_macs": images * (3 * sides["after"]["macs"] + sides["before"]["macs"]),
        "dense_training_macs": None,
        "seconds": seconds,
        "energy_kj": asdict(energy.of_run(cpu_seconds, stages.meters)),
        "break_even_inferences": None,
    }


def one_image(example: Example) -> Example:
    """Return the first image of an example input."""
    found: Example = tree_map_only(Tensor, lambda tensor: tensor[:1], example)
    return found
