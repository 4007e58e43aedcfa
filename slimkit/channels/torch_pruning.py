"""The same graph read out of torch-pruning's DependencyGraph, Fang et al. 2023, arXiv:2301.12900.

A dependency says that pruning a side (inputs or outputs) of one node prunes a side of another, and which
index goes with which. Here every index of every side is a name, and every dependency a tie; from there on it
is as in the tracing pass. torch-pruning itself does not keep what reaches the output, nor normalisations over
channels, nor tie the groups of a grouped convolution: that is added, and where the multiply-adds are, as our own pass
sees it. What it does not see are branches that run only in training, and numbers in the code that repeat a width.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from slimkit import out_of_memory
from slimkit.channels.assemble import assemble
from slimkit.channels.graph import Graph
from slimkit.channels.observed import Observed
from slimkit.channels.trace import trace as own_trace
from slimkit.errors import TraceError
from slimkit.example import Example, batch_size, call, tensors
from slimkit.modules import copied, heard, unwrapped

CONVOLUTIONS = (nn.modules.conv._ConvNd,)
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
LAYERS = (nn.Linear, *CONVOLUTIONS, *BATCH_NORMS)
KEPT = {  # modules whose function changes with the number of channels, or that only its own pruner can change
    tp.ops.OPTYPE.LN: "is normalised across channels (LayerNorm)",
    tp.ops.OPTYPE.GN: "is normalised across channels (GroupNorm)",
    tp.ops.OPTYPE.EMBED: "is looked up in a table",
    tp.ops.OPTYPE.MHA: "enters attention over channels",
    tp.ops.OPTYPE.LSTM: "enters a recurrent layer",
}
NodeSide = tuple[Any, Any]  # a node, and the function that prunes its inputs or its outputs
Sides = tuple[Tensor, Tensor]  # names of the outputs of a weight, and of its inputs


def trace(model: nn.Module, example_input: Example) -> Graph:
    """Find which channels of a network live and die together, as torch-pruning sees it.

    Args:
        model: any `nn.Module`, untouched.
        example_input: a tensor [N, C, H, W], a tuple of arguments, or a dict of keyword arguments.

    Raises:
        TraceError: torch-pruning raises on this network; the message has its own error.
    """
    twin = copied(unwrapped(model)).eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # it follows the graph of gradients
    seen = Observed(twin, batch_size(example_input))
    ours = own_trace(model, example_input)
    order = _order(seen, twin, example_input)
    try:
        with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = example_input if isinstance(example_input, (tuple, Mapping)) else (example_input,)
            ends: set[Any] = set()
            dependencies = tp.DependencyGraph().build_dependency(
                twin, inputs, output_transform=lambda out: _note_ends(out, ends), verbose=False
            )
            sides = _NodeSides(seen, dependencies)
            weights = _layers(seen, sides, order)
    except Exception as error:
        out_of_memory.pass_on(error)
        line = (str(error).strip() or "no message").splitlines()[0]
        raise TraceError(
            f"torch-pruning cannot trace this network: {type(error).__name__}: {line}\n"
            "  Use slimkit's own tracing pass, the default."
        ) from error
    for node in dependencies.module2node.values():
        own = sides.of(node.module, outputs=True) if node.grad_fn in ends else None
        if own is not None:
            seen.names.freeze_output(own)
    _works(seen, ours, weights)
    return assemble(seen)


def _note_ends(out: Any, ends: set[Any]) -> Any:
    ends |= {tensor.grad_fn for tensor in tensors(out)}
    return out


def _order(seen: Observed, model: nn.Module, example_input: Example) -> list[nn.Module]:
    """Return the layers with channels in order of execution."""
    called: dict[nn.Module, None] = {}

    def note(module: nn.Module, given: Tensor, out: Tensor) -> None:
        called[module] = None

    layers = [module for module in seen.at.modules.values() if isinstance(module, LAYERS)]
    with torch.inference_mode(False), torch.no_grad(), heard(layers, note):
        call(model, example_input)
    return list(called)


def _works(seen: Observed, ours: Graph, weights: Mapping[str, Sides]) -> None:
    """Note the multiply-adds that our own pass has seen: torch-pruning knows of none, nor of products of activations.

    Args:
        seen: to note them in.
        ours: the graph of our own pass, whose units are named here by a dimension that they index.
        weights: name of a weight -> the names of its outputs and inputs.
    """
    stays = seen.names.fresh(1)
    seen.names.freeze(stays, "", "stays by our own pass")
    names = stays.repeat(ours.units + 1)  # the last is for index -1
    for axis in reversed(ours.axes):
        removable = axis.unit_of >= 0
        names[axis.unit_of[removable]] = seen.named(seen.tensors[axis.tensor], axis.dim)[removable]
    for work in ours.works:
        own = weights.get(work.weight or "", ())
        seen.works.append(
            (work.layer, work.weight, (*own, *(names[side] for side in work.sides[len(own) :])), work.each)
        )


class _NodeSides:
    """A name for every index of every side of every node, tied along the dependencies."""

    def __init__(self, seen: Observed, dependencies: Any) -> None:
        self.seen = seen
        self.graph = dependencies
        self.names: dict[NodeSide, dict[int, int]] = {}
        self.pairs: list[tuple[int, int]] = []
        waiting = []
        for node in dependencies.module2node.values():
            pruner = dependencies.get_pruner_of_module(node.module)
            for function, size in (
                (pruner.prune_out_channels, dependencies.get_out_channels(node)),
                (pruner.prune_in_channels, dependencies.get_in_channels(node)),
            ):
                if size is not None and (node, function) not in self.names:
                    waiting.append(((node, function), self._new((node, function), range(size))))
        while waiting:  # nodes without a size of their own get the indices that their neighbours send
            side, indices = waiting.pop()
            for dependency in side[0].dependencies:
                if dependency.is_triggered_by(side[1]):
                    target = (dependency.target, dependency.handler)
                    new = self._tie(side, target, _send(dependency, indices))
                    if new:
                        waiting.append((target, new))
        if self.pairs:
            a, b = torch.tensor(self.pairs).T
            seen.names.tie(a, b)

    def _new(self, side: NodeSide, indices: Any) -> list[int]:
        """Name the indices of a side that have no name yet, and return them."""
        known = self.names.setdefault(side, {})
        new = [index for index in indices if index not in known]
        for index, name in zip(new, self.seen.names.fresh(len(new)).tolist(), strict=True):
            known[index] = name
        return new

    def _tie(self, source: NodeSide, target: NodeSide, pairs: list[tuple[int, int]]) -> list[int]:
        new = self._new(target, dict.fromkeys(there for _, there in pairs))
        ours, theirs = self.names[source], self.names[target]
        self.pairs += [(ours[here], theirs[there]) for here, there in pairs]
        return new

    def of(self, module: Any, outputs: bool) -> Tensor | None:
        """Return the names of the output or input channels of a module, None where it is in no dependency."""
        node = self.graph.module2node.get(module)
        if node is None:
            return None
        pruner = self.graph.get_pruner_of_module(module)
        known = self.names.get((node, pruner.prune_out_channels if outputs else pruner.prune_in_channels), {})
        return torch.tensor([known[index] for index in sorted(known)]) if known else None


def _send(dependency: Any, indices: list[int]) -> list[tuple[int, int]]:
    """Return the pairs (index at the source, index at the target) of a dependency."""
    sent = [tp._helpers._HybridIndex(idx=index, root_idx=index) for index in indices]
    for mapping in dependency.index_mapping:
        if mapping is not None:
            sent = mapping(sent)
    return [(index.root_idx, index.idx) for index in sent]


def _layers(seen: Observed, sides: _NodeSides, order: Sequence[nn.Module]) -> dict[str, Sides]:
    """Tie the dimensions of parameters to the names of the sides they belong to; return those of weights."""
    names, weights = seen.names, {}
    for module in order:
        if isinstance(module, BATCH_NORMS):
            seen.norms[seen.name_of.get(id(module.weight), "")] = None
        else:
            weights[seen.name_of[id(module.weight)]] = _weighted(seen, sides, module)
    for node in sides.graph.module2node.values():
        module = node.module
        own = sides.of(module, outputs=True)
        if own is None:
            continue
        if node.type in KEPT:
            names.freeze(own, seen.at.paths.get(id(module), ""), KEPT[node.type])
        elif isinstance(module, (*BATCH_NORMS, nn.PReLU)):
            _vectors(seen, module, own)
        elif isinstance(module, nn.Parameter) and node.pruning_dim is not None:
            names.tie(seen.named(module, node.pruning_dim), own)
    _folds(seen, sides)
    return weights


def _weighted(seen: Observed, sides: _NodeSides, module: Any) -> Sides:
    """Tie the dimensions of a weight; return the names of its outputs and inputs."""
    path, weight = seen.at.paths[id(module)], module.weight
    transposed, groups = getattr(module, "transposed", False), getattr(module, "groups", 1)
    into, out = (0, 1) if transposed else (1, 0)
    makes, reads = seen.named(weight, out), seen.named(weight, into)
    widths = (len(makes) * (groups if transposed else 1), len(reads) * (1 if transposed else groups))
    made, read = (_checked(path, sides.of(module, outputs), widths[not outputs]) for outputs in (True, False))
    depthwise = widths[0] == groups > 1 and len(reads) == (groups if transposed else 1)
    if not depthwise:  # it passes its channels on
        seen.names.produced.append((makes, path))
    if made is None or read is None:
        seen.names.freeze(makes, path, "is not in torch-pruning's graph")
    elif depthwise:
        seen.names.tie(made, reads if transposed else makes)
        seen.names.tie(read, reads if transposed else makes)
    else:
        made_by_group, read_by_group = (_of_groups(seen, names, groups) for names in (made, read))
        seen.names.tie(made_by_group if transposed else made, makes)
        seen.names.tie(read if transposed else read_by_group, reads)
        seen.names.contracted.append(reads)
        seen.names.arrived.append(read)
    seen.biases[seen.name_of[id(weight)]] = [None if module.bias is None else seen.name_of[id(module.bias)]]
    if module.bias is not None and made is not None:
        seen.names.tie(seen.named(module.bias, 0), made)
    return makes, reads


def _checked(path: str, names: Tensor | None, width: int) -> Tensor | None:
    if names is not None and len(names) != width:
        raise ValueError(f"{path!r} has {width} channels, of which it counts {len(names)}")
    return names


def _of_groups(seen: Observed, names: Tensor, groups: int) -> Tensor:
    """Tie the j-th channel of every convolution group; return those of the first."""
    parts = names.reshape(groups, -1)
    seen.names.tie(parts, parts[:1])
    return parts[0]


def _vectors(seen: Observed, module: nn.Module, own: Tensor) -> None:
    for vector in (*module._parameters.values(), *module._buffers.values()):
        if vector is not None and vector.dim() == 1 and len(vector) == len(own):
            seen.names.tie(seen.named(vector, 0), own)


def _folds(seen: Observed, sides: _NodeSides) -> None:
    """Note which BatchNorm is the only reader of a convolution or linear layer."""
    for node in sides.graph.module2node.values():
        only = node.outputs[0].module if len(node.outputs) == 1 else None
        mean = getattr(only, "running_mean", None)
        if isinstance(node.module, (nn.Linear, *CONVOLUTIONS)) and mean is not None:
            seen.absorbs[seen.name_of[id(node.module.weight)]] = seen.name_of[id(mean)]
    for weight, mean in seen.absorbs.items():
        seen.uses[weight] = 1
        seen.uses[mean] = seen.uses.get(mean, 0) + 1
