"""What gives accuracy back in a run of `compress`: reconstruction on unlabelled inputs, then retraining."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from slimkit import data, provenance, recovery, training
from slimkit.dtypes import in_precision
from slimkit.errors import DivergedError, TrainingError
from slimkit.example import Example, batch_size, comparable
from slimkit.modules import copied, state_tensors, unwrapped
from slimkit.recovery import fold
from slimkit.results import AfterCut, Recovery
from slimkit.runs.cut import gain, retraining
from slimkit.runs.cut.begun import Begun
from slimkit.runs.cut.beside import are_beside, note
from slimkit.runs.cut.calibrate import Calibration
from slimkit.runs.cut.choose import ChosenCut
from slimkit.runs.folder import resume
from slimkit.runs.given import Given, Retrain, Retrained
from slimkit.settings import CompressSpec
from slimkit.surgery import proof
from slimkit.surgery.prove import Slimmed
from slimkit.training import state
from slimkit.training.watch import watch

_STATISTICS_BATCHES = 20
_MEANS = 512  # inputs that the mean output of a channel is measured on
# Steps of retraining after which running averages of BatchNorm, which forget a tenth a step, are of the weights as they
# were: after 9 steps on digits they cost 10 of 99 points, measured anew nothing.
_SHORT = 100


@dataclass(frozen=True)
class Recovered:
    """A network after recovery.

    Attributes:
        model: the network to deliver.
        after_cut: rows of the report on the network right after the cut.
        record: the part of the report on retraining; None where there was none.
        macs: multiply-adds of the retraining, whether or not its network is the one to deliver.
        notes: of the retraining, for the user.
    """

    model: nn.Module
    after_cut: tuple[AfterCut, ...]
    record: Recovery | None = None
    macs: int = 0
    notes: tuple[str, ...] = ()


def recover(begun: Begun, made: ChosenCut, spec: CompressSpec, store: training.Store | None) -> Recovered:
    """Let the channels that stay take over, then retrain where there is something to retrain on.

    Args:
        begun: the network before removal, what the proof runs on, and data: labelled, to retrain on; unlabelled, with
            which alone the original is imitated; somebody's own retraining, in place of ours.
        made: the proven cut, reconstructed where that was asked for and there was something to go by.
        spec: the settings.
        store: where the state of this retraining is kept, with its log beside the folder; what begins with other
            weights, as a cut by other latencies does, is another retraining.

    Raises:
        TrainingError: somebody's own retraining gave back another network; the retraining diverged.
    """
    given, slimmed, inputs, calibration = begun.given, made.slimmed, begun.inputs, begun.calibration
    dense = given.dense
    expected = proof.outputs(dense, inputs)

    def row(weights: str, statistics: str, model: nn.Module) -> AfterCut:
        right = given.quality(model)
        error = _error(expected, proof.outputs(model, inputs)) if begun.comparable else None
        return AfterCut(constants=weights, batch_norm=statistics, output_error=error, accuracy=right)

    rows = [row("zero", "as trained", slimmed.model)]
    source = calibration.source if calibration else None
    if made.reconstruction is not None:
        model = made.reconstruction.model
        rows.append(row("reconstructed", "as trained", model))
    else:
        model = folded(given.at_work, slimmed, spec, inputs, calibration)
        if source is not None and spec.recover:
            recovery.reestimate(model, source.split, batches=_STATISTICS_BATCHES, seed=spec.seed, device=given.device)
        weights = "zero" if spec.constants == "zero" else "fold"
        rows.append(row(weights, "re-estimated" if source and spec.recover else "as trained", model))
    found = Recovered(model, tuple(rows))
    if given.retrain is not None:
        given.progress("retraining", None)
        trained = _own(given.retrain, model, dense)
        macs = retraining.macs(given, model, trained.record.images, taught=False)
        found = Recovered(trained.model, tuple(rows), trained.record, macs)
    elif calibration is not None and source is not None and spec.epochs:
        found = _retrained(given, model, spec, calibration, source, tuple(rows), store)
    told = calibration is not None and source is not None and are_beside(given, expected[0])
    beside = note(given, model, found.model, calibration.held) if told and calibration else ()
    return replace(found, notes=(*found.notes, *beside))


def folded(
    dense: nn.Module, slimmed: Slimmed, spec: CompressSpec, inputs: Sequence[Example], calibration: Calibration | None
) -> nn.Module:
    """Give the mean output of removed channels to what reads them: measured where there are inputs, else modelled."""
    model = copied(slimmed.model)
    if spec.constants != "zero":
        seen = _first(calibration.batches, _MEANS) if calibration else inputs[:1]
        means = fold.input_means(dense, slimmed.graph, slimmed.mask, seen, measured=calibration is not None)
        fold.fold_(model, dense, slimmed.graph, slimmed.mask, means)
    return model


def _first(batches: Sequence[Example], count: int) -> list[Example]:
    """Return the first batches, until there are so many inputs."""
    before = itertools.accumulate(map(batch_size, batches), initial=0)
    return [one for one, seen in zip(batches, before, strict=False) if seen < count]


def _retrained(
    given: Given,
    model: nn.Module,
    spec: CompressSpec,
    calibration: Calibration,
    source: data.Inputs,
    rows: tuple[AfterCut, ...],
    store: training.Store | None,
) -> Recovered:
    dense, dataset, progress = given.dense, given.dataset, given.progress
    split = dataset.train if dataset else source.split
    recipe, judged_by = retraining.recipe(given, len(split)), retraining.judged_by(given)
    log = store.folder.parent / state.LOG if store else None
    if store:
        store = replace(store, folder=store.folder.with_name(f"{store.folder.name}-{resume.weights(dense, model)}"))
    try:
        trained = training.train(
            model,
            split,
            recipe,
            task=judged_by,
            teacher=dense,
            evaluate=given.quality if dataset else None,
            hooks=[watch("retraining", judged_by, given.watchers, log)],
            progress=lambda run: progress("retraining", run.step / run.budget),
            store=store,
        )
    except DivergedError as error:
        if dataset:  # a training that was asked for; without labels it is an attempt to be nearer the original
            raise
        said, *hint = str(error).split("\n  ")
        return Recovered(model, rows, notes=(f"Not retrained: {said} {' '.join(hint)}.",))
    provenance.attach(trained.model, provenance.of(model))
    history = trained.history
    if trained.images < _SHORT * recipe.batch_size:
        recovery.reestimate(trained.model, split, batches=_STATISTICS_BATCHES, seed=spec.seed, device=given.device)
        if dataset is not None:  # the last epoch is what is delivered
            last = given.quality(trained.model)
            history = (*history[:-1], replace(history[-1], validation_accuracy=last))
    record = Recovery(
        epochs=spec.epochs,
        seconds=trained.seconds,
        images=trained.images,
        device=trained.device,
        precision=trained.precision,
        history=history,
        delivered=not (
            gain.worse(given, trained.model, model, history[-1].validation_accuracy, rows[-1].accuracy)
            if dataset
            else gain.further(given, trained.model, model, calibration.held)
        ),
    )
    macs = retraining.macs(given, model, trained.images, retraining.taught(given))
    return Recovered(trained.model if record.delivered else model, rows, record, macs, trained.notes)


def unfitted(spec: CompressSpec, rows: Sequence[AfterCut]) -> tuple[str, ...]:
    """Say that there was nothing to fit to."""
    if not spec.fits or any(row.output_error is not None for row in rows):
        return ()
    return (
        "Nothing was fitted: what the network returns cannot be compared with what a smaller one does (classes, a "
        "mask, or as many numbers as the data makes). Give the part before that, such as the scores before argmax.",
    )


def _own(retrain: Retrain, model: nn.Module, dense: nn.Module) -> Retrained:
    shapes = {name: tensor.shape for name, tensor in state_tensors(model).items()}
    began = time.perf_counter()
    given = retrain(copied(model), copied(dense))
    record = Recovery(epochs=0, seconds=0.0, images=0, device="", precision="", history=(), by="own")
    found, record = (given.model, given.record) if isinstance(given, Retrained) else (given, record)
    found = unwrapped(found) if isinstance(found, nn.Module) else found
    if not isinstance(found, nn.Module) or {n: t.shape for n, t in state_tensors(found).items()} != shapes:
        what = type(found).__name__ + (" with other weights" if isinstance(found, nn.Module) else "")
        raise TrainingError(
            f"retrain returned {what}: it must return the slim network that it was given, or one like it.\n"
            "  End it with: return model"
        )
    wrong = [name for name, tensor in state_tensors(found).items() if not bool(tensor.isfinite().all())]
    if wrong:
        raise TrainingError(
            f"retrain returned a network whose {wrong[0]} holds NaN or infinite values: it has diverged.\n"
            "  Train with a lower learning rate"
        )
    found = in_precision(found.cpu(), torch.float32).eval()
    provenance.attach(found, provenance.of(model))
    return Retrained(found, replace(record, seconds=time.perf_counter() - began))


@torch.no_grad()
def _error(expected: Sequence[Any], found: Sequence[Any]) -> float | None:
    """Return the root mean square of the difference, over the standard deviation of what was expected.

    None where no output is `comparable`.
    """
    pairs = [pair for x, y in zip(expected, found, strict=True) for pair in comparable(x, y)]
    if not pairs:
        return None
    wanted = torch.cat([a.flatten() for a, _ in pairs]).double()
    given = torch.cat([b.flatten() for _, b in pairs]).double()
    return float((wanted - given).square().mean().sqrt() / wanted.std())
