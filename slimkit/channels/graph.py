"""What lives and dies together in a network: units, groups, and what must stay and why.

U = units of the network; a unit is removed whole or not at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One dimension of one parameter or buffer, and the unit that each of its indices belongs to.

    Attributes:
        tensor: dotted name of the parameter or buffer.
        dim: the dimension.
        units: [size of dim], the unit of each index, -1 where the index must stay.
        reads: the dimension is summed over, as a convolution's input channels are.
    """

    tensor: str
    dim: int
    units: Tensor
    reads: bool


@dataclass(frozen=True)
class Group:
    """Units that index the same parameters: what a person calls a layer, or the stages of a residual stream.

    Attributes:
        name: the layer that first makes these channels.
        layers: all layers that make them.
        norms: names of the gammas (BatchNorm weights) that scale them.
        units: [n], in the order of the first layer's channels.
        per_unit: channels of the first layer that one unit holds: above 1 where grouped convolutions tie them.
    """

    name: str
    layers: tuple[str, ...]
    norms: tuple[str, ...]
    units: Tensor
    per_unit: int


@dataclass(frozen=True)
class Kept:
    """Channels of a layer that cannot be removed, and the reason."""

    layer: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Width:
    """A number in the code of a module that repeats a count of channels, so that it has to follow the mask.

    Attributes:
        layer: path of the module.
        values: what the code was seen to use: one count, or the sizes of a split.
        parts: per value [value], the unit of each channel counted, -1 where it must stay.
    """

    layer: str
    values: tuple[int, ...]
    parts: tuple[Tensor, ...]


@dataclass(frozen=True)
class Work:
    """The multiply-adds of one convolution or matrix product: `each` x kept outputs x kept inputs.

    Attributes:
        layer: path of the module.
        weight: name of the weight, None where both factors are activations.
        outputs, inputs: [n], the unit of each channel, -1 where it must stay.
        each: multiply-adds for one output and one input channel, at the traced input size and one image.
    """

    layer: str
    weight: str | None
    outputs: Tensor
    inputs: Tensor
    each: float


@dataclass(frozen=True)
class Graph:
    """The channels of a network, as one forward pass showed them.

    Attributes:
        units: number of removable units, U.
        axes: all dimensions of parameters and buffers that hold removable units.
        groups: the units by layer, in order of execution.
        kept: what cannot be removed, by layer and reason.
        widths: numbers in module attributes that follow the mask.
        works: where the multiply-adds are.
        shapes: shape of every parameter.
        folds: weight of a consumer -> name of the bias, or of the BatchNorm mean, that can absorb a constant.
    """

    units: int
    axes: tuple[Axis, ...]
    groups: tuple[Group, ...]
    kept: tuple[Kept, ...]
    widths: tuple[Width, ...]
    works: tuple[Work, ...]
    shapes: Mapping[str, tuple[int, ...]]
    folds: Mapping[str, str]

    @cached_property
    def total(self) -> int:
        """Channels of the network, removable or not."""
        return self.units + sum(kept.channels for kept in self.kept)

    @cached_property
    def by_tensor(self) -> dict[str, list[Axis]]:
        """The axes of each parameter or buffer."""
        found: dict[str, list[Axis]] = {}
        for axis in self.axes:
            found.setdefault(axis.tensor, []).append(axis)
        return found

    @cached_property
    def has_norm(self) -> Tensor:
        """Bool [U]: a BatchNorm scales the unit."""
        found = torch.zeros(self.units, dtype=torch.bool)
        for group in self.groups:
            if group.norms:
                found[group.units] = True
        return found

    def macs(self, keep: Tensor) -> int:
        """Return the multiply-adds of one image with only the units where `keep` (bool [U]) is true."""
        stays = torch.cat([keep, torch.ones(1, dtype=torch.bool)])  # index -1: must stay
        return round(
            sum(w.each * int(stays[w.outputs].sum()) * int(stays[w.inputs].sum()) for w in self.works)
        )

    def params(self, keep: Tensor) -> int:
        """Return the number of parameters with only the units where `keep` (bool [U]) is true."""
        stays = torch.cat([keep, torch.ones(1, dtype=torch.bool)])
        total = 0
        for name, shape in self.shapes.items():
            sizes = list(shape)
            for axis in self.by_tensor.get(name, []):
                sizes[axis.dim] = int(stays[axis.units].sum())
            total += torch.Size(sizes).numel()
        return total

    def describe(self) -> list[dict[str, Any]]:
        """Return one JSON-able row per group: name, layers, channels, whether a BatchNorm scales it."""
        return [
            {"name": g.name, "layers": list(g.layers), "channels": len(g.units), "norm": bool(g.norms)}
            for g in self.groups
        ]
