"""From an architecture and data to a trained, smaller network: `slimkit train`."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from slimkit import data, methods, models, provenance, training
from slimkit.measure.engines import require
from slimkit.measure.stages import Stages
from slimkit.models import Network
from slimkit.runs import begin
from slimkit.runs import output as folder
from slimkit.runs.figures import head, slimming_rows, time_layers
from slimkit.runs.files import finish, write_model
from slimkit.runs.result import Outcome, Progress, Result, quiet
from slimkit.runs.start import measured_budget, proof_inputs, reading, task, trace_with
from slimkit.settings import TrainSpec


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
            dataset = data.open(spec.data, root=spec.data_root, seed=spec.seed, task=task(spec), reading=reading(spec))
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
        proof = write_model(dense, model, example, work, job.inputs, found.slimmed)
    progress("measuring", None)
    with stages.stage("measure"):
        sides = methods.measure(job, model, example, work)
        rows = slimming_rows(found.slimmed, spec, dense, model, dataset.input_shape)
        time_layers(rows["layers"], work, spec)
    report = head("train", spec, network, example, dataset) | rows
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
    solver = measured_budget(spec, network.model, example, progress)
    return methods.Job(
        spec=spec,
        dense=network.model,
        graph=graph,
        dataset=dataset,
        inputs=proof_inputs(example, dataset, spec.seed),
        fresh=fresh,
        solver=methods.agreed(methods.remembered(solver, store), spec),
        store=store,
        progress=progress,
    )
