"""Network and mask to a new, smaller network."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimkit import provenance
from slimkit.channels import Graph, stays
from slimkit.channels.written import Place, repeats, write
from slimkit.errors import MaskError
from slimkit.modules import copied, unwrapped
from slimkit.selection.mask import Mask

NORMS = (nn.modules.batchnorm._NormBase,)
CONVOLUTIONS = (nn.modules.conv._ConvNd,)


def kept_indices(graph: Graph, mask: Mask) -> dict[str, dict[int, Tensor]]:
    """Return, for every parameter and buffer that changes, the indices kept along each dimension.

    Whatever has the shape of a parameter (momentum, an average of weights) is sliced by the same indices.

    Raises:
        MaskError: the mask does not belong to the graph, or empties a group.
    """
    if not isinstance(mask, Mask):
        raise MaskError(f"mask is {type(mask).__name__}, not a mask.\n  Give slimkit.Mask(keep), of bool [units]")
    mask.check_fits(graph)
    found: dict[str, dict[int, Tensor]] = {}
    known: dict[int, Tensor] = {}  # axes of the same channels share their units
    for axis in graph.axes:
        index = known.get(id(axis.unit_of))
        if index is None:
            index = known[id(axis.unit_of)] = stays(mask.keep, axis.unit_of).nonzero().flatten()
        if len(index) < len(axis.unit_of):
            found.setdefault(axis.tensor, {})[axis.dim] = index
    return found


def take(tensor: Tensor, indices: dict[int, Tensor]) -> Tensor:
    """Return a copy of a tensor with only the given indices along each dimension, strides packed."""
    for dim, index in indices.items():
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def remove(model: nn.Module, graph: Graph, mask: Mask) -> nn.Module:
    """Return a new network without the units that the mask removes; the input is untouched.

    Parameters and buffers are sliced, numbers in module attributes that repeat a width follow. Weights are
    inherited; what a removed channel contributed is lost (see `slimkit.recovery.fold`).

    Args:
        model: the network that `graph` was traced from; of a compiled or wrapped one what is inside.
        graph: its channels.
        mask: [U], at least one unit kept in every group.

    Raises:
        MaskError: the mask does not belong to the graph, or empties a group; the graph is of another network.
    """
    graph.check_of(model)
    model = unwrapped(model)
    modules = dict(model.named_modules())
    indices = kept_indices(graph, mask)
    memo: dict[int, Any] = {}
    with torch.no_grad():
        for name, tensor in _named_tensors(modules):
            if name in indices:
                memo[id(tensor)] = _like(tensor, take(tensor.detach(), indices[name]))
    slim = copied(model, memo)  # the memo stands in for every dense tensor that would be copied
    small = dict(slim.named_modules())
    changes = {**_layer_attributes(small), **_widths(modules, graph, mask)}
    attributes: dict[str, dict[str, Any]] = {}
    for (path, attribute), value in changes.items():
        if getattr(small[path], attribute) != value:
            setattr(small[path], attribute, value)
            attributes.setdefault(path, {})[attribute] = list(value) if isinstance(value, tuple) else value
    _write_nodes(small, graph, mask)
    _record(model, slim, graph, mask, attributes)
    return slim


def _named_tensors(modules: dict[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Give every parameter and buffer once, under its first name."""
    seen: set[int] = set()
    for path, module in modules.items():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield (f"{path}.{name}" if path else name), tensor


def _like(tensor: Tensor, data: Tensor) -> Tensor:
    """Return data as what the tensor was: a parameter with its flags, or a buffer."""
    if isinstance(tensor, nn.Parameter):
        data = nn.Parameter(data, requires_grad=tensor.requires_grad)
    vars(data).update(vars(tensor))
    return data


def _layer_attributes(modules: dict[str, nn.Module]) -> dict[tuple[str, str], Any]:
    """Return the attributes of torch's own layers that repeat the shape of their weight, as it is now."""
    found: dict[tuple[str, str], Any] = {}
    for path, module in modules.items():
        if isinstance(module, CONVOLUTIONS):
            rows, columns = int(module.weight.shape[0]), int(module.weight.shape[1])
            groups = module.groups
            if groups == module.in_channels > 1:  # depthwise: as many groups as channels
                groups = rows if module.transposed else rows * groups // module.out_channels
            found[path, "groups"] = groups
            found[path, "in_channels"] = rows if module.transposed else columns * groups
            found[path, "out_channels"] = columns * groups if module.transposed else rows
        elif isinstance(module, nn.Linear):
            found[path, "out_features"], found[path, "in_features"] = map(int, module.weight.shape)
        elif isinstance(module, nn.Embedding):
            found[path, "embedding_dim"] = int(module.weight.shape[1])
        elif isinstance(module, NORMS) and (vector := _vector(module)) is not None:
            found[path, "num_features"] = len(vector)
        elif isinstance(module, nn.RNNBase):
            found[path, "input_size"] = module.get_parameter("weight_ih_l0").shape[1]
        elif isinstance(module, nn.PReLU):
            found[path, "num_parameters"] = len(module.weight)
    return found


def _vector(norm: Any) -> Tensor | None:
    vector: Tensor | None = norm.weight if norm.weight is not None else norm.running_mean
    return vector


def _widths(modules: dict[str, nn.Module], graph: Graph, mask: Mask) -> dict[tuple[str, str], Any]:
    """Return the new values of module attributes that equal a count of channels that the code used."""
    found: dict[tuple[str, str], Any] = {}
    for width in graph.widths:
        module = modules[width.layer]
        after = tuple(int(stays(mask.keep, part).sum()) for part in width.parts)
        if after == width.values or width.node or isinstance(module, (nn.Linear, *CONVOLUTIONS)):
            continue
        for attribute, value in vars(module).items():
            if repeats(value, width.values) and not (isinstance(module, NORMS) and attribute != "num_features"):
                found[width.layer, attribute] = after[0] if type(value) is int else type(value)(after)
    return found


def _write_nodes(modules: dict[str, nn.Module], graph: Graph, mask: Mask) -> None:
    """Let numbers written into the nodes of fx networks follow."""
    changes: dict[str, list[tuple[str, Place, list[int]]]] = {}
    for width in graph.widths:
        after = [int(stays(mask.keep, part).sum()) for part in width.parts]
        if width.node and tuple(after) != width.values:
            changes.setdefault(width.layer, []).append((width.node, width.place, after))
    for path, numbers in changes.items():
        module = modules[path]
        assert isinstance(module, fx.GraphModule)
        write(module, numbers)


def _record(model: nn.Module, slim: nn.Module, graph: Graph, mask: Mask, attributes: dict[str, dict[str, Any]]) -> None:
    before = provenance.of(model)
    kept = {
        group.name: mask.keep[group.members].nonzero().flatten().tolist()
        for group in graph.groups
        if not bool(mask.keep[group.members].all())
    }
    edit = provenance.Narrowed(kept=kept, attributes=attributes)
    provenance.attach(slim, replace(before, edits=(*before.edits, edit)))
