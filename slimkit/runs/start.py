"""What a run starts from: channels, one input, what the proof runs on, and how it chooses."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from slimkit import data, provenance
from slimkit.channels import Graph
from slimkit.dtypes import taken
from slimkit.errors import DataError
from slimkit.example import Example, batch_size, describe, drawn_like, of_batch, on, tensors
from slimkit.hardware import CPU
from slimkit.measure import layer_table
from slimkit.measure.conditions import Conditions
from slimkit.measure.environment import preferred_step
from slimkit.models import Network
from slimkit.models.detectors import Heads
from slimkit.models.ultralytics import Maps
from slimkit.progress import Progress
from slimkit.quantity import number_of
from slimkit.runs.folder.files import export_network
from slimkit.selection.budget import Widths
from slimkit.selection.measured import Aim, LatencySolver, SizeSolver
from slimkit.selection.ranking import Context, criterion
from slimkit.settings import CompressSpec, ExportSpec, RunSpec, TrainSpec
from slimkit.surgery.evidence import runs
from slimkit.surgery.plain_weights import plain_weights, replaced
from slimkit.surgery.remove import remove
from slimkit.surgery.traced import trace
from slimkit.surgery.trials import Trial
from slimkit.surgery.whole_numbers import is_whole, redrawn, rows

_RANDOM, _REAL_IMAGES = 2, 16  # inputs of the proof; images of the validation split
_RANKING_BATCHES, _RANKING_BATCH = 10, 128  # batches, and images in each


def trace_with(spec: RunSpec, model: nn.Module, example: Example) -> Graph:
    """Trace with the engine that the settings name."""
    if spec.tracer == "torch-pruning":
        from slimkit.channels import torch_pruning  # importing torch-pruning takes seconds

        return torch_pruning.trace(model, example)
    return trace(model, example)


def traced(spec: RunSpec, network: Network, example: Example) -> tuple[Network, Graph]:
    """Trace a network; where layers compute their weights, one in which they are stored, and which says so."""
    if spec.tracer != "torch-pruning":  # which does not see what is computed
        graph = trace_with(spec, network.model, example)
        if not graph.computed:
            return network, graph
    plain = plain_weights(network.model, example)
    count = len(replaced(plain)) - len(replaced(network.model))
    if not count:
        return network, trace_with(spec, network.model, example)
    said = (
        f"that {number_of(count, 'layer')} may store the weights that they computed at every call, so that channels "
        "can go: the network computes the same; a retraining trains the weights as they are stored"
    )
    return replace(network, model=plain, said=(*network.said, said)), trace_with(spec, plain, example)


def example(model: nn.Module, spec: CompressSpec | ExportSpec, dataset: data.Dataset | None = None) -> Example:
    """Return one random input of a network; its shapes are noted with the network.

    Args:
        model: a network, with the shape that its architecture is used with, if that is known.
        spec: may name the shape, or those of several inputs.
        dataset: at hand; several inputs are like its.

    Raises:
        DataError: nothing says which shape, or the data is of another one than the settings.
    """
    random = torch.Generator().manual_seed(0 if isinstance(spec, ExportSpec) else spec.seed)
    asked = spec.shapes
    known = provenance.of(model)
    if isinstance(asked, dict):
        types = {name: dtype for name, (_, dtype) in known.inputs.items()}
        return _noted(model, {name: _drawn(shape, types.get(name, "float32"), random) for name, shape in asked.items()})
    if asked and dataset and asked != dataset.input_shape:
        raise DataError(
            f"input_shape is {spec.input_shape}, but the images are {','.join(map(str, dataset.input_shape))}.\n"
            "  Leave input_shape out: with images it is not needed"
        )
    if dataset is not None:
        return _noted(model, random_input(dataset, random.initial_seed()))
    if known.inputs and not asked:
        return {name: _drawn(shape, dtype, random) for name, (shape, dtype) in known.inputs.items()}
    shape = asked or known.input_shape
    if shape is None:
        raise _unknown_shape(spec)
    provenance.attach(model, replace(provenance.of_shape(known, shape), inputs={}))
    return _drawn(shape, "float32", random)


def _unknown_shape(spec: CompressSpec | ExportSpec, reads: bool = False) -> DataError:
    """Say that nothing tells a network's shape, and what does; `reads`: the call takes inputs."""
    who, advice = "its file does not say", ["`input_shape`, for example `input_shape='3,224,224'`"]
    if spec.arch is None:
        advice.append("`arch`, where that says it")
    else:
        who = f"neither its file nor arch {spec.arch!r} says"
    if reads:
        who += ", and no inputs were given"
        advice.insert(1, "`data` or `calibration`")
    return DataError(f"the network's input shape is not known: {who}.\n  Add {', or '.join(advice)}")


def outer(model: nn.Module) -> str:
    """Return what the names of all layers begin with that their network's owner does not know: of a module of ours."""
    return "net." if isinstance(model, Maps | Heads) else ""


def sized(
    network: Network, spec: CompressSpec, dataset: data.Dataset | None, inputs: data.Inputs | None
) -> tuple[Network, Example]:
    """Return a network and one random input of it: like unlabelled ones where nothing says its shape, or a guess does.

    Raises:
        DataError: as of `example`.
    """
    known = provenance.of(network.model)
    shape = spec.input_shape or known.input_shape or known.inputs
    if not shape and dataset is None and inputs is None:
        raise _unknown_shape(spec, reads=True)
    if spec.input_shape or (shape and not network.guess) or dataset is not None or inputs is None:
        return network, example(network.model, spec, dataset)
    one = drawn_like(on(CPU, next(iter(inputs.batches(1)))), torch.Generator().manual_seed(spec.seed))
    if isinstance(one, Tensor) and tuple(one.shape[1:]) == known.input_shape:  # read in the shape that was guessed
        return network, example(network.model, spec)
    shapes = " and ".join("x".join(map(str, tensor.shape[1:])) for tensor in tensors(one))
    said = f"inputs are {shapes}, as those of {inputs.name}: the network's file does not tell"
    return replace(network, said=(*network.said, said), guess=""), _noted(network.model, one)


def _drawn(shape: tuple[int, ...], dtype: str, random: torch.Generator) -> Tensor:
    """Return a random input of a batch of one; whole numbers are 0.

    Raises:
        DataError: there is no memory for it.
    """
    try:
        if not getattr(torch, dtype).is_floating_point:
            return torch.zeros(1, *shape, dtype=getattr(torch, dtype))
        return torch.randn(1, *shape, dtype=getattr(torch, dtype), generator=random)
    except (RuntimeError, MemoryError) as error:  # too many bytes to be had, or to be counted
        raise DataError(
            f"input_shape is {','.join(map(str, shape))}: there is no memory for a single such input.\n"
            "  Give the shape of one input, for example `input_shape='3,224,224'`"
        ) from error


def random_input(dataset: data.Dataset, seed: int) -> Example:
    """Return one random input like those of a data set; whole numbers stay those of its first one."""
    random = torch.Generator().manual_seed(seed)
    inputs, _ = next(iter(dataset.validation.batches(1)))
    return drawn_like(inputs, random)


def example_of(model: nn.Module, given: Example) -> Example:
    """Return somebody's example input as our copy of the network takes it: on the CPU, in float32.

    Shapes are noted with the network, in place of any guess. A list is one of arguments, as a tuple is.

    Raises:
        DataError: a tensor of it is empty.
        TraceError: it is nothing that a network is called with.
    """
    given = tuple(given) if isinstance(given, list) else given
    example: Example = tree_map_only(Tensor, lambda tensor: taken(tensor, torch.float32), given)
    if any(tensor.dim() and not len(tensor) for tensor in tensors(example)):
        raise DataError(f"example_input is {describe(example)}: it is empty.\n  Give one input or more")
    batch_size(example)  # raises, where there is none
    return _noted(model, example)


def _noted(model: nn.Module, example: Example) -> Example:
    """Note with a network what it is called with: the shape of a single tensor, or of each argument."""
    only, known = _only(model, example), provenance.of(model)
    if only is not None:
        provenance.attach(model, replace(provenance.of_shape(known, tuple(only.shape[1:])), inputs={}))
        return example
    names = inspect.signature(model.forward).parameters
    given = example if isinstance(example, Mapping) else dict(zip(names, example, strict=False))
    inputs = {}
    if all(isinstance(one, Tensor) and one.dim() and len(one) == batch_size(example) for one in given.values()):
        inputs = {name: (tuple(one.shape[1:]), str(one.dtype).removeprefix("torch.")) for name, one in given.items()}
    provenance.attach(model, replace(known, input_shape=None, inputs=inputs))
    return example


def _only(model: nn.Module, example: Example) -> Tensor | None:
    """Return the tensor that is all that a network is called with, None where it could not be given by its place."""
    if isinstance(example, Mapping):
        names = list(inspect.signature(model.forward).parameters)[:1]
        example = tuple(example.values()) if names == list(example) else ()
    if isinstance(example, tuple):
        return example[0] if len(example) == 1 and isinstance(example[0], Tensor) else None
    return example


def proof_inputs(
    model: nn.Module,
    example: Example,
    dataset: data.Dataset | None,
    seed: int,
    calibration: data.Inputs | None = None,
) -> list[Example]:
    """Return what the proof runs on: two random inputs like the example, and a real batch where there are some.

    Single numbers, as a scale is, stay those of the example; whole ones, as token indices are, in the first input: in
    the second they are others, if the network takes such.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: Tensor) -> Tensor:
        kept = tensor.dim() == 0 or not tensor.is_floating_point()
        return tensor if kept else torch.randn(tensor.shape, generator=generator)

    one = of_batch(example, 1)
    inputs: list[Example] = [tree_map_only(Tensor, drawn, one) for _ in range(_RANDOM)]
    if any(map(is_whole, tensors(one))):
        others = redrawn(inputs[1], rows(model, one), generator)
        inputs[1] = others if runs(model, Trial("other numbers", others)) else inputs[1]
    if dataset is not None:
        images, _ = next(iter(dataset.validation.batches(data.at_once(dataset.validation, _REAL_IMAGES))))
        inputs.append(images)
    elif calibration is not None:
        inputs.append(next(iter(calibration.batches(data.at_once(calibration.split, _REAL_IMAGES)))))
    return [on(CPU, one) for one in inputs]  # a split of somebody's own gives its batches where it likes


def told_apart(inputs: Sequence[Example]) -> list[Trial]:
    """Return what `proof_inputs` gave with the names that the report calls them by."""
    return [Trial("random" if number < _RANDOM else "real batch", one) for number, one in enumerate(inputs)]


def context(spec: CompressSpec | TrainSpec, dataset: data.Dataset | None) -> Context:
    """Return what the ranking may need: the seed, and training batches for criteria that read data.

    Raises:
        DataError: the criterion needs data, and there is none.
    """
    if spec.ranking == "auto" or criterion(spec.ranking).needs != "data":
        return Context(seed=spec.seed)
    if dataset is None:
        raise DataError(
            f"ranking is {spec.ranking!r}: it needs data.\n  Give labelled data, for example `data='digits'`"
        )
    size = spec.batch_size if isinstance(spec.batch_size, int) else _RANKING_BATCH
    batches = data.some(dataset.train, size, _RANKING_BATCHES, spec.seed)
    return Context(seed=spec.seed, batches=list(batches), task=dataset.task)


def of_retraining(spec: CompressSpec) -> set[str]:
    """Return the names of the settings that only a retraining has a use for; `epochs` where they ask for one."""
    names = {"optimizer", "learning_rate", "batch_size", "precision", "distill", "epochs"}
    if spec.ranking != "auto" and criterion(spec.ranking).needs == "data":
        names.remove("batch_size")
    return names if spec.epochs else names - {"epochs"}


def conditions(spec: RunSpec) -> Conditions:
    """Return what latencies are measured under."""
    return Conditions(engine=spec.runtime, threads=spec.threads, batch=spec.batch)


def allowed_widths(spec: RunSpec) -> Widths:
    """Return the counts of channels that the settings allow; where they say nothing, those that an engine likes.

    The engine is the one of the latency table, else this machine's.
    """
    if spec.round_to == "auto":
        step = layer_table.load(spec.latency_table).step if spec.latency_table else preferred_step()
        return Widths(step, adapt=True, cap=spec.cap)
    return Widths(int(spec.round_to), adapt=False, cap=spec.cap)


def measured_budget(
    spec: RunSpec, dense: nn.Module, example: Example, progress: Progress, aim: Aim = "importance"
) -> LatencySolver | SizeSolver | None:
    """Return what chooses the mask where the budget has to be measured: latency, energy, bytes; else None.

    `aim`: what is wanted of a mask that meets a time, see `LatencySolver`.
    """
    budget = spec.budget
    if budget.kind in ("ratio", "macs", "params"):
        return None
    if budget.kind in ("latency", "energy"):
        write = partial(export_network, spec=replace(spec, free_size=False))  # times are of one size
        return LatencySolver(
            dense, remove, budget, example, conditions(spec), spec.latency_table, progress, aim=aim, write=write
        )
    return SizeSolver(dense, remove, budget, example, progress, partial(export_network, spec=spec))
