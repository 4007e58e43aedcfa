"""From an architecture and data to a trained, smaller network: `slimkit train`."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from slimkit import data, models, out_of_memory, provenance, training
from slimkit._version import __version__
from slimkit.errors import SpecError
from slimkit.hardware import plain_precision, with_gradients
from slimkit.measure.environment import environment
from slimkit.measure.stages import Stages, stages_on
from slimkit.methods import Job
from slimkit.models import Network
from slimkit.progress import Progress, Watcher, quiet
from slimkit.results import Report, report_file
from slimkit.runs import begin
from slimkit.runs.cost import training_cost
from slimkit.runs.figures import architecture, measure, now, timed_layers, weighed
from slimkit.runs.folder import output as folder
from slimkit.runs.folder import resume as resuming
from slimkit.runs.folder.files import Delivery, finish, write_model
from slimkit.runs.job import job_of, opened
from slimkit.runs.opening import note
from slimkit.runs.plan import Plan, plan
from slimkit.runs.result import CommandOutcome, Result
from slimkit.runs.start import allowed_widths, proof_inputs, random_input
from slimkit.selection.counted import note_on_budget
from slimkit.selection.mask import Mask
from slimkit.settings.keywords import TrainKeywords
from slimkit.settings.output import OutputOptions
from slimkit.surgery import rows
from slimkit.surgery.prove import Slimmed, prove_untrained
from slimkit.training import distributed, trackers


@out_of_memory.told()
@plain_precision()
@with_gradients()
def train(
    model: nn.Module,
    dataset: Any,
    ratio: float | None = None,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    progress: Progress = quiet,
    watchers: Sequence[Watcher] = (),
    **settings: Unpack[TrainKeywords],
) -> Result:
    """Train a network, and make it smaller as a method says.

    Args:
        model: an untrained network; untouched. Methods that begin from fresh weights give each of its tensors the same
            numbers in another order, so that they are of the distribution that it was initialised by.
        dataset: what to train on: the name of a data set, (train, validation) loaders of (inputs, targets) batches,
            or whatever else `slimkit.data.as_dataset` takes.
        ratio: share of the removable channels to remove, in [0, 1).
        out: folder for the five files of a run; None writes nothing, and keeps no state to resume from.
        resume: go on from the state that an interrupted run to `out` has left.
        progress: called with what is being done, and the share done where that is known.
        watchers: told how each training goes, step by step and epoch by epoch; see `slimkit.trackers`.
        settings: fields of `slimkit.settings.TrainSpec`, as `epochs=60`. `method` takes a method with its own settings,
            `slimkit.methods.EarlyBirdConfig(deadline=0.02)`, which is how a type checker knows them; or its name, and
            then they may stand beside it as keywords, `method="early-bird", deadline=0.02`, checked only when called.

    Raises:
        SlimkitError: whatever the caller can mend; see `slimkit.errors`.
    """
    resuming.refuse_without_folder(out, resume=resume)
    words = dict(settings)
    for twice in (name for name in ("arch", "data") if name in words):
        raise SpecError(f"{twice} is {words[twice]!r}: model and dataset are given already.\n  Leave `{twice}` out")
    arch = provenance.of(model).arch or type(model).__name__
    name = dataset if isinstance(dataset, str) else getattr(dataset, "name", "dataset")
    asked = plan(
        {"arch": arch, "data": name, "ratio": ratio, **words}, named=words if ratio is None else {*words, "ratio"}
    )
    images = opened(asked.spec, dataset, progress)
    network = models.as_network(model, images.input_shape)
    images = data.same_in_order_of(images, provenance.of(network.model).use.class_names)
    note(network.model, images)

    def fresh() -> nn.Module:
        return begin.redrawn(network.model, asked.spec.seed + 1)

    stages = stages_on(asked.spec.device)

    def job(store: training.Store | None) -> Job:
        with stages.stage("trace"):
            return replace(job_of(network, fresh, images, asked, store, progress), watchers=watchers)

    if out is None:
        with tempfile.TemporaryDirectory() as work:
            return _train(network, asked, job(None), Path(work), stages, keep_files=False)
    with folder.claim(Path(out)) as work_folder:
        same = begin.about(network.model, images)
        store = resuming.store(Path(out), resume, asked.settings(), same)
        resuming.check(store)
        folder.note(work_folder, same)
        result = _train(network, asked, job(store), work_folder, stages)
    training.forget(store)
    return result


def train_network(
    asked: Plan, options: OutputOptions, progress: Progress = quiet, watchers: Sequence[Watcher] = ()
) -> CommandOutcome:
    """Train an architecture by name and write the files of a run; see `slimkit train --help`.

    Of several processes, as `torch.distributed.run` starts them, all train and the first one writes. Those that it
    starts again, since one had died, go on from the state that is there.
    """
    spec, options = asked.spec, replace(options, resume=options.resume or distributed.restarted())
    target = options.folder(begin.short_name(spec.arch))

    def opened_alone() -> Mapping[str, Any]:
        dataset = opened(spec)
        return begin.about(begin.fresh_network(spec, dataset, spec.seed).model, dataset)

    if done := resuming.complete(target, options, asked.settings(), _reads(asked), opened_alone):
        return CommandOutcome(done, target, before=True)
    stages = stages_on(asked.spec.device)
    with begin.joined(spec) as world, begin.claimed(target, options.force, world, _reads(asked)) as work:
        progress("building the network", None)
        with stages.stage("load"):
            dataset = opened(spec, progress=progress)
            network = begin.fresh_network(spec, dataset, spec.seed)
        same = begin.about(network.model, dataset)
        store = resuming.store(target, options.resume, asked.settings(), same)
        if not world.rank:  # the others may come later, when it has begun
            resuming.check(store)
            folder.note(work, same)

        def fresh() -> nn.Module:
            return begin.fresh_network(spec, dataset, spec.seed + 1).model

        with stages.stage("trace"):
            job = job_of(network, fresh, dataset, asked, store, progress)
        if world.rank:
            asked.method(replace(job, speaks=False), asked.config)
            return CommandOutcome(None, target)
        with trackers.opened(options.track, target, asked.settings()) as more:
            result = _train(network, asked, replace(job, watchers=(*watchers, *more)), work, stages)
    training.forget(store)
    return CommandOutcome(result.report, target)


def _reads(asked: Plan) -> list[Path]:
    """Return what a run reads of others, which it must not replace: a latency table, the run whose widths it takes."""
    table, like = (asked.settings().get(name) for name in ("latency_table", "like"))
    return [*([Path(table)] if table else []), *([Path(like) / report_file.NAME] if like else [])]


def _train(network: Network, asked: Plan, job: Job, work: Path, stages: Stages, keep_files: bool = True) -> Result:
    spec, dataset = asked.spec, job.dataset
    with stages.stage("search and train"):
        found = asked.method(job, asked.config)
    dense, model, example = job.dense, found.model, random_input(dataset, spec.seed)
    slimmed = found.slimmed or _whole(job)
    delivery = Delivery(dense, model, example, spec, work)
    job.progress("exporting", None)
    with stages.stage("save and export"):
        written = write_model(delivery, proof_inputs(dense, example, dataset, spec.seed), slimmed, keep_files)
    job.progress("measuring", None)
    with stages.stage("measure"):
        sides = measure(delivery, dataset, device=job.device)
        layers = timed_layers(delivery, sides)
    widths, mask = allowed_widths(spec), slimmed.mask
    short = note_on_budget(spec.budget, sides.before, sides.after, job.graph, mask, widths) if found.cut else []
    cost = training_cost(job, found, sides.before, sides.after, stages, asked.settings())
    report = Report(
        slimkit=__version__,
        created=now(),
        command="train",
        spec=asked.settings(),
        arch=architecture(network, example, dataset),
        environment=environment(),
        channels=rows.channels(job.graph, mask, slimmed.fixed, slimmed.failing, spec.ratio, spec.without_bn),
        groups=rows.groups(job.graph, mask, widths),
        layers=layers,
        gammas=found.cut.gammas if found.cut else rows.gammas(dense, model),
        before=sides.before,
        after=sides.after,
        int8=sides.int8,
        proof=written.proof,
        usage=written.usage,
        cost=cost,
        stages=(),
        after_cut=(found.cut.after,) if found.cut else (),
        search=found.search,
        budget=weighed(found.cut.budget, sides) if found.cut else None,
        warnings=(*found.warnings, *short, *written.failed, *sides.notes),
    )
    resuming.keep_log(job.store, work)
    return Result(model, slimmed.mask, finish(report, [spec, asked.config], work, stages, keep_files))


def _whole(job: Job) -> Slimmed:
    """Return the cut that removes nothing."""
    graph = job.graph
    return prove_untrained(
        job.dense, graph, lambda fixed: Mask.full(graph), job.selection.inputs, job.selection.fixed(graph)
    )
