"""From a checkpoint to a proven, smaller network: `slimkit compress`."""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import data, models, provenance, recovery
from slimkit.errors import DataError
from slimkit.example import Example, tensors
from slimkit.measure import accuracy
from slimkit.measure.engines import require
from slimkit.measure.stages import Stages
from slimkit.models import Network
from slimkit.recovery import fold
from slimkit.runs import output as folder
from slimkit.runs.figures import cost, head, measure, slimming_rows, time_layers
from slimkit.runs.files import finish, write_model
from slimkit.runs.result import Outcome, Progress, Result, quiet
from slimkit.runs.start import context, image_shape, measured_budget, open_data, proof_inputs, slim, trace_with
from slimkit.settings import CompressSpec
from slimkit.surgery import proof
from slimkit.surgery.prove import Slimmed


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
            network = models.load(path, arch=spec.arch, trust_pickle=spec.trust_pickle, max_memory=spec.memory)
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
    if spec.int8 and dataset is None:
        raise DataError("int8 is True: it needs data.\n  Give labelled data, for example `data='digits'`")
    ranked_with = context(spec, dataset)
    progress("tracing channels", None)
    with stages.stage("trace"):
        graph = trace_with(spec, dense, example)
    solver = measured_budget(spec, dense, example, progress)
    progress("removing channels and proving it", None)
    with stages.stage("remove and prove"):
        inputs = proof_inputs(example, dataset, spec.seed)
        slimmed = slim(spec, dense, graph, inputs, ranked_with, solver)
    with stages.stage("fold constants"):
        settled, after_cut = settle(dense, slimmed, spec, inputs, dataset)
    with stages.stage("recover"):
        model, recovery = recover(dense, settled, spec, dataset, progress)
    progress("exporting", None)
    with stages.stage("save and export"):
        proof = write_model(dense, model, example, work, inputs, slimmed)
    progress("measuring", None)
    with stages.stage("measure"):
        sides = measure(dense, model, example, spec, dataset, work)
        rows = slimming_rows(slimmed, spec, dense, model, tuple(example.shape[1:]))
        time_layers(rows["layers"], work, spec)
    report = head("compress", spec, network, example) | rows
    report |= {**sides, "after_cut": after_cut, "recovery": recovery, "proof": proof}
    report["budget"] = solver.record() if solver else None
    report["cost"] = cost(dense, model, tuple(example.shape[1:]), recovery, stages, dataset)
    finish(report, spec, work, stages)
    return Result(model, slimmed.mask, report)


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
    means = fold.input_means(dense, graph, mask, batches or inputs[:1], measured=bool(batches))
    folded = copy.deepcopy(slimmed.model)
    fold.fold_(folded, dense, graph, mask, means)
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
