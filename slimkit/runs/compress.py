"""From a trained network to a proven, smaller one: `slimkit compress`."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from slimkit import data, models, out_of_memory, training
from slimkit._version import __version__
from slimkit.dtypes import in_types_of
from slimkit.example import Example, batch_size
from slimkit.hardware import on_device, plain_precision, seeded, with_gradients
from slimkit.measure.agreement import agreement, disagreement_with
from slimkit.measure.environment import environment
from slimkit.measure.quality import drop_from
from slimkit.measure.stages import Stages, stages_on
from slimkit.models.detectors import Heads, itself
from slimkit.models.ultralytics import Maps, round_
from slimkit.modules import unwrapped
from slimkit.progress import Progress, Watcher, quiet
from slimkit.recovery.calibration import Chunk
from slimkit.recovery.gap import off
from slimkit.results import Attempt, Fit, Own, Report
from slimkit.runs import detection, opening, start
from slimkit.runs.cost import compress_cost
from slimkit.runs.cut import drop, enough
from slimkit.runs.cut.begun import Begun, begin, check_watched, opened
from slimkit.runs.cut.calibrate import Calibration, note_on_inputs
from slimkit.runs.cut.choose import ChosenCut, cut, note_on_widths
from slimkit.runs.cut.gain import without_gain
from slimkit.runs.cut.least import Contenders, compared
from slimkit.runs.cut.recover import Recovered, recover, unfitted
from slimkit.runs.figures import architecture, measure, now, timed_layers, weighed
from slimkit.runs.folder import output
from slimkit.runs.folder import resume as resuming
from slimkit.runs.folder.files import Delivery, finish, write_model
from slimkit.runs.given import Evaluate, Given, Retrain
from slimkit.runs.result import CommandOutcome, Result
from slimkit.selection.counted import note_on_budget
from slimkit.settings import CompressSpec, make, source
from slimkit.settings.data import READING
from slimkit.settings.keywords import CompressKeywords
from slimkit.settings.output import OutputOptions
from slimkit.surgery import rows
from slimkit.surgery.faithful import check_copies
from slimkit.tasks import SEGMENTATION
from slimkit.training import trackers


@out_of_memory.told()
@plain_precision()
@with_gradients()
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
            arguments; one image is enough. Of a detector a list of pictures.
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
    spec, (dataset, calibration) = opening.named(spec, {"data": dataset, "calibration": calibration})
    with seeded(spec.seed):
        resuming.refuse_without_folder(out, force=force, resume=resume)
        _refuse_idle(spec, (dataset, calibration, spec.data, spec.calibration), retrain)
        network = models.as_network(model)
        example = start.example_of(network.model, detection.inputs_of(network.model, example_input))
        if not isinstance(network.model, (Heads, Maps)):  # of which all is known
            check_copies(model, example)
        labelled = opening.given_data(dataset, spec, network, progress, calibration is not None)
        unlabelled = opening.given_inputs(detection.inputs_of(network.model, calibration), spec, network, progress)
        if isinstance(network.model, Heads):
            retrain, evaluate = detection.with_detectors(retrain, evaluate)
        given = Given(network, example, spec, labelled, unlabelled, retrain, evaluate, watchers, progress=progress)
        if watchers:
            check_watched(given, "watchers are given")
        stages = stages_on(spec.device)
        if out is None:
            begun = begin(given, stages, keep_files=False)
            with tempfile.TemporaryDirectory() as work:
                result = finished(begun, spec, Path(work), stages, keep_files=False)
        else:
            with output.claim(Path(out), force) as work_folder:
                store = store_of(Path(out), resume, spec)
                begun = begin(kept(given, store), stages)
                result = finished(begun, spec, work_folder, stages)
            training.forget(store)
        small = in_types_of(itself(result.model), unwrapped(model))
        return Result(small, result.mask, result.report, None if out is None else Path(out))


def _refuse_idle(spec: CompressSpec, sources: Sequence[Any], retrain: Retrain | None) -> None:
    """Refuse settings that a call has no use for: of files, where there are none, and of our own retraining."""
    spec.refuse_idle(source.READING, "the network is given, not read")
    given = [one for one in sources if one is not None]
    if given and not any(isinstance(one, str) for one in given):
        spec.refuse_idle(READING, "the data is given as it is, not read")
    elif not given:
        spec.refuse_idle(("input_shape",), "example_input has it")
    if retrain is not None:
        spec.refuse_idle(start.of_retraining(spec), "`retrain` takes the place of the retraining that it is about")


def compress_checkpoint(
    path: Path,
    spec: CompressSpec,
    options: OutputOptions,
    progress: Progress = quiet,
    watchers: Sequence[Watcher] = (),
) -> CommandOutcome:
    """Make the network in a file smaller and write the files of a run; see `slimkit compress --help`."""
    target = options.folder(path.stem)
    stages = stages_on(spec.device)

    def opened_alone() -> Mapping[str, Any]:
        with seeded(spec.seed):
            return about(opened(path, spec, quiet, stages))

    if done := resuming.complete(target, options, asdict(spec), reads(path, spec), opened_alone):
        return CommandOutcome(done, target, before=True)
    with seeded(spec.seed), output.claim(target, options.force, reads(path, spec)) as work:
        store = store_of(target, options.resume, spec)
        given = kept(opened(path, spec, progress, stages), store, work)
        if options.track:
            check_watched(given, f"track is {', '.join(options.track)}")
        with trackers.opened(options.track, target, asdict(spec)) as more:
            begun = begin(replace(given, watchers=(*watchers, *more)), stages)
            result = finished(begun, spec, work, stages)
    training.forget(store)
    return CommandOutcome(result.report, target)


def store_of(target: Path, resume: bool, spec: CompressSpec) -> training.Store:
    """Return where the states of retrainings are kept: beside the output folder.

    Raises:
        TrainingError: there are some, and nobody asked to go on from them.
    """
    store = resuming.store(target, resume, asdict(spec), {})
    resuming.refuse_unasked(store)
    return store


def about(given: Given) -> dict[str, Any]:
    """Return what must be equal, beside the settings, for two runs to be one."""
    sources = [source for source in (given.dataset, given.calibration) if source is not None]
    return {"weights": resuming.weights(given.dense), resuming.DATA: data.digest(*sources)}


def kept(given: Given, store: training.Store, work: Path | None = None) -> Given:
    """Return what a run starts from with where its state is kept, which is of this network and this data alone.

    Args:
        given: what the run starts from.
        store: where the states of its retrainings are kept.
        work: its claimed folder, which is to say so too; None where nobody can resume it when it is complete.

    Raises:
        TrainingError: a state of another run is there.
    """
    retrained = given.spec.epochs and given.retrain is None
    same = about(given) if retrained or work else {}
    if retrained:
        store = replace(store, identity={**store.identity, **same})
    if work:
        output.note(work, same)
    resuming.check(store)
    return replace(given, store=store)


def reads(path: Path, spec: CompressSpec) -> list[Path]:
    """Return the files that a run reads, which it must not replace."""
    return [path, *([Path(spec.latency_table)] if spec.latency_table else [])]


def finished(begun: Begun, spec: CompressSpec, work: Path, stages: Stages, keep_files: bool = True) -> Result:
    """Choose, remove, prove, recover, export and measure for one budget; see `compress`.

    Args:
        begun: of the same settings, but for the value of the budget.
        spec: the settings.
        work: folder to write into.
        stages: of the run.
        keep_files: someone wants the files.
    """
    given, graph, calibration, inputs = begun.given, begun.graph, begun.calibration, begun.inputs
    example, dataset, dense = given.example, given.dataset, given.dense
    solver = replace(begun.solver, budget=spec.budget) if begun.solver else None

    spent: list[int] = []  # multiply-adds of retrainings

    def attempt(spec: CompressSpec, how: drop.How = "trained") -> tuple[ChosenCut, Recovered]:
        own = given.store and replace(given.store, folder=given.store.folder / f"retraining{len(spent) + 1}")
        with stages.stage("choose, remove and prove"):
            made = cut(begun, spec, solver, quick=how == "quick")
        with stages.stage("recover"):
            asked = begun if how == "trained" else replace(begun, given=replace(given, retrain=None))
            found = recover(asked, made, spec, own)
        spent.append(found.macs)
        return made, found

    found = _smallest(begun, spec, attempt, stages) if spec.max_drop else None
    made, recovered = (found.cut, found.recovered) if found else attempt(spec)
    dropped, slimmed = found.record if found else None, made.slimmed
    model = recovered.model
    if isinstance(model, Maps):
        round_(model)
    given.progress("exporting", None)
    with stages.stage("save and export"):
        delivery = Delivery(dense, model, example, spec, work)
        written = write_model(delivery, inputs, slimmed, keep_files)
    given.progress("measuring", None)
    with stages.stage("measure"):
        sides = measure(delivery, dataset, begun.judged, given.judge, given.device, given.calibration)
        layers = timed_layers(delivery, sides)
    trained = (
        *recovered.notes,
        *unfitted(spec, recovered.after_cut),
        *detection.without_teacher(model, spec, recovered.record),
        *without_gain(recovered.record),
    )
    own = None if begun.own is None else Own(before=begun.own, after=given.own(model) or {})
    cut_by = (graph, slimmed.mask, made.widths)
    short = [] if spec.max_drop else note_on_budget(spec.budget, sides.before, sides.after, *cut_by)
    report = Report(
        slimkit=__version__,
        created=now(),
        command="compress",
        spec=asdict(spec),
        arch=architecture(given.network, example, dataset, given.calibration, shape_given=spec.input_shape is not None),
        environment=environment(),
        channels=rows.channels(graph, slimmed.mask, slimmed.fixed, slimmed.failing, spec.ratio, spec.without_bn),
        groups=rows.groups(graph, slimmed.mask, made.widths),
        layers=layers,
        gammas=rows.gammas(dense, model),
        before=sides.before,
        after=sides.after,
        int8=sides.int8,
        proof=written.proof,
        usage=written.usage,
        cost=compress_cost(sum(spent) - recovered.macs, recovered.macs, stages),
        stages=(),
        after_cut=recovered.after_cut,
        fit=_fit(given, model, made, calibration),
        recovery=recovered.record,
        budget=weighed(made.budget, sides),
        drop=dropped,
        own=own,
        warnings=(
            *written.failed,
            *note_on_inputs(calibration),
            *note_on_widths(made, graph, spec),
            *short,
            *([few] if dropped and (few := _short(begun, spec, dropped.tried, dropped.unit)) else []),
            *sides.notes,
            *(found.notes if found else ()),
            *trained,
        ),
    )
    resuming.keep_log(given.store, work)
    return Result(model, slimmed.mask, finish(report, [spec], work, stages, keep_files))


def _fit(given: Given, model: nn.Module, made: ChosenCut, calibration: Calibration | None) -> Fit | None:
    """Return the part of the report on what was fitted, and how often the two networks agree on other inputs."""
    found = made.reconstruction
    if found is None or calibration is None:
        return None
    groups, maps = calibration.groups, given.task == SEGMENTATION.name
    same = None
    if not (maps and calibration.made):  # how far class maps of such tell anything of real ones is not known
        same = agreement(given.at_work, model, calibration.held, given.device, task=given.task, groups=groups)
    held = [Chunk(one, held=True) for one in calibration.held]
    return Fit(
        on=calibration.name,
        made=calibration.made,
        before=found.before,
        after=found.after,
        left=len(found.left),
        held=sum(map(batch_size, calibration.held)),
        apart=calibration.apart,
        groups=calibration.alike if groups is None else len(groups.bincount()),
        agreement=same.value if same else None,
        agreement_by="mean IoU" if maps else "inputs",
        interval=same.interval if same else None,
        off=None if same else off(given.at_work, on_device(model, given.device), held),
        strange=calibration.strange,
    )


def _smallest(begun: Begun, spec: CompressSpec, attempt: drop.CutAndRecover, stages: Stages) -> drop.Smallest:
    """Return the smallest network within `max_drop`, by labels where there are some, else by agreement."""
    given, calibration = begun.given, begun.calibration
    dense, dataset = given.at_work, given.dataset

    if dataset is not None:
        judge = drop_from(dense, dataset.validation, dataset.task, given.device)
    else:
        assert calibration is not None
        judge = disagreement_with(dense, calibration.held, given.device, task=given.task, groups=calibration.groups)
    own = given.retrain is not None
    retrains = own or bool(spec.epochs)
    asked = replace(spec, epochs=0) if own else spec

    def compare(models: Sequence[nn.Module]) -> Contenders:
        store = given.store if retrains and not own else None
        store = replace(store, folder=store.folder / "compared") if store else None
        with stages.stage("compare those within the drop"):
            return compared(spec, models, given.example, store)

    short = partial(_short, begun, spec)
    return drop.smallest(asked, attempt, judge, compare, short, retrains, given.progress)


def _short(begun: Begun, spec: CompressSpec, tried: Sequence[Attempt], unit: str) -> str:
    """Say which smaller network is within the drop, but for what so few images can tell; see `enough.short`."""
    given, calibration = begun.given, begun.calibration
    if given.dataset is not None:
        return enough.short(spec, tried, unit, len(given.dataset.validation))
    assert calibration is not None
    if calibration.groups is not None:
        return enough.short(spec, tried, unit, len(calibration.groups.bincount()), calibration.alike, alike=True)
    return enough.short(spec, tried, unit, sum(map(batch_size, calibration.held)), len(given.calibration or ()))
