"""The graph of an exported program -> a network of ordinary modules at their original paths.

torch.export leaves ATen operators with their weights as attributes, and freezes whether the network trains.
Convolutions, linear layers, batch normalisation and dropout become modules again, which train and evaluate;
everything else stays an operator of an fx graph.
"""

from collections import OrderedDict
from collections.abc import Iterator
from operator import attrgetter, getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from slimkit import provenance as provenances
from slimkit.errors import CheckpointError
from slimkit.models import memory
from slimkit.models.exported_layers import DROPOUTS, RECURRENT, Layers, arguments
from slimkit.models.exported_wrapped import unwrap
from slimkit.returned import read_key

aten = torch.ops.aten

_RESHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_EXPANDS = (aten.expand.default,)


class ExportedNetwork(fx.GraphModule):
    """A network that was an exported program; unlike its parent class it keeps its provenance when copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> fx.GraphModule:
        result = super().__deepcopy__(memo)
        provenances.attach(result, provenances.of(self))
        return result


def network(program: ExportedProgram, name: object) -> ExportedNetwork:
    """Turn an exported program into a trainable network, in eval mode, that takes a batch of any size.

    Args:
        program: the program, read without running anything of it.
        name: of its file, for messages.

    Raises:
        CheckpointError: it takes no tensor of a batch, or something else beside, or works for one batch size only.
    """
    lifted = program.module(check_guards=False)
    unwrap(lifted, name)
    inputs = [node.meta.get("val") for node in lifted.graph.nodes if node.op == "placeholder"]
    example = inputs[0] if inputs else None
    others = [one for one in inputs if not isinstance(one, Tensor)]
    if others and len(others) < len(inputs):
        kind = "None" if others[0] is None else type(others[0]).__name__
        raise CheckpointError(
            f"{name}: the exported program takes {kind} beside its tensors; what is read again takes tensors alone.\n"
            "  Bind it in a module of your own, whose `forward` takes the tensors, and export that."
        )
    if not isinstance(example, Tensor) or example.dim() < 2:
        what = f"a tensor of {example.dim()} dimensions" if isinstance(example, Tensor) else "no tensor"
        raise CheckpointError(
            f"{name}: the exported program takes {what}; slimkit slims networks of a batch (N, C, ...).\n"
            "  Export the part of it that does."
        )
    layers = Layers(lifted)
    graph, image = _copy(lifted, layers)
    frozen = example.shape[0] if len(inputs) == 1 and isinstance(example.shape[0], int) else None
    if frozen is not None:
        _free_batch(graph, image, frozen)
    _free_channels(graph)
    graph.eliminate_dead_code(_is_impure)
    graph.lint()
    _check_recurrent(graph, name)
    _check_weight_norms(layers.root, graph, name)
    _check_random(graph, name)
    result = ExportedNetwork(layers.root, graph, "ExportedNetwork").eval()
    if frozen is not None:
        _check_batch(result, tuple(int(size) for size in example.shape), name)
    return result


def in_training(program: ExportedProgram) -> str | None:
    """Return an operator that a network calls in training mode although it was exported in eval mode, or None.

    Read again it would be a module, which evaluates.
    """
    for node in program.graph.nodes:
        given = arguments(node)
        if (given.get("train") or given.get("training")) and (node.target in DROPOUTS or given.get("running_mean")):
            return str(node.target)
    return None


def image_shape(exported: fx.GraphModule) -> tuple[int, ...] | None:
    """Return the shape, such as (C, H, W), of the image that a network was exported with; None of several inputs."""
    inputs = [node for node in exported.graph.nodes if node.op == "placeholder"]
    return None if len(inputs) > 1 else tuple(_hint(size) for size in inputs[0].meta["val"].shape[1:])


def classes(exported: fx.GraphModule) -> int | None:
    """Return the width of the output, None where it is not one tensor [N, classes]."""
    (output,) = exported.graph.output_node().args
    value = output.meta.get("val") if isinstance(output, fx.Node) else None
    return _hint(value.shape[1]) if isinstance(value, Tensor) and value.dim() == 2 else None


def _copy(lifted: fx.GraphModule, layers: Layers) -> tuple[fx.Graph, fx.Node]:
    """Copy the graph with calls of modules for the operators that have become one."""
    graph = fx.Graph()
    made: dict[fx.Node, Any] = {}
    images: list[fx.Node] = []
    for node in lifted.graph.nodes:
        if node.op == "call_module" and node.target == "_guards_fn":
            continue
        if node.op == "output":
            specification = lifted.graph._codegen.pytree_info.out_spec  # type: ignore[attr-defined]
            (flat,) = node.args
            graph.output(_nested(specification, iter([_renew(value, made) for value in flat])))
            continue
        if _counts_batches(node):
            continue
        call = layers.of(node) if node.op == "call_function" else None
        if call is not None:
            path, given = call
            new = graph.call_module(path, fx.map_arg(given, lambda old: made[old]))
            new.meta = dict(node.meta)
            of_norm = isinstance(node.meta.get("val"), tuple | list) and node.target not in RECURRENT
            made[node] = (new,) if of_norm else new
            continue
        if node.target is getitem and isinstance(made.get(node.args[0]), tuple):
            made[node] = made[node.args[0]][node.args[1]]  # native batch norm gives a tuple
            continue
        made[node] = graph.node_copy(node, lambda old: made[old])
        if node.op == "placeholder":
            images.append(made[node])
    return graph, images[0]


def _nested(specification: pytree.TreeSpec, values: Iterator[Any]) -> Any:
    """Return values in the nest that a file describes, whose keys have stood in JSON."""
    if specification.is_leaf():
        return next(values)
    parts = [_nested(part, values) for part in specification.children()]
    if specification.type in (dict, OrderedDict):
        return specification.type(zip(map(read_key, specification.context), parts, strict=True))
    return pytree.SUPPORTED_NODES[specification.type].unflatten_fn(parts, specification.context)


def _renew(value: Any, made: dict[fx.Node, Any]) -> Any:
    return made[value] if isinstance(value, fx.Node) else value


def _counts_batches(node: fx.Node) -> bool:
    """Tell whether a node is `num_batches_tracked += 1`, which the BatchNorm module does itself."""
    return (
        node.op == "call_function"
        and node.target in (aten.add_.Tensor, aten.add.Tensor)
        and isinstance(node.args[0], fx.Node)
        and str(node.args[0].target).endswith("num_batches_tracked")
        and not node.users
    )


def _hint(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def _is_impure(node: fx.Node) -> bool:
    """Keep in-place operators and what the network returns; weights nobody reads may go."""
    if node.op in ("placeholder", "output", "call_module"):
        return True
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _free_batch(graph: fx.Graph, image: fx.Node, batch: int) -> None:
    """Where a shape starts with the one batch size that was exported, ask the image for its batch size.

    A view of weights starts with a 1 for other reasons; an expanded one, as of a class token, is one for each image.
    """
    carry = {image}
    with graph.inserting_after(image):
        size = graph.call_function(aten.sym_size.int, (image, 0))
    for node in graph.nodes:
        if node is size:
            continue
        if not carry.isdisjoint(node.all_input_nodes):
            carry.add(node)
        if node.op != "call_function" or len(node.args) < 2:
            continue
        shape = node.args[1]
        known = node.target in _EXPANDS or (node.target in _RESHAPES and node in carry)
        if known and isinstance(shape, list | tuple) and shape and shape[0] == batch:
            node.args = (node.args[0], [size, *shape[1:]], *node.args[2:])
            carry.add(node)
    if not size.users:
        graph.erase_node(size)


def _free_channels(graph: fx.Graph) -> None:
    """Let shapes with a written-out channel count be inferred, so that channels can be removed.

    A view of (N, C, ...) says C again; with -1 there it computes the same, and follows a narrower input.
    """
    for node in graph.nodes:
        shape = node.args[1] if node.op == "call_function" and len(node.args) > 1 else None
        if not isinstance(shape, list | tuple) or len(shape) < 2:
            continue
        shape = list(shape)
        if node.target in _RESHAPES and -1 not in shape:
            # (N, groups, channels of a group, H, W) is a channel shuffle: the groups stay
            dim = 2 if len(shape) == 5 and _smaller(shape[1], shape[2]) else 1
            if isinstance(shape[dim], int):
                shape[dim] = -1
                node.args = (node.args[0], shape, *node.args[2:])
        elif node.target in _EXPANDS and isinstance(node.args[0], fx.Node):
            before = tuple(node.args[0].meta["val"].shape)
            offset = len(shape) - len(before)
            kept = [
                -1 if i >= offset and isinstance(size, int) and size == before[i - offset] else size
                for i, size in enumerate(shape)
            ]
            node.args = (node.args[0], kept, *node.args[2:])


def _smaller(one: Any, other: Any) -> bool:
    return isinstance(one, int) and isinstance(other, int) and one <= other


def _check_recurrent(graph: fx.Graph, name: object) -> None:
    """Refuse recurrent operators that are no module: they do not check that their weights fit.

    Raises:
        CheckpointError: there is one.
    """
    for node in graph.nodes:
        if node.target in RECURRENT:
            raise CheckpointError(
                f"{name}: its weights of {node.target} are not those of one torch.nn layer.\n"
                "  Give its state dict, and `arch`"
            )


def _check_weight_norms(root: nn.Module, graph: fx.Graph, name: object) -> None:
    """Refuse weight norms of other than fitting tensors, beyond which the operator would write.

    Raises:
        CheckpointError: there is one.
    """
    for node in graph.nodes:
        if node.target is not aten._weight_norm.default:
            continue
        given = arguments(node)
        direction, size = (_weight(root, given[name]) for name in ("v", "g"))
        if not _is_weight_norm(direction, size, given["dim"]):
            raise CheckpointError(
                f"{name}: its weights of {node.target} do not fit each other.\n  Give its state dict, and `arch`"
            )


def _weight(root: nn.Module, value: Any) -> Tensor | None:
    """Return the tensor that a value of the graph is, None where it is computed."""
    stored = isinstance(value, fx.Node) and value.op == "get_attr"
    return attrgetter(str(value.target))(root) if stored else None


def _is_weight_norm(direction: Tensor | None, size: Tensor | None, dim: int) -> bool:
    if direction is None or size is None or not (direction.is_contiguous() and size.is_contiguous()):
        return False
    wanted = [count if place == dim else 1 for place, count in enumerate(direction.shape)]
    return direction.dtype == size.dtype and (list(size.shape) == wanted or (dim == -1 and size.numel() == 1))


def _check_random(graph: fx.Graph, name: object) -> None:
    """Refuse operators that draw random numbers: stochastic depth and the like, frozen in training mode.

    Raises:
        CheckpointError: there is one.
    """
    for node in graph.nodes:
        tags = getattr(node.target, "tags", ())
        switched_off = arguments(node).get("training") is False
        if torch.Tag.nondeterministic_seeded in tags and "attention" not in str(node.target) and not switched_off:
            raise CheckpointError(
                f"{name}: draws random numbers ({node.target}) that cannot be switched off.\n"
                "  If it was exported in training mode, export it in eval mode (model.eval()): "
                "slimkit can train it all the same."
            )


def _check_batch(result: nn.Module, shape: tuple[int, ...], name: object) -> None:
    """Make sure that a network exported for one batch size computes the same for others.

    Raises:
        CheckpointError: it does not.
    """
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), memory.watched():
            known = pytree.tree_leaves(result(images))
            more = pytree.tree_leaves(result(torch.cat([images, images[:1]])))
        for one, two in zip(known, more, strict=True):
            torch.testing.assert_close(two[: shape[0]], one, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(two[shape[0] :], one[:1], rtol=1e-3, atol=1e-4)
    except (RuntimeError, AssertionError, ValueError, IndexError):
        raise CheckpointError(
            f"{name}: was exported for batches of {shape[0]} only, and its graph depends on that.\n"
            "  Export it with a free batch size: "
            "torch.export.export(model, (example,), dynamic_shapes=({0: Dim.DYNAMIC},))"
        ) from None
