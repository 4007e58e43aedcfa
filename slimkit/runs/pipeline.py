"""The whole of a run, call by call: the table of contents of slimkit."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import data, methods, models, provenance, training
from slimkit._version import __version__
from slimkit.channels import Graph, trace
from slimkit.channels.trace import Example
from slimkit.errors import DataError
from slimkit.measure.engines import require
from slimkit.measure.environment import environment
from slimkit.measure.stages import Stages
from slimkit.models import Network
from slimkit.report import page, verdict
from slimkit.results import json_file, records
from slimkit.runs import begin
from slimkit.runs import output as folder
from slimkit.runs import stages as compressing
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask
from slimkit.selection.measured import budget_solver
from slimkit.settings import CompressSpec, RunSpec, TrainSpec, to_toml
from slimkit.surgery.prove import Slimmed, slim, widths

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Result:
    """What `compress` gives: the smaller network, the mask it was cut by, and the report."""

    model: nn.Module
    mask: Mask
    report: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a command leaves: its report, and the folder with the five files."""

    report: dict[str, Any]
    folder: Path


def quiet(message: str, share: float | None) -> None:
    """Show no progress."""


def compress(
    model: nn.Module,
    example_input: Tensor,
    ratio: float | None = None,
    *,
    dataset: data.Dataset | None = None,
    out: Path | str | None = None,
    progress: Progress = quiet,
    **settings: Any,
) -> Result:
    """Make a network smaller: trace, rank, remove, prove, recover, export, measure.

    Args:
        model: the trained network; untouched.
        example_input: [N, C, H, W]; one image is enough.
        ratio: share of the removable channels to remove, in [0, 1).
        dataset: to recover accuracy and to measure it.
        out: folder for the five files of a run; None writes nothing.
        progress: called with what is being done, and the share done where that is known.
        settings: any field of `CompressSpec`, as `max_macs=0.5`.

    Raises:
        SlimkitError: whatever the caller can mend; see `slimkit.errors`.
    """
    spec = CompressSpec(ratio=ratio, **settings)
    network = models.of(model)
    image_shape(network.model, spec, tuple(example_input.shape[1:]))
    if out is None:
        with tempfile.TemporaryDirectory() as work:
            return _compress(network, example_input, spec, dataset, Path(work), progress, Stages())
    with folder.claim(Path(out)) as work_folder:
        return _compress(network, example_input, spec, dataset, work_folder, progress, Stages())


def compress_checkpoint(
    path: Path, spec: CompressSpec, out: Path | None, force: bool, progress: Progress = quiet
) -> Outcome:
    """Make the network in a file smaller and write the five files of a run; see `slimkit compress --help`."""
    target = out or Path(f"{path.stem}-slim")
    stages = Stages()
    with folder.claim(target, force) as work:
        progress("reading the checkpoint", None)
        with stages.stage("load"):
            network = models.load(path, arch=spec.arch, trust_pickle=spec.trust_pickle)
            dataset = open_data(spec, network)
            shape = image_shape(network.model, spec, dataset.input_shape if dataset else None)
        example = torch.randn(1, *shape, generator=torch.Generator().manual_seed(spec.seed))
        result = _compress(network, example, spec, dataset, work, progress, stages)
    return Outcome(result.report, target)


def _compress(
    network: Network,
    example: Tensor,
    spec: CompressSpec,
    dataset: data.Dataset | None,
    work: Path,
    progress: Progress,
    stages: Stages,
) -> Result:
    dense = network.model
    require(spec.runtime)
    progress("tracing channels", None)
    with stages.stage("trace"):
        graph = trace_with(spec, dense, example)
    solver = budget_solver(dense, graph, spec, example, work, progress)
    progress("removing channels and proving it", None)
    with stages.stage("remove and prove"):
        inputs = compressing.proof_inputs(example, dataset, spec.seed)
        slimmed = slim(dense, graph, spec, inputs, compressing.context(spec, dataset), solver)
    with stages.stage("fold constants"):
        settled, after_cut = compressing.settle(dense, slimmed, spec, inputs, dataset)
    with stages.stage("recover"):
        model, recovery = compressing.recover(dense, settled, spec, dataset, progress)
    progress("exporting", None)
    with stages.stage("save and export"):
        proof = compressing.write_model(dense, model, example, work, inputs, slimmed)
    progress("measuring", None)
    with stages.stage("measure"):
        sides = compressing.measure(dense, model, example, spec, dataset, work)
        rows = slimming_rows(slimmed, spec, dense, model, tuple(example.shape[1:]))
        compressing.time_layers(rows["layers"], work, spec)
    report = _head("compress", spec, network, example) | rows
    report |= {**sides, "after_cut": after_cut, "recovery": recovery, "proof": proof}
    report["budget"] = solver.record() if solver else None
    report["cost"] = compressing.cost(dense, model, tuple(example.shape[1:]), recovery, stages, dataset)
    finish(report, spec, work, stages)
    return Result(model, slimmed.mask, report)


def train(
    model: nn.Module,
    dataset: data.Dataset,
    ratio: float | None = None,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    progress: Progress = quiet,
    **settings: Any,
) -> Result:
    """Train a network, make it smaller as soon as its mask has settled, and train the small one on.

    Args:
        model: an untrained network; untouched.
        dataset: what to train on.
        ratio: share of the removable channels to remove, in [0, 1).
        out: folder for the five files of a run; None writes nothing, and keeps no state to resume from.
        resume: go on from the state that an interrupted run to `out` has left.
        progress: called with what is being done, and the share done where that is known.
        settings: any field of `TrainSpec`, as `draw="epoch:3"`.

    Raises:
        SlimkitError: whatever the caller can mend; see `slimkit.errors`.
    """
    network = models.of(model, dataset.input_shape)
    arch = provenance.of(network.model).arch or type(model).__name__
    spec = TrainSpec(**{"arch": arch, "data": dataset.name, "ratio": ratio, **settings})

    def fresh() -> nn.Module:
        return begin.redrawn(network.model, spec.seed + 1)

    stages = Stages()
    if out is None:
        with tempfile.TemporaryDirectory() as work:
            return _train(network, fresh, dataset, spec, Path(work), None, progress, stages)
    with folder.claim(Path(out)) as work_folder:
        store = begin.store(spec, Path(out), resume, network.model, dataset)
        result = _train(network, fresh, dataset, spec, work_folder, store, progress, stages)
    training.forget(store)
    return result


def train_network(spec: TrainSpec, out: Path | None, force: bool, resume: bool, progress: Progress = quiet) -> Outcome:
    """Train an architecture by name and write the five files of a run; see `slimkit train --help`.

    Of several processes, as `torch.distributed.run` starts them, all train and the first one writes.
    """
    target = out or Path(f"{begin.short_name(spec.arch)}-slim")
    stages = Stages()
    with begin.joined(spec) as world, begin.claimed(target, force, world) as work:
        progress("building the network", None)
        with stages.stage("load"):
            dataset = data.open(spec.data, root=spec.data_root, seed=spec.seed)
            network = begin.build(spec, dataset, spec.seed)
        store = begin.store(spec, target, resume, network.model, dataset)

        def fresh() -> nn.Module:
            return begin.build(spec, dataset, spec.seed + 1).model

        if world.rank:
            methods.search(_job(network, fresh, dataset, spec, work, store, progress))
            return Outcome({}, target)
        result = _train(network, fresh, dataset, spec, work, store, progress, stages)
    training.forget(store)
    return Outcome(result.report, target)


def _train(
    network: Network,
    fresh: Callable[[], nn.Module],
    dataset: data.Dataset,
    spec: TrainSpec,
    work: Path,
    store: training.Store | None,
    progress: Progress,
    stages: Stages,
) -> Result:
    progress("tracing channels", None)
    with stages.stage("trace"):
        job = _job(network, fresh, dataset, spec, work, store, progress)
    with stages.stage("search and train"):
        found = methods.search(job)
    dense, model, example = job.dense, found.model, methods.example(spec, dataset)
    progress("exporting", None)
    with stages.stage("save and export"):
        proof = compressing.write_model(dense, model, example, work, job.inputs, found.slimmed)
    progress("measuring", None)
    with stages.stage("measure"):
        sides = methods.measure(job, model, example, work)
        rows = slimming_rows(found.slimmed, spec, dense, model, dataset.input_shape)
        compressing.time_layers(rows["layers"], work, spec)
    report = _head("train", spec, network, example) | rows
    report |= {**sides, **found.rows, "recovery": None, "search": found.search, "proof": proof}
    report["cost"] = methods.cost(job, found, sides, stages)
    report["warnings"] = [*job.warnings, *sides.get("warnings", [])]
    finish(report, spec, work, stages)
    return Result(model, found.slimmed.mask, report)


def _job(
    network: Network,
    fresh: Callable[[], nn.Module],
    dataset: data.Dataset,
    spec: TrainSpec,
    work: Path,
    store: training.Store | None,
    progress: Progress,
) -> methods.Job:
    require(spec.runtime)
    data.check_fits(dataset, network.model)
    example = methods.example(spec, dataset)
    graph = trace_with(spec, network.model, example)
    solver = budget_solver(network.model, graph, spec, example, work, progress)
    return methods.Job(
        spec=spec,
        dense=network.model,
        graph=graph,
        dataset=dataset,
        inputs=compressing.proof_inputs(example, dataset, spec.seed),
        fresh=fresh,
        solver=methods.agreed(methods.remembered(solver, store), spec),
        store=store,
        progress=progress,
    )


def trace_with(spec: RunSpec, model: nn.Module, example: Example) -> Graph:
    """Trace with the engine that the settings name."""
    if spec.tracer == "torch-pruning":
        from slimkit.channels import torch_pruning  # importing torch-pruning takes seconds

        return torch_pruning.trace(model, example)
    return trace(model, example)


def open_data(spec: CompressSpec, network: Network) -> data.Dataset | None:
    """Open the data set of a run, normalised as the network was trained, and check that the two fit."""
    if spec.data is None:
        return None
    dataset = data.open(spec.data, root=spec.data_root, seed=spec.seed)
    known = provenance.of(network.model)
    if known.normalisation is not None and len(known.normalisation["mean"]) == dataset.input_shape[0]:
        dataset = dataset.normalised(known.normalisation)
    data.check_fits(dataset, network.model)
    provenance.attach(
        network.model,
        replace(known, input_shape=dataset.input_shape, normalisation=known.normalisation or dataset.normalisation),
    )
    return dataset


def image_shape(model: nn.Module, spec: CompressSpec, seen: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Return the shape of one image, and note it with the network.

    Args:
        model: a network, with the shape that its architecture is used with, if that is known.
        spec: may name the shape.
        seen: that of the images at hand.

    Raises:
        DataError: nothing says so, or the images are of another shape than the settings.
    """
    known = provenance.of(model)
    asked = tuple(map(int, spec.input_shape.split(","))) if spec.input_shape else None
    if asked and seen and asked != seen:
        raise DataError(
            f"input_shape is {spec.input_shape}, but the images are {','.join(map(str, seen))}.\n"
            "  Leave input_shape out: with images it is not needed"
        )
    shape = asked or seen or known.input_shape
    if shape is None:
        raise DataError(
            "the network's input shape is not known: its file does not say, and no data was given.\n"
            "  Add --input-shape, for example --input-shape 3,224,224, or --data, or --arch"
        )
    provenance.attach(model, replace(known, input_shape=shape))
    return shape


def slimming_rows(
    slimmed: Slimmed, spec: RunSpec, dense: nn.Module, model: nn.Module, shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return the parts of a report that say which channels went."""
    allowed: Widths = widths(spec)
    graph, mask = slimmed.graph, slimmed.mask
    return {
        "channels": records.channels(graph, mask, slimmed.fixed, slimmed.failing, spec.ratio),
        "groups": records.groups(graph, mask, allowed),
        "layers": records.layers(dense, model, shape),
        "gammas": records.gammas(dense, model),
    }


def _head(command: str, spec: RunSpec, network: Network, example: Tensor) -> dict[str, Any]:
    known = provenance.of(network.model)
    return {
        "schema": json_file.SCHEMA,
        "slimkit": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "spec": asdict(spec),
        "seed": spec.seed,
        "arch": {
            "name": known.arch or type(network.model).__name__,
            "arguments": known.arguments,
            "source": network.source,
            "input_shape": list(example.shape[1:]),
            "classes": known.classes,
            "normalisation": known.normalisation,
            "assumptions": list(network.assumptions),
        },
        "environment": environment(),
        "warnings": [],
    }


def finish(report: dict[str, Any], spec: RunSpec, work: Path, stages: Stages) -> None:
    """Complete a report and write it: `report.json`, `report.html` and `run.toml`."""
    (work / compressing.DENSE_ONNX).unlink(missing_ok=True)
    report["verdict"] = verdict.verdict(report).sentence
    report["stages"] = stages.records()
    json_file.write(report, work)
    (work / "report.html").write_text(page.run_page(report), encoding="utf-8")
    (work / "run.toml").write_text(to_toml(spec), encoding="utf-8")


def inspect(path: Path, spec: CompressSpec, progress: Progress = quiet) -> dict[str, Any]:
    """Return what can be removed from the network in a file, and what cannot and why; writes nothing."""
    progress("reading the checkpoint", None)
    network = models.load(path, arch=spec.arch, trust_pickle=spec.trust_pickle)
    shape = image_shape(network.model, spec)
    progress("tracing channels", None)
    graph = trace_with(spec, network.model, torch.randn(1, *shape))
    keep = Mask.full(graph)
    fixed = torch.zeros(graph.units, dtype=torch.bool) if spec.without_bn == "norm" else ~graph.has_norm
    work: dict[str, float] = {}
    for item in graph.works:
        work[item.layer] = work.get(item.layer, 0) + item.each * len(item.outputs) * len(item.inputs)
    rows = [row | {"macs": round(sum(work.get(layer, 0) for layer in row["layers"]))} for row in graph.describe()]
    report = _head("inspect", spec, network, torch.empty(1, *shape))
    return report | {
        "channels": records.channels(graph, keep, fixed, (), None),
        "groups": rows,
        "gammas": records.gammas(network.model, network.model),
        "macs": graph.macs(keep.keep),
        "params": graph.params(keep.keep),
    }
