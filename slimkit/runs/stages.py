"""The stages of a run between a traced network and its report, each one call of `slimkit.runs.pipeline`."""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import data, export, models, provenance, recovery
from slimkit.channels.trace import Example, tensors
from slimkit.errors import EngineError
from slimkit.export.int8 import quantise
from slimkit.measure import accuracy, energy, latency
from slimkit.measure.engines import open_runner
from slimkit.measure.macs import count_macs
from slimkit.measure.node_times import latency_by_node
from slimkit.measure.size import count_params
from slimkit.measure.stages import Stages
from slimkit.recovery import fold as folding
from slimkit.selection.ranking import Context
from slimkit.settings import CompressSpec, RunSpec
from slimkit.surgery import proof
from slimkit.surgery.prove import Slimmed

Progress = Callable[[str, float | None], None]
ONNX, DENSE_ONNX, INT8_ONNX = "model.onnx", ".dense.onnx", "model.int8.onnx"
_CALIBRATION_BATCHES = 8  # of 64 images
_REAL_IMAGES = 16  # of the validation split, in the proof
_RANKING_BATCHES = 10


def proof_inputs(example: Tensor, dataset: data.Dataset | None, seed: int) -> list[Example]:
    """Return what the proof runs on: two random images, and a real batch where there is data."""
    inputs: list[Example] = list(proof.random_inputs(example.shape[1:], count=2, seed=seed))
    if dataset is not None:
        images, _ = next(iter(dataset.validation.batches(_REAL_IMAGES)))
        inputs.append(images)
    return inputs


def context(spec: RunSpec, dataset: data.Dataset | None) -> Context:
    """Return what the ranking may need: the seed, and training batches for criteria that read data."""
    if dataset is None or spec.ranking != "taylor":
        return Context(seed=spec.seed)
    batches = islice(dataset.train.batches(spec.batch_size, seed=spec.seed), _RANKING_BATCHES)
    return Context(seed=spec.seed, batches=list(batches))


def settle(
    dense: nn.Module,
    slimmed: Slimmed,
    spec: CompressSpec,
    inputs: Sequence[Example],
    dataset: data.Dataset | None,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Give removed channels' constants to their readers, and say what that and new BN statistics bring.

    Returns:
        The network to go on with, and one row per way: output error against the dense network (root mean
        square over its standard deviation) and, with data, validation accuracy right after the cut.
    """
    graph, mask = slimmed.graph, slimmed.mask
    batches = [images for images, _ in islice(dataset.train.batches(128, seed=spec.seed), 4)] if dataset else []
    means = folding.input_means(dense, graph, mask, batches or inputs[:1], measured=bool(batches))
    folded = copy.deepcopy(slimmed.model)
    folding.fold_(folded, dense, graph, mask, means)
    expected = proof.outputs(dense, inputs)
    rows = []
    for constants, model in (("zero", slimmed.model), ("fold", folded)):
        rows.append(_row(constants, "as trained", model, expected, inputs, dataset))
        if dataset is not None:
            renewed = copy.deepcopy(model)
            recovery.reestimate(renewed, dataset.train, batches=20, seed=spec.seed)
            rows.append(_row(constants, "re-estimated", renewed, expected, inputs, dataset))
    return (folded if spec.constants == "fold" else slimmed.model), rows


def _row(
    constants: str,
    statistics: str,
    model: nn.Module,
    expected: Sequence[Any],
    inputs: Sequence[Example],
    dataset: data.Dataset | None,
) -> dict[str, Any]:
    found = proof.outputs(model, inputs)
    pairs = [(a, b) for x, y in zip(expected, found, strict=True) for a, b in zip(tensors(x), tensors(y), strict=True)]
    wanted = torch.cat([a.flatten() for a, _ in pairs]).double()
    given = torch.cat([b.flatten() for _, b in pairs]).double()
    return {
        "constants": constants,
        "batch_norm": statistics,
        "output_error": float((wanted - given).square().mean().sqrt() / wanted.std()),
        "accuracy": accuracy.accuracy(model, dataset.validation) if dataset else None,
    }


def recover(
    dense: nn.Module, model: nn.Module, spec: CompressSpec, dataset: data.Dataset | None, progress: Progress
) -> tuple[nn.Module, dict[str, Any] | None]:
    """Re-estimate BN statistics and retrain, where there is data; the last epoch is what counts."""
    if dataset is None:
        return model, None
    recipe = replace(
        recovery.retrain.recipe(spec.epochs, spec.seed),
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        precision=spec.precision,
        device=spec.device,
    )
    trained = recovery.recover(
        model,
        dataset.train,
        recipe,
        teacher=dense if spec.distill else None,
        evaluate=lambda network: accuracy.accuracy(network, dataset.validation),
        progress=lambda run: progress(f"retraining, loss {run.loss:.3f}", run.step / run.budget),
    )
    provenance.attach(trained.model, provenance.of(model))
    return trained.model, {
        "epochs": spec.epochs,
        "seconds": trained.seconds,
        "images": trained.images,
        "device": trained.device,
        "precision": trained.precision,
        "history": [asdict(epoch) for epoch in trained.history],
    }


def write_model(
    dense: nn.Module, model: nn.Module, example: Tensor, work: Path, inputs: Sequence[Example], slimmed: Slimmed
) -> dict[str, Any]:
    """Write the network twice, as slim file and as ONNX, and prove both against the one in memory.

    Raises:
        ProofError: a file does not compute what the network does.
    """
    expected = proof.outputs(model, inputs)
    saved = work / ("model.pt2" if provenance.of(model).arch == "exported" else "model.safetensors")
    models.save(model, saved)
    reloaded = proof.compare(expected, models.load_slim(saved, arch=provenance.of(model).arch), inputs)
    known = provenance.of(model)
    about = {"arch": str(known.arch), "classes": str(known.classes), "normalisation": str(known.normalisation)}
    export.export_onnx(model, work / ONNX, example, about)
    with suppress(EngineError):  # over 2 GB: then only the small one is measured
        export.export_onnx(dense, work / DENSE_ONNX, example)
    exported = max(proof.relative_error(a, b) for a, b in zip(expected, run_onnx(work / ONNX, inputs), strict=True))
    real = " and a real batch" if len(inputs) > 2 else ""
    return {
        "masked_vs_slim": slimmed.error,
        "slim_vs_reloaded": proof.require(reloaded, "network against its file, read again"),
        "slim_vs_onnx": proof.require(exported, "network against its ONNX file"),
        "tolerance": proof.TOLERANCE,
        "inputs": f"2 random images{real}",
        "kept_after_failing": list(slimmed.failing),
    }


def run_onnx(path: Path, inputs: Sequence[Example]) -> list[Any]:
    """Run an ONNX file with one input in ONNX Runtime, one thread, on each example."""
    runner = open_runner(path)
    return [[torch.from_numpy(array) for array in runner.run(tensors(example)[0].numpy())] for example in inputs]


def measure(
    dense: nn.Module,
    model: nn.Module,
    example: Tensor,
    spec: RunSpec,
    dataset: data.Dataset | None,
    work: Path,
) -> dict[str, Any]:
    """Return the figures `before`, `after` and, if asked for, `int8`: size, MACs, latency, energy, accuracy."""
    shape = tuple(example.shape[1:])
    if spec.int8 and dataset is not None:
        batches = islice(dataset.train.batches(64, seed=spec.seed), _CALIBRATION_BATCHES)
        quantise(work / ONNX, work / INT8_ONNX, (images for images, _ in batches))
    paths = [path for path in (work / DENSE_ONNX, work / ONNX, work / INT8_ONNX) if path.exists()]
    found = latency.measure(paths, shape, threads=spec.threads, batch=spec.batch, engine=spec.runtime)
    sides: dict[str, Any] = {}
    for name, network, path in (
        ("before", dense, work / DENSE_ONNX),
        ("after", model, work / ONNX),
        ("int8", work / INT8_ONNX, work / INT8_ONNX),
    ):
        side: dict[str, Any] = {}
        if isinstance(network, nn.Module):
            side |= {"params": count_params(network), "macs": count_macs(network, shape)}
        elif not path.exists():
            continue
        if path in paths:
            time = found[paths.index(path)]
            side |= {"bytes": path.stat().st_size, "latency_ms": time.record()}
            side["energy_mj"] = asdict(energy.per_inference(time))
        if dataset is not None:
            side["accuracy"] = {
                "validation": accuracy.accuracy(network, dataset.validation),
                "test": accuracy.accuracy(network, dataset.test),
                "images": len(dataset.test),
            }
        sides[name] = side
    if any(time.noisy for time in found):
        alone = spec.threads == 1
        advice = "CPU time of the process is shown instead" if alone else "trust the ratio more than the times"
        sides["warnings"] = [f"The machine was busy while latency was measured: {advice}."]
    return sides


def time_layers(rows: list[dict[str, Any]], work: Path, spec: RunSpec) -> list[dict[str, Any]]:
    """Add to the rows of the layers the milliseconds that each takes, before and after."""
    for key, path in (("ms_before", work / DENSE_ONNX), ("ms_after", work / ONNX)):
        if not path.exists():
            continue
        spent: dict[str, float] = {}
        for node in latency_by_node(path, engine=spec.runtime, threads=spec.threads, batch=spec.batch, repeats=10):
            spent[node.layer] = spent.get(node.layer, 0.0) + node.fastest_ms
        for row in rows:
            row[key] = spent.get(row["name"], 0.0)
    return rows


def cost(
    dense: nn.Module,
    model: nn.Module,
    shape: tuple[int, ...],
    recovery: dict[str, Any] | None,
    stages: Stages,
    dataset: data.Dataset | None,
) -> dict[str, Any]:
    """Return what the run cost. Training one image is taken as three forward passes; a teacher adds one."""
    forward, small = count_macs(dense, shape), count_macs(model, shape)
    images = recovery["images"] if recovery else 0
    seconds, cpu_seconds = (math.fsum(getattr(s, k) for s in stages.finished) for k in ("seconds", "cpu_seconds"))
    return {
        "search_macs": 0,
        "training_macs": images * (3 * small + forward),
        "dense_training_macs": None,
        "seconds": seconds,
        "energy_kj": asdict(energy.of_run(cpu_seconds, stages.meters)),
        "break_even_inferences": None,
    }
