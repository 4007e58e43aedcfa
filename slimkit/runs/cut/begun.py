"""What is found out about a network before any budget is looked at: its channels, inputs to recover on, a ranking."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from slimkit import models
from slimkit.channels import Graph
from slimkit.errors import BudgetError, DataError, MaskError, SpecError
from slimkit.example import Example, batch_size, on
from slimkit.measure.agreement import check_classes, disagreement_with
from slimkit.measure.engines import require
from slimkit.measure.quality import some_rows
from slimkit.measure.stages import Stages
from slimkit.models import Network
from slimkit.models.ultralytics import Maps
from slimkit.progress import Progress
from slimkit.recovery import elimination
from slimkit.results import Accuracy
from slimkit.runs import detection, opening, start, yolo
from slimkit.runs.cut import enough, retraining
from slimkit.runs.cut.calibrate import Calibration, calibrate, check_strange, has_comparable
from slimkit.runs.cut.parts import BATCH, COMPARED, Parts, parted
from slimkit.runs.figures import judged
from slimkit.runs.folder.files import check_files, check_kept
from slimkit.runs.given import Given
from slimkit.selection.choose import choose_within_reach, fixed_units
from slimkit.selection.measured import LatencySolver, SizeSolver
from slimkit.selection.ranking import Context, rank
from slimkit.selection.scope import by_scope, fill_unranked
from slimkit.settings import CompressSpec
from slimkit.tasks import SEGMENTATION
from slimkit.tasks.metric import BatchRows, Metric
from slimkit.training import check_first_step


@dataclass(frozen=True)
class Ranked:
    """How much channels matter; U = units of the graph.

    Attributes:
        scores: [U], finite; the lowest of a group go first.
        losses: what goes with a unit; sums over units and groups mean something. None where that is not known.
    """

    scores: Tensor
    losses: elimination.Losses | None = None


def ranked(given: Given, graph: Graph, context: Context, calibration: Calibration | None) -> Ranked:
    """Rank channels: by what the others can make up for where there are inputs, else as the settings say."""
    spec, dense = given.spec, given.at_work
    if spec.ranking == "auto" and calibration and calibration.fits:
        given.progress("ranking channels by what can be done without them", None)
        losses = elimination.losses(dense, graph, calibration.batches, progress=given.progress)
        norms = rank("group-norm", dense, graph)
        losses = elimination.tempered(losses, graph, norms, sum(map(batch_size, calibration.batches)))
        filled = fill_unranked(losses.measured.float(), norms)
        return Ranked(by_scope(graph, filled, "group"), losses)
    name = "group-norm" if spec.ranking == "auto" else spec.ranking
    return Ranked(rank(name, dense, graph, spec.scope, context))


def _check_rounds(spec: CompressSpec, calibration: Calibration | None) -> None:
    if spec.rounds in ("auto", 1):
        return
    if spec.ranking != "auto" or calibration is None or not calibration.fits or spec.evenly:
        raise SpecError(
            f"rounds is {spec.rounds}: channels are looked at again where `ranking='auto'` has inputs to go by and the "
            "budget is one of `max_macs`, `max_params`, `max_latency`, `max_energy`.\n  Leave it out, or give these"
        )


def _check_retraining(given: Given) -> None:
    """Refuse settings of a retraining that there will not be, or not with labels."""
    spec = given.spec
    if not spec.fits and given.dataset is None and given.calibration is None:
        spec.refuse_idle(("device",), "nothing is fitted, retrained or judged")
    if not spec.epochs:
        remedy = "Give `epochs`, or leave `{name}` out"
        spec.refuse_idle(start.of_retraining(spec), "`epochs` is 0, so nothing is retrained", remedy)
    if given.retrain is not None or given.dataset is not None:
        return
    if given.calibration is not None:
        spec.refuse_idle(("distill",), "without labels nothing but the original can be learnt from")
    else:
        remedy = "Add `data` or `calibration`, or leave `{name}` out"
        spec.refuse_idle(start.of_retraining(spec), "there is nothing to retrain on", remedy)


def _check_first_step(given: Given) -> None:
    """Refuse what cannot be retrained, or not in the precision that is asked for.

    Raises:
        TrainingError: it is so.
    """
    source = given.dataset.validation if given.dataset else given.calibration.split if given.calibration else None
    if source is not None and len(source) > 1:  # of less nothing is fitted, as is said later
        batch = next(iter(source.batches(2)))
        check_first_step(given.dense, retraining.objective(given), batch, precision=given.spec.precision)


def check_watched(given: Given, named: str) -> None:
    """Refuse who is to be told of a retraining where there is none; `named`: by which setting, and who.

    Raises:
        SpecError: nothing is retrained.
    """
    if not given.spec.epochs or (given.retrain is None and given.dataset is None and given.calibration is None):
        raise SpecError(f"{named}: nothing is retrained.\n  Give `epochs` and `data`, or leave it out")


def opened(path: Path, spec: CompressSpec, progress: Progress, stages: Stages) -> Given:
    """Return what a run starts from whose network is in a file."""
    progress("reading the checkpoint", None)
    with stages.stage("load"):
        network = models.load(path, arch=spec.arch, trust_pickle=spec.trust_pickle, max_memory=spec.memory)
        return (_given_yolo if isinstance(network.model, Maps) else _given)(network, spec, progress)


def _given(network: Network, spec: CompressSpec, progress: Progress) -> Given:
    dataset = opening.open_data(spec, network, progress)
    calibration = opening.given_inputs(None, spec, network, progress)
    network, example = start.sized(network, spec, dataset, calibration)
    return Given(network, example, spec, dataset, calibration, progress=progress)


def _given_yolo(network: Network, spec: CompressSpec, progress: Progress) -> Given:
    made = yolo.of_data(network, spec, progress)
    calibration = opening.given_inputs(None, spec, network, progress)
    network, example = start.sized(network, spec, None, calibration if made is None else None)
    if made is None:
        return Given(network, example, spec, calibration=calibration, progress=progress)
    if calibration is None:
        calibration = made.calibration
    else:
        calibration = replace(calibration, notes=(*calibration.notes, *made.calibration.notes))
    return Given(
        network, example, spec, calibration=calibration, retrain=made.retrain, judge=made.judge,
        progress=progress,
    )  # fmt: skip


@dataclass(frozen=True)
class Begun:
    """What is found out about a network before any budget is looked at; so it serves several.

    Attributes:
        given: what the run starts from.
        graph: the network's channels.
        comparable: what the network returns can be compared with what a smaller one does.
        calibration: unlabelled inputs; None where there are none.
        inputs: of the proof.
        order: how much channels matter.
        solver: chooses masks for budgets that have to be measured.
        judged: how good the network is at its task, for the report; None without labels.
        own: somebody's own figures of the network; None where nobody has any.
    """

    given: Given
    graph: Graph
    comparable: bool
    calibration: Calibration | None
    inputs: Sequence[Example]
    order: Ranked
    solver: LatencySolver | SizeSolver | None
    judged: Accuracy | None
    own: dict[str, float | None] | None


def _check_reach(given: Given, graph: Graph, specs: Sequence[CompressSpec]) -> None:
    """Refuse budgets that the shapes of the network say are out of reach, if all are.

    Raises:
        BudgetError: that of the first. MaskError: a layer to keep is not there.
    """
    fixed = fixed_units(graph, given.spec.keep, given.spec.without_bn, start.outer(given.at_work))
    wrong: list[BudgetError] = []
    for spec in specs:
        if spec.max_drop or spec.budget.kind not in ("ratio", "macs", "params"):  # has to be measured
            return
        try:
            choose_within_reach(graph, torch.zeros(graph.units), spec.budget, start.allowed_widths(spec), fixed)
        except MaskError:  # which other scores may mend
            return
        except BudgetError as error:
            wrong.append(error)
    if len(wrong) == len(specs):
        raise wrong[0]


def _compared_on(given: Given, parts: Parts | None) -> tuple[int | None, int | None]:
    """Return the number of images that a drop is told on, and of how many unlabelled inputs they are held out.

    Where inputs resemble each other, of groups of them. None where there are no images, and where they are labelled.
    """
    if parts is None:
        return (None if given.dataset is None else len(given.dataset.validation)), None
    if parts.groups is not None:
        return len(parts.groups.bincount()), parts.alike
    return sum(map(batch_size, parts.held)), len(given.calibration or ())


def _metric(given: Given) -> tuple[Metric | None, BatchRows | None]:
    """Return the metric that a drop is one of, with what it gives of some images; None: inputs of the same class."""
    if given.dataset is not None:
        task = given.dataset.task
        return task.metrics[task.metric], some_rows(given.at_work, given.dataset.validation, task)
    return (SEGMENTATION.metrics[SEGMENTATION.metric] if given.task == SEGMENTATION.name else None), None


def begin(given: Given, stages: Stages, *, specs: Sequence[CompressSpec] = (), keep_files: bool = True) -> Begun:
    """Trace, calibrate and rank; see `compress`.

    What cannot be met is refused first, as far as that can be known without any of it.

    Args:
        given: what the run starts from.
        stages: of the run.
        specs: settings of each run that begins so, where there are several: they differ in the value of the budget.
        keep_files: someone wants files.
    """
    specs = specs or [given.spec]
    spec, example, dataset, dense = given.spec, given.example, given.dataset, given.dense
    require(spec.runtime)
    detection.check(spec, dense, dataset, given.calibration, given.retrain is not None)
    check_files(spec, dense, example)
    if keep_files:
        check_kept(spec, dense, example)
    if spec.int8 and dataset is None and given.calibration is None:
        raise DataError("int8 is True: it needs data.\n  Give `data`, for example `data='digits'`, or `calibration`")
    _check_retraining(given)
    parts = None
    if dataset is None and given.calibration and any(each.max_drop for each in specs):
        inputs = [on(given.device, one) for one in given.calibration.batches(BATCH, at_most=COMPARED, seed=spec.seed)]
        check_classes(given.at_work, inputs, given.device, task=given.task)
        parts = parted(given)
    dropping = [(each, each.max_drop) for each in specs if each.max_drop]
    metric, rows = _metric(given) if dropping else (None, None)
    for each, most in dropping:
        images, of = _compared_on(given, parts)
        alike = parts is not None and parts.groups is not None
        enough.check(each, images, enough.needed(most, metric, rows), of, alike=alike)
    if spec.epochs and given.retrain is None:
        _check_first_step(given)
    ranked_with = start.context(spec, dataset)
    given.progress("tracing channels", None)
    with stages.stage("trace"):
        network, graph = start.traced(spec, given.network, example)
    given = replace(given, network=network)
    dense = given.dense
    _check_reach(given, graph, specs)
    with stages.stage("calibrate"):
        comparable = has_comparable(given)
        calibration = calibrate(given, comparable, parts)
        if dataset is None and calibration and any(each.max_drop for each in specs):
            # where agreement tells nothing no search need begin
            check_strange(calibration)
            disagreement_with(given.at_work, calibration.held, given.device, task=given.task, groups=calibration.groups)
    _check_rounds(spec, calibration)
    inputs = start.proof_inputs(dense, example, dataset, spec.seed, given.calibration)
    solver = None if spec.max_drop else start.measured_budget(spec, dense, example, given.progress)
    with stages.stage("rank"):
        order = ranked(given, graph, ranked_with, calibration)
    with stages.stage("measure the original"):
        before = judged(given.at_work, dataset) if dataset else given.judge(dense) if given.judge else None
        own = given.own(dense)
    return Begun(given, graph, comparable, calibration, inputs, order, solver, before, own)
