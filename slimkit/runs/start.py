"""What a run starts from: the network, the data, one image, and what the proof runs on."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from torch import Tensor, nn

from slimkit import data, provenance
from slimkit.channels import Example, Graph, trace
from slimkit.errors import DataError
from slimkit.measure.conditions import Conditions
from slimkit.measure.environment import preferred_step
from slimkit.models import Network
from slimkit.runs.result import Progress
from slimkit.selection.budget import Widths
from slimkit.selection.choose import Chooser, choose, fixed_units
from slimkit.selection.mask import Mask
from slimkit.selection.measured import LatencySolver, SizeSolver
from slimkit.selection.ranking import Context, criterion, rank
from slimkit.settings import CompressSpec, RunSpec
from slimkit.surgery import proof
from slimkit.surgery.prove import Slimmed, prove
from slimkit.surgery.remove import remove

_REAL_IMAGES = 16  # of the validation split, in the proof


_RANKING_BATCHES = 10


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
            "  Add `input_shape`, for example `input_shape='3,224,224'`, or `data`, or `arch`"
        )
    provenance.attach(model, replace(known, input_shape=shape))
    return shape


def proof_inputs(example: Tensor, dataset: data.Dataset | None, seed: int) -> list[Example]:
    """Return what the proof runs on: two random images, and a real batch where there is data."""
    inputs: list[Example] = list(proof.random_inputs(example.shape[1:], count=2, seed=seed))
    if dataset is not None:
        images, _ = next(iter(dataset.validation.batches(_REAL_IMAGES)))
        inputs.append(images)
    return inputs


def context(spec: RunSpec, dataset: data.Dataset | None) -> Context:
    """Return what the ranking may need: the seed, and training batches for criteria that read data.

    Raises:
        DataError: the criterion needs data, and there is none.
    """
    if criterion(spec.ranking).needs != "data":
        return Context(seed=spec.seed)
    if dataset is None:
        raise DataError(
            f"ranking is {spec.ranking!r}: it needs data.\n  Give labelled data, for example `data='digits'`"
        )
    batches = islice(dataset.train.batches(spec.batch_size, seed=spec.seed), _RANKING_BATCHES)
    return Context(seed=spec.seed, batches=list(batches))


def conditions(spec: RunSpec) -> Conditions:
    """Return what latencies are measured under."""
    return Conditions(engine=spec.runtime, threads=spec.threads, batch=spec.batch)


def allowed_widths(spec: RunSpec) -> Widths:
    """Return the counts of channels that the settings allow."""
    if spec.round_to == "auto":
        return Widths(preferred_step(), adapt=True, cap=spec.cap)
    return Widths(int(spec.round_to), adapt=False, cap=spec.cap)


def measured_budget(
    spec: RunSpec, dense: nn.Module, example: Tensor, progress: Progress
) -> LatencySolver | SizeSolver | None:
    """Return what chooses the mask where the budget has to be measured: latency, energy, bytes; else None."""
    budget = spec.budget
    if budget.kind in ("latency", "energy"):
        return LatencySolver(dense, remove, budget, example, conditions(spec), spec.latency_table, progress)
    return SizeSolver(dense, remove, budget, example, progress) if budget.kind == "bytes" else None


def slim(
    spec: RunSpec,
    dense: nn.Module,
    graph: Graph,
    inputs: Sequence[Example],
    context: Context,
    solver: Chooser | None = None,
) -> Slimmed:
    """Rank channels, choose what goes, remove it and prove it, as the settings say; `solver` for measured budgets."""
    scores = rank(spec.ranking, dense, graph, spec.scope, context)
    widths = allowed_widths(spec)

    def chosen(fixed: Tensor) -> Mask:
        if solver is not None:
            return solver(graph, scores, widths, fixed)
        return choose(graph, scores, spec.budget, widths, fixed)

    return prove(dense, graph, chosen, inputs, fixed_units(graph, spec.keep, spec.without_bn))
