"""A layer as two thin ones: how the pair is built, Khodak et al. 2021, arXiv:2105.01029.

The weight of a convolution [out, in / g, kh, kw] of g groups is, for each group, a matrix of out / g * kh rows
and in / g * kw columns; of rank r it is a 1 x kw convolution to r channels a group, then a kh x 1 one to the
outputs. Stride, padding and dilation along the width belong to the first, along the height to the second. A
linear layer [out, in] is its own matrix.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from slimkit.errors import ArchitectureError


class Factors(nn.Sequential):
    """Two thin layers in the place of one: the first makes `rank` channels a group of its input."""

    @property
    def groups(self) -> int:
        """Groups of the convolutions; 1 for linear layers."""
        first = self[0]
        return first.groups if isinstance(first, nn.Conv2d) else 1

    @property
    def rank(self) -> int:
        """Channels between the two layers, of one group."""
        return len(self[0].get_parameter("weight")) // self.groups


@dataclass(frozen=True)
class Matrix:
    """The matrices of one layer: how many, and their sizes; `limit` is the highest rank they can have."""

    groups: int
    rows: int
    columns: int

    @property
    def limit(self) -> int:
        """Highest rank."""
        return min(self.rows, self.columns)

    def params(self, rank: int) -> int:
        """Weights of the two thin layers."""
        return self.groups * rank * (self.rows + self.columns)


def matrix(layer: nn.Module) -> Matrix | None:
    """Return the matrices of a layer that can be two; None for any other module.

    Only plain `nn.Linear` and `nn.Conv2d`: who derives a class from them may do anything with the weight.
    """
    if type(layer) is nn.Linear:
        return Matrix(1, layer.out_features, layer.in_features)
    if type(layer) is nn.Conv2d:
        groups, (height, width) = layer.groups, layer.kernel_size
        return Matrix(groups, layer.out_channels // groups * height, layer.in_channels // groups * width)
    return None


def pair(layer: nn.Module, rank: int) -> Factors:
    """Return two thin layers in the place of one, of its type; on the meta device: without values.

    Raises:
        ArchitectureError: the layer is not of a kind that can be two, or has no such rank.
    """
    found = matrix(layer)
    if found is None:
        raise ArchitectureError(f"a {type(layer).__name__} cannot be made of two thin layers: only Linear and Conv2d.")
    if type(rank) is not int or not 1 <= rank <= found.limit:
        raise ArchitectureError(f"rank is {rank}: a matrix of {found.rows} x {found.columns} has 1 to {found.limit}.")
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    bias = layer.bias is not None
    made: dict[str, Any] = {"device": "meta", "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        first: nn.Module = nn.Linear(layer.in_features, rank, bias=False, **made)
        second: nn.Module = nn.Linear(rank, layer.out_features, bias=bias, **made)
    else:
        first, second = _convolution(layer, rank, 1, False, made), _convolution(layer, rank, 0, bias, made)
    return Factors(first, second).train(layer.training)


def _convolution(layer: nn.Conv2d, rank: int, dimension: int, bias: bool, made: dict[str, Any]) -> nn.Conv2d:
    """Return the thin convolution along the height (dimension 0: to the outputs) or the width (1: from the inputs)."""

    def along(values: tuple[int, ...], other: int) -> tuple[int, int]:
        return (values[0], other) if dimension == 0 else (other, values[1])

    middle = rank * layer.groups
    return nn.Conv2d(
        layer.in_channels if dimension else middle,
        middle if dimension else layer.out_channels,
        along(layer.kernel_size, 1),
        stride=along(layer.stride, 1),
        padding=layer.padding if isinstance(layer.padding, str) else along(layer.padding, 0),
        dilation=along(layer.dilation, 1),
        groups=layer.groups,
        bias=bias,
        padding_mode=layer.padding_mode,
        **made,
    )
