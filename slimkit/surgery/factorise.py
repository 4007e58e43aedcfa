"""Trained layers as two thin ones by the singular values of their weights, Khodak et al. 2021, arXiv:2105.01029.

Spectral initialisation of trained weights: with W = U S V', cut to rank r, the layers get U S^1/2 and S^1/2 V',
the best product of that rank (Eckart & Young 1936). Unlike the code of the paper the axes of a convolution are
put in order first, so that the two layers in a row compute that product.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import provenance
from slimkit.errors import ArchitectureError
from slimkit.models.factors import Factors, matrix, pair
from slimkit.modules import copied
from slimkit.provenance import Factorised


def matrices(layer: nn.Module) -> Tensor:
    """Return the weight of a layer as float64 [groups, rows, columns], `models.factors` says which."""
    weight = layer.get_parameter("weight").detach().double()
    if isinstance(layer, nn.Linear):
        return weight[None]
    assert isinstance(layer, nn.Conv2d)
    outputs, inputs, height, width = weight.shape
    by_group = weight.view(layer.groups, outputs // layer.groups, inputs, height, width)
    return by_group.transpose(2, 3).reshape(layer.groups, outputs // layer.groups * height, inputs * width)


def singular_values(layer: nn.Module) -> Tensor:
    """Return the singular values of a layer, descending: float64 [groups, limit]."""
    values: Tensor = torch.linalg.svdvals(matrices(layer))
    return values


@torch.no_grad()
def split(layer: nn.Module, rank: int) -> Factors:
    """Return a layer as two thin ones: the best approximation of its weight of that rank.

    Raises:
        ArchitectureError: the layer cannot be two, or has no such rank.
    """
    thin = pair(layer, rank).to_empty(device=layer.get_parameter("weight").device)
    u, s, v = torch.linalg.svd(matrices(layer), full_matrices=False)
    root = s[:, :rank].sqrt()
    left, right = u[:, :, :rank] * root[:, None, :], root[:, :, None] * v[:, :rank]
    first, second = thin[0].get_parameter("weight"), thin[1].get_parameter("weight")
    if isinstance(layer, nn.Linear):
        first.copy_(right[0])
        second.copy_(left[0])
    else:
        first.copy_(right.reshape(first.shape))  # rows: group, rank; columns: input channel, width
        outputs, _, height, _ = second.shape
        rows = left.view(len(left), outputs // len(left), height, rank)
        second.copy_(rows.transpose(2, 3).reshape(second.shape))
    bias = layer.bias
    if isinstance(bias, nn.Parameter):
        thin[1].get_parameter("bias").copy_(bias)
    for parameter in thin.parameters():
        parameter.requires_grad_(layer.get_parameter("weight").requires_grad)
    return thin


@torch.no_grad()
def whole(thin: Factors) -> nn.Module:
    """Return two thin layers as the one that computes the same."""
    first, second = thin[0], thin[1]
    factors = [second.get_parameter("weight").detach().double(), first.get_parameter("weight").detach().double()]
    made: dict[str, Any] = {"device": "meta", "dtype": second.get_parameter("weight").dtype}  # so that nothing is drawn
    if isinstance(first, nn.Linear):
        assert isinstance(second, nn.Linear)
        layer: nn.Module = nn.Linear(first.in_features, second.out_features, second.bias is not None, **made)
        product = factors[0] @ factors[1]
    else:
        assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
        layer = _convolution(first, second, made)
        groups, outputs, height = first.groups, second.out_channels // first.groups, second.kernel_size[0]
        left = factors[0].view(groups, outputs, thin.rank, height)
        right = factors[1].view(groups, thin.rank, first.in_channels // groups, first.kernel_size[1])
        product = torch.einsum("gorh,griw->goihw", left, right).flatten(0, 1)
    layer = layer.to_empty(device=product.device)
    layer.get_parameter("weight").copy_(product)
    if second.bias is not None:
        layer.get_parameter("bias").copy_(second.get_parameter("bias"))
    for parameter in layer.parameters():
        parameter.requires_grad_(second.get_parameter("weight").requires_grad)
    return layer.train(thin.training)


def _convolution(first: nn.Conv2d, second: nn.Conv2d, made: dict[str, Any]) -> nn.Conv2d:
    word = first.padding if isinstance(first.padding, str) else None
    return nn.Conv2d(
        first.in_channels,
        second.out_channels,
        (second.kernel_size[0], first.kernel_size[1]),
        stride=(second.stride[0], first.stride[1]),
        padding=word or (int(second.padding[0]), int(first.padding[1])),
        dilation=(second.dilation[0], first.dilation[1]),
        groups=first.groups,
        bias=second.bias is not None,
        padding_mode=first.padding_mode,
        **made,
    )


def factorise(model: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """Return a copy in which the layers named are two thin ones each; its provenance says so.

    Args:
        model: not changed.
        ranks: path of a layer -> rank; of a convolution in groups, of each group.

    Raises:
        ArchitectureError: no such layer, it cannot be two, or its weight is shared with another.
    """
    unfit = left_dense(model)
    thin = copied(model)
    for path, rank in ranks.items():
        if path in unfit or path not in dict(model.named_modules()):
            raise ArchitectureError(f"{path!r} cannot be two thin layers: {unfit.get(path, 'there is no such layer')}.")
        replace_module(thin, path, split(thin.get_submodule(path), rank))
    known = provenance.of(model)
    provenance.attach(thin, replace(known, edits=(*known.edits, Factorised(ranks=dict(ranks)))))
    return thin


def merge(model: nn.Module) -> nn.Module:
    """Return a copy in which every pair of thin layers is one layer again, of the same function.

    Raises:
        ArchitectureError: channels were removed, or weights masked, after the layers were made two.
    """
    dense = copied(model)
    for path in factorised(model):
        replace_module(dense, path, whole(_factors(dense, path)))
    known = provenance.of(model)
    edits = list(known.edits)
    while edits and isinstance(edits[-1], Factorised):
        edits.pop()
    if any(isinstance(edit, Factorised) for edit in edits):
        raise ArchitectureError(
            "the network was changed after its layers were made two, so they cannot be one again.\n  Merge first"
        )
    provenance.attach(dense, replace(known, edits=tuple(edits)))
    return dense


def factorised(model: nn.Module) -> list[str]:
    """Return the paths of the layers that are two thin ones."""
    return [path for path, module in model.named_modules() if isinstance(module, Factors)]


def left_dense(model: nn.Module) -> dict[str, str]:
    """Return path -> reason of every layer with a weight matrix that cannot be two thin ones."""
    uses: dict[int, int] = {}
    places: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[id(module)] = places.get(id(module), 0) + 1
    thin = set()
    for module in model.modules():
        if isinstance(module, Factors):
            thin |= {id(module[0]), id(module[1])}
        for parameter in module._parameters.values():
            if parameter is not None:
                uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    reasons = {}
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None and matrix(module) is not None:
            reasons[path] = "its weight is computed from other parameters"
        if weight is None or weight.dim() < 2:
            continue
        if not path:
            reasons[path] = "it is the whole network"
        elif id(module) in thin:
            reasons[path] = "it is one of two thin layers already"
        elif matrix(module) is None:
            reasons[path] = f"a {type(module).__name__} is neither Linear nor Conv2d"
        elif uses[id(weight)] > 1 or places[id(module)] > 1:
            reasons[path] = "its weight is shared"
    return reasons


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another, in place."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _factors(model: nn.Module, path: str) -> Factors:
    module = model.get_submodule(path)
    assert isinstance(module, Factors)
    return module
