"""From a trained network to a proven, smaller one: `slimkit compress`."""

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from slimkit import data, models, training
from slimkit._version import __version__
from slimkit.channels import Graph
from slimkit.errors import DataError
from slimkit.example import Example, batch_size
from slimkit.measure import quality
from slimkit.measure.engines import require
from slimkit.measure.environment import environment
from slimkit.measure.stages import Stages
from slimkit.models import Network
from slimkit.models.ultralytics import Maps, round_
from slimkit.modules import dtype_of
from slimkit.progress import Progress, Watcher, quiet
from slimkit.results import Accuracy, Fit, Own, Report, WithinDrop
from slimkit.runs import drop, output, start, yolo
from slimkit.runs import resume as resuming
from slimkit.runs.calibrate import Calibration, calibrate
from slimkit.runs.choose import Cut, Ranked, cut, ranked
from slimkit.runs.cost import compress_cost
from slimkit.runs.figures import architecture, judged, measure, now, one_image, timed_layers
from slimkit.runs.files import check_files, finish, write_model
from slimkit.runs.recover import Judge, Recovered, Retrain, recover
from slimkit.runs.result import Outcome, Result
from slimkit.selection.measured import LatencySolver, SizeSolver
from slimkit.settings import CompressSpec, make
from slimkit.settings.keywords import CompressKeywords
from slimkit.surgery import rows
from slimkit.training import trackers

Evaluate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Given:
    """What a run of `compress` starts from.

    Attributes:
        network: the dense network; a copy of ours.
        example: what it is called with.
        spec: the settings.
        dataset: labelled data, to recover accuracy and to measure it.
        calibration: unlabelled inputs, to recover what the network computes.
        retrain: somebody's own retraining, instead of ours.
        evaluate: somebody's own figures of a network, by name, for the report.
        watchers: told how a retraining goes.
        store: where the state of a retraining is kept.
        judge: says how good a network is where there is no data set of ours.
    """

    network: Network
    example: Example
    spec: CompressSpec
    dataset: data.Dataset | None = None
    calibration: data.Inputs | None = None
    retrain: Retrain | None = None
    evaluate: Evaluate | None = None
    watchers: Sequence[Watcher] = ()
    store: training.Store | None = None
    judge: Judge | None = None


def compress(
    model: nn.Module,
    example_input: Example,
    ratio: float | None = None,
    *,
    dataset: Any = None,
    calibration: Any = None,
    retrain: Retrain | None = None,
    evaluate: Evaluate | None = None,
    out: Path | str | None = None,
    force: bool = False,
    resume: bool = False,
    progress: Progress = quiet,
    watchers: Sequence[Watcher] = (),
    **settings: Unpack[CompressKeywords],
) -> Result:
    """Make a network smaller: trace, rank, remove, prove, recover, export, measure.

    Args:
        model: the trained network; untouched.
        example_input: what it is called with: a tensor [N, ...], a tuple of arguments, or a dict of keyword
            arguments; one image is enough.
        ratio: share of the removable channels to remove, in [0, 1).
        dataset: labelled data to recover accuracy and to measure it: a name such as `digits`, a
            `slimkit.data.Dataset`, or (train, validation) loaders of (inputs, targets) batches.
        calibration: unlabelled inputs, where there is no data set, or to reconstruct on others: `folder:photos`, a
            tensor [N, ...], or a loader of batches.
        retrain: (slim network, dense network) -> network of the same shape, in place of slimkit's own retraining.
        evaluate: network -> figures by name, such as {"mAP": 0.4}, of both networks for the report.
        out: folder for the five files of a run; None writes nothing.
        force: replace the folder of an earlier run.
        resume: go on with the retraining from the state that an interrupted run to `out` has left.
        progress: called with what is being done, and the share done where that is known.
        watchers: told how a retraining goes, step by step and epoch by epoch; see `slimkit.trackers`.
        settings: fields of `slimkit.settings.CompressSpec`, as `max_macs=0.5`.

    Raises:
        SlimkitError: whatever the caller can mend; see `slimkit.errors`.
    """
    spec = make(CompressSpec, {"ratio": ratio, **settings}, "the arguments of compress")
    network = models.of(model)
    example = start.example_of(network.model, example_input)
    labelled = start.given_data(dataset, spec, network)
    unlabelled = start.given_inputs(calibration, spec, network)
    given = Given(network, example, spec, labelled, unlabelled, retrain, evaluate, watchers)
    stages = Stages()
    if out is None:
        begun = begin(given, progress, stages)
        with tempfile.TemporaryDirectory() as work:
            result = finished(begun, spec, Path(work), False, progress, stages)
    else:
        with output.claim(Path(out), force) as work_folder:
            begun = begin(replace(given, store=store_of(Path(out), resume, spec)), progress, stages)
            result = finished(begun, spec, work_folder, True, progress, stages)
        training.forget(store_of(Path(out), True, spec))
    result.model.to(dtype_of(model))
    return Result(result.model, result.mask, result.report, None if out is None else Path(out))


def compress_checkpoint(
    path: Path,
    spec: CompressSpec,
    out: Path | None,
    force: bool,
    resume: bool = False,
    progress: Progress = quiet,
    watchers: Sequence[Watcher] = (),
    track: Sequence[str] = (),
) -> Outcome:
    """Make the network in a file smaller and write the files of a run; see `slimkit compress --help`."""
    target = out or Path(f"{path.stem}-slim")
    stages = Stages()
    if done := resuming.complete(target, resume, force, asdict(spec), reads(path, spec)):
        return Outcome(done, target, before=True)
    with output.claim(target, force, reads(path, spec)) as work:
        store = store_of(target, resume, spec)
        given = replace(opened(path, spec, progress, stages), store=store)
        with trackers.opened(track, target, asdict(spec)) as more:
            begun = begin(replace(given, watchers=(*watchers, *more)), progress, stages)
            result = finished(begun, spec, work, True, progress, stages)
    training.forget(store)
    return Outcome(result.report, target)


def store_of(target: Path, resume: bool, spec: CompressSpec) -> training.Store:
    """Return where the states of retrainings are kept: beside the output folder.

    Raises:
        TrainingError: there are some, and nobody asked to go on from them.
    """
    store = resuming.store(target, resume, asdict(spec), {})
    resuming.refuse_unasked(store)
    return store


def reads(path: Path, spec: CompressSpec) -> list[Path]:
    """Return the files that a run reads, which it must not replace."""
    return [path, *([Path(spec.latency_table)] if spec.latency_table else [])]


def opened(path: Path, spec: CompressSpec, progress: Progress, stages: Stages) -> Given:
    """Return what a run starts from whose network is in a file."""
    progress("reading the checkpoint", None)
    with stages.stage("load"):
        network = models.load(path, arch=spec.arch, trust_pickle=spec.trust_pickle, max_memory=spec.memory)
        return (_given_yolo if isinstance(network.model, Maps) else _given)(network, spec, progress)


def _given(network: Network, spec: CompressSpec, progress: Progress) -> Given:
    dataset = start.open_data(spec, network)
    calibration = start.given_inputs(None, spec, network)
    return Given(network, start.example(network.model, spec, dataset), spec, dataset, calibration)


def _given_yolo(network: Network, spec: CompressSpec, progress: Progress) -> Given:
    made = yolo.of_data(network, spec, progress)
    calibration = start.given_inputs(None, spec, network)
    example = start.example(network.model, spec)
    if made is None:
        return Given(network, example, spec, calibration=calibration)
    calibration = calibration or made.calibration
    return Given(network, example, spec, calibration=calibration, retrain=made.retrain, judge=made.judge)


@dataclass(frozen=True)
class Begun:
    """What is found out about a network before any budget is looked at; so it serves several.

    Attributes:
        given: what the run starts from.
        graph: the network's channels.
        calibration: unlabelled inputs; None where there are none.
        inputs: of the proof.
        order: how much channels matter.
        solver: chooses masks for budgets that have to be measured.
        judged: how good the network is at its task, for the report; None without labels.
    """

    given: Given
    graph: Graph
    calibration: Calibration | None
    inputs: Sequence[Example]
    order: Ranked
    solver: LatencySolver | SizeSolver | None
    judged: Accuracy | None


def begin(given: Given, progress: Progress, stages: Stages) -> Begun:
    """Trace, calibrate and rank; see `compress`."""
    spec, example, dataset, dense = given.spec, given.example, given.dataset, given.network.model
    require(spec.runtime)
    check_files(spec, dense, example)
    if spec.int8 and dataset is None:
        raise DataError("int8 is True: it needs data.\n  Give labelled data, for example `data='digits'`")
    ranked_with = start.context(spec, dataset)
    progress("tracing channels", None)
    with stages.stage("trace"):
        graph = start.trace_with(spec, dense, example)
    with stages.stage("calibrate"):
        calibration = calibrate(dense, example, dataset, given.calibration, spec, progress)
    inputs = start.proof_inputs(example, dataset, spec.seed, given.calibration)
    solver = None if spec.max_drop else start.measured_budget(spec, dense, example, progress)
    order = ranked(spec, dense, graph, ranked_with, calibration, progress)
    with stages.stage("measure the original"):
        before = judged(dense, dataset) if dataset else given.judge(dense) if given.judge else None
    return Begun(given, graph, calibration, inputs, order, solver, before)


def finished(
    begun: Begun, spec: CompressSpec, work: Path, keep_files: bool, progress: Progress, stages: Stages
) -> Result:
    """Choose, remove, prove, recover, export and measure for one budget; see `compress`.

    Args:
        begun: of the same settings, but for the value of the budget.
        spec: the settings.
        work: folder to write into.
        keep_files: someone wants the files.
        progress: called with what is being done, and the share done.
        stages: of the run.
    """
    given, graph, calibration, inputs = begun.given, begun.graph, begun.calibration, begun.inputs
    example, dataset, dense = given.example, given.dataset, given.network.model
    solver = replace(begun.solver, budget=spec.budget) if begun.solver else None

    numbers = itertools.count(1)

    def attempt(spec: CompressSpec) -> tuple[Cut, Recovered]:
        own = given.store and replace(given.store, folder=given.store.folder / f"retraining{next(numbers)}")
        with stages.stage("choose, remove and prove"):
            made = cut(spec, dense, graph, inputs, begun.order, calibration, solver, progress)
        with stages.stage("recover"):
            fitted = made.reconstruction.model if made.reconstruction else None
            return made, recover(
                dense, made.slimmed, fitted, spec, inputs, dataset, calibration, given.retrain, progress,
                given.watchers, own, given.judge,
            )  # fmt: skip

    made, recovered, dropped = (
        _smallest(given, spec, calibration, attempt, progress) if spec.max_drop else (*attempt(spec), None)
    )
    slimmed = made.slimmed
    model = recovered.model
    if isinstance(model, Maps):
        round_(model)
    progress("exporting", None)
    with stages.stage("save and export"):
        written = write_model(dense, model, example, work, inputs, slimmed, spec, keep_files)
    progress("measuring", None)
    with stages.stage("measure"):
        sides = measure(dense, model, example, spec, dataset, work, begun.judged, given.judge)
        layers = timed_layers(rows.layers(dense, model, one_image(example)), work, spec, example)
    own = None
    if given.evaluate is not None:
        own = Own(before=dict(given.evaluate(dense)), after=dict(given.evaluate(model)))
    report = Report(
        slimkit=__version__,
        created=now(),
        command="compress",
        spec=asdict(spec),
        arch=architecture(given.network, example, dataset),
        environment=environment(),
        channels=rows.channels(graph, slimmed.mask, slimmed.fixed, slimmed.failing, spec.ratio),
        groups=rows.groups(graph, slimmed.mask, start.allowed_widths(spec)),
        layers=layers,
        gammas=rows.gammas(dense, model),
        before=sides.before,
        after=sides.after,
        int8=sides.int8,
        proof=written.proof,
        usage=written.usage,
        cost=compress_cost(sides.before, sides.after, recovered.images, stages),
        stages=(),
        after_cut=recovered.after_cut,
        fit=_fit(dense, model, made, calibration),
        recovery=recovered.record,
        budget=made.budget,
        drop=dropped,
        own=own,
        warnings=(*written.failed, *sides.notes),
    )
    resuming.keep_log(given.store, work)
    return Result(model, slimmed.mask, finish(report, [spec], work, stages))


def _fit(dense: nn.Module, model: nn.Module, made: Cut, calibration: Calibration | None) -> Fit | None:
    """Return the part of the report on what was fitted, and how often the two networks agree on other inputs."""
    found = made.reconstruction
    if found is None or calibration is None:
        return None
    same = quality.agreement(dense, model, calibration.held)
    return Fit(
        on=calibration.name,
        made=calibration.made,
        before=found.before,
        after=found.after,
        left=len(found.left),
        held=sum(map(batch_size, calibration.held)),
        agreement=same.value if same else None,
    )


def _smallest(
    given: Given, spec: CompressSpec, calibration: Calibration | None, attempt: drop.Try, progress: Progress
) -> tuple[Cut, Recovered, WithinDrop]:
    """Return the smallest network within `max_drop`, by labels where there are some, else by agreement."""
    dense, dataset = given.network.model, given.dataset
    if dataset is not None:
        drop.check(spec, len(dataset.validation))
        found = drop.smallest(
            spec, attempt, lambda net: quality.drop(dense, net, dataset.validation, dataset.task), progress
        )
    else:
        held = calibration.held if calibration and not calibration.made else []
        drop.check(spec, sum(map(batch_size, held)) or None)
        found = drop.smallest(spec, attempt, lambda net: quality.disagreement(dense, net, held), progress)
    return found.cut, found.recovered, found.record
