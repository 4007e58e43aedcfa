"""What lives and dies together in a network: units, groups, and what must stay and why.

U = units of the network; a unit is removed whole or not at all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn

from slimkit.channels.counts import Counts
from slimkit.channels.coupled import Coupled
from slimkit.errors import MaskError
from slimkit.modules import named_tensors, unwrapped


@dataclass(frozen=True)
class Axis:
    """One dimension of one parameter or buffer, and the unit that each of its indices belongs to.

    Attributes:
        tensor: dotted name of the parameter or buffer.
        dim: the dimension.
        unit_of: [size of dim], the unit of each index, -1 where the index must stay.
        reads: the dimension is summed over, as a convolution's input channels are.
        divides: something is divided by it, so that it stays as it is where a channel is silent: 0 / 0 is no silence.
    """

    tensor: str
    dim: int
    unit_of: Tensor
    reads: bool
    divides: bool = False


@dataclass(frozen=True)
class Group:
    """Units that index the same parameters: what a person calls a layer, or the stages of a residual stream.

    Attributes:
        name: the layer that first makes these channels.
        layers: all layers that make them.
        norms: names of the gammas (BatchNorm weights) that scale them.
        members: [n], its units, in the order of the first layer's channels.
        per_unit: channels of the first layer in one unit; above 1 where grouped convolutions, say, tie them.
        common: largest number that divides the channels of one unit in every layer that makes or reads it: 1 where a
            layer makes four parts of equal size and another one reads one of them.
    """

    name: str
    layers: tuple[str, ...]
    norms: tuple[str, ...]
    members: Tensor
    per_unit: int
    common: int


@dataclass(frozen=True)
class Kept:
    """Channels of a layer that cannot be removed, and the reason; `output`: because they are the network's output."""

    layer: str
    channels: int
    reason: str
    output: bool = False


@dataclass(frozen=True)
class Width:
    """A number in the code of a module that repeats a count of channels, so that it has to follow the mask.

    It is held by an attribute of the module, or, in an fx network, is an argument of a node.

    Attributes:
        layer: path of the module.
        values: what the code was seen to use: one count, or the sizes of a split.
        parts: per value [value], the unit of each channel counted, -1 where it must stay.
        node: name of the fx node, None for an attribute.
        place: position among the node's arguments, and in the list found there.
    """

    layer: str
    values: tuple[int, ...]
    parts: tuple[Tensor, ...]
    node: str | None = None
    place: tuple[int, ...] = ()


@dataclass(frozen=True)
class Work:
    """The multiply-adds of one convolution or matrix product: `each` x what is kept along every side.

    Attributes:
        layer: path of the module.
        weight: name of the weight, None where both factors are activations.
        sides: [n] each, the unit of every channel along a dimension that the work grows with, -1 where it must stay.
            Of a weight its outputs and its inputs come first; others are heads, say, or positions that are channels.
        each: multiply-adds for one of every side, at the traced input size and one image.
    """

    layer: str
    weight: str | None
    sides: tuple[Tensor, ...]
    each: float

    @property
    def whole(self) -> float:
        """Multiply-adds with all channels."""
        return self.each * prod(map(len, self.sides))


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
        sinks: weight -> vector that takes up a constant after it, and the sign: the bias that is added to all that it
            makes, or else the running mean of the only BatchNorm that reads it; used nowhere else.
        shared: biases that are used elsewhere too: what takes up a constant of one weight would change another's.
        loud: bool [U], units of which a constant is left for the weights that read them when they are silent.
        statistics: bool [U], units that a mean across channels, or its like, is taken over (`left_out`).
        products: bool [U], units that a product of two activations sums over, as attention does.
        cuts: bool [U], units of equal parts (`x[:, :n // 2]`), if the code computes from the width where to cut.
        computed: modules that read a weight computed by operators that do not let its channels go: see `plain_weights`.
        unseen: modules with parameters that no pass has run, so that nothing is known of what they read.
    """

    units: int
    axes: tuple[Axis, ...]
    groups: tuple[Group, ...]
    kept: tuple[Kept, ...]
    widths: tuple[Width, ...]
    works: tuple[Work, ...]
    shapes: Mapping[str, tuple[int, ...]]
    sinks: Mapping[str, tuple[str, float]]
    shared: frozenset[str]
    loud: Tensor
    statistics: Tensor
    products: Tensor
    cuts: Tensor
    computed: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Graph({self.units} removable units in {len(self.groups)} groups, {self.total - self.units} channels kept)"
        )

    def check_of(self, model: nn.Module) -> None:
        """Check that these are the channels of a network.

        Raises:
            MaskError: a tensor is not there, or of another shape; a parameter is there that the graph does not know.
        """
        inner = unwrapped(model)
        tensors = named_tensors(inner)
        for axis in self.axes:
            shape = tuple(tensors[axis.tensor].shape) if axis.tensor in tensors else ()
            if axis.dim >= len(shape) or shape[axis.dim] != len(axis.unit_of):
                found = f"is {list(shape)}" if shape else "is not there"
                raise MaskError(
                    f"the graph is of another network: {axis.tensor} {found}, "
                    f"and dimension {axis.dim} had {len(axis.unit_of)} entries.\n  Trace this very network"
                )
        known = {id(tensors[name]) for name in self.shapes if name in tensors}
        for name, parameter in inner.named_parameters():
            if id(parameter) not in known:
                raise MaskError(f"the graph is of another network: it has no {name}.\n  Trace this very network")

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

    def places(self, keep: Tensor, smaller: "Graph") -> Tensor:
        """Return what each unit has become in the network without some of them: int64 [U], units of its graph.

        -1 where a unit is gone, where nothing of its group can be removed there any more, and where its channels can be
        removed one by one there, as those of a grouped convolution of which one group is left. Told by the parameters
        that units index: groups are named after what can be removed, and so may be called otherwise there.

        Args:
            keep: bool [U], the units that are left.
            smaller: the graph of the network that is left.
        """
        least, most = torch.full((self.units,), smaller.units), torch.full((self.units,), -1)
        for axis in self.axes:
            left = axis.unit_of[(axis.unit_of < 0) | keep[axis.unit_of.clamp(min=0)]]
            for now in smaller.by_tensor.get(axis.tensor, ()):
                both = (left >= 0) & (now.unit_of >= 0) if len(now.unit_of) == len(left) else None
                if both is not None and now.dim == axis.dim:
                    least.scatter_reduce_(0, left[both], now.unit_of[both], "amin")
                    most.scatter_reduce_(0, left[both], now.unit_of[both], "amax")
        return torch.where(least == most, most, -1)

    def keeping(self, groups: Sequence[int], reason: str) -> "Graph":
        """Return the graph in which some groups, by index, must stay, for a reason; the other units move up, [U']."""
        stays = torch.zeros(self.units + 1, dtype=torch.bool)  # the last is for index -1
        stays[self.units] = True
        for number in groups:
            stays[self.groups[number].members] = True
        now = torch.where(stays, -1, (~stays).cumsum(0) - 1)  # what each unit has become
        left = ~stays[:-1]

        def counts(rows: Iterable[Tensor]) -> bool:
            return any(bool((now[row] >= 0).any()) for row in rows)

        return replace(
            self,
            units=int(left.sum()),
            axes=tuple(replace(a, unit_of=now[a.unit_of]) for a in self.axes if counts([a.unit_of])),
            groups=tuple(replace(g, members=now[g.members]) for i, g in enumerate(self.groups) if i not in groups),
            kept=(*self.kept, *(Kept(self.groups[i].name, len(self.groups[i].members), reason) for i in groups)),
            widths=tuple(replace(w, parts=tuple(now[p] for p in w.parts)) for w in self.widths if counts(w.parts)),
            works=tuple(replace(w, sides=tuple(now[side] for side in w.sides)) for w in self.works),
            loud=self.loud[left],
            statistics=self.statistics[left],
            products=self.products[left],
            cuts=self.cuts[left],
        )

    @cached_property
    def coupled(self) -> Coupled:
        """The slices of parameters that belong to each unit."""
        own = [axis for axis in self.axes if axis.tensor in self.shapes]
        return Coupled([(axis.tensor, axis.dim) for axis in own], [axis.unit_of for axis in own], self.units)

    @cached_property
    def has_norm(self) -> Tensor:
        """Bool [U]: a BatchNorm scales the unit."""
        found = torch.zeros(self.units, dtype=torch.bool)
        for group in self.groups:
            if group.norms:
                found[group.members] = True
        return found

    def macs(self, keep: Tensor) -> int:
        """Return the multiply-adds of one image with only the units where `keep` (bool [U]) is true."""
        factors, row, column, counts = self._macs
        factors = factors.clone()
        factors[row, column] = counts(keep).double()
        return round(float(factors.prod(dim=1).sum()))

    @cached_property
    def _macs(self) -> tuple[Tensor, Tensor, Tensor, Counts]:
        """Per work `each` and the length of every side, padded with 1; row, column and count of the sides."""
        sides = [(row, column, side) for row, w in enumerate(self.works) for column, side in enumerate(w.sides, 1)]
        factors = torch.ones(len(self.works), 1 + max((column for _, column, _ in sides), default=0)).double()
        factors[:, 0] = torch.tensor([w.each for w in self.works], dtype=torch.float64)
        place = torch.tensor([(row, column) for row, column, _ in sides], dtype=torch.long).view(-1, 2).T
        return factors, place[0], place[1], Counts([side for _, _, side in sides])

    def params(self, keep: Tensor) -> int:
        """Return the number of parameters with only the units where `keep` (bool [U]) is true."""
        sizes, row, column, counts = self._params
        sizes = sizes.clone()
        sizes[row, column] = counts(keep)
        return int(sizes.prod(dim=1).sum())

    @cached_property
    def _params(self) -> tuple[Tensor, Tensor, Tensor, Counts]:
        """Dimensions of every parameter, padded with 1; row, column and count of those that can shrink."""
        sizes = torch.ones(len(self.shapes), max(map(len, self.shapes.values()), default=0), dtype=torch.long)
        rows, columns, axes = [], [], []
        for number, (name, shape) in enumerate(self.shapes.items()):
            sizes[number, : len(shape)] = torch.tensor(shape, dtype=torch.long)
            for axis in self.by_tensor.get(name, []):
                rows.append(number)
                columns.append(axis.dim)
                axes.append(axis.unit_of)
        place = torch.tensor([rows, columns], dtype=torch.long)
        return sizes, place[0], place[1], Counts(axes)


def check_left(old: nn.Module, new: nn.Module, kept: Mapping[str, Mapping[int, Tensor]]) -> None:
    """Check that a network is what is left of another one.

    Args:
        kept: name -> dimension -> indices that are left of each parameter of `old`.

    Raises:
        MaskError: it has no parameter of it, or one of another shape.
    """
    before, after = (dict(unwrapped(one).named_parameters()) for one in (old, new))
    for name in (name for name in before if name in after):
        shape = [len(kept.get(name, {}).get(dim, range(size))) for dim, size in enumerate(before[name].shape)]
        if shape != list(after[name].shape):
            raise MaskError(
                f"the small network is not what this mask leaves: {name} is {list(after[name].shape)}, not {shape}.\n"
                "  Give the network and the mask that belong together"
            )
    if before and after and not before.keys() & after.keys():
        raise MaskError("the small network has no parameter of the large one.\n  Give what is left of it")
