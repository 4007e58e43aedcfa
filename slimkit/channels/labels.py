"""Names of channels, carried beside every tensor of a forward pass.

A *label* is an integer tensor of names, with as many dimensions as the tensor it describes, each of size 1
(the names do not vary along it) or of the tensor's own size. A tensor carries one label for each independent
naming: an activation [N, C, H, W] has one of shape [1, C, 1, 1], a weight [O, I, kh, kw] one per dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor


class Labels(NamedTuple):
    """The labels of one tensor; `weight` says that it holds parameters, or was computed from them alone."""

    axes: tuple[Tensor, ...]
    weight: bool = False


class Frozen(NamedTuple):
    """Names that must stay, and why."""

    names: Tensor
    layer: str
    reason: str
    output: bool = False


@dataclass
class Names:
    """All names of one forward pass: which are tied, must stay, are made, are summed over."""

    count: int = 0
    frozen: list[Frozen] = field(default_factory=list)
    produced: list[tuple[Tensor, str]] = field(default_factory=list)  # names a layer makes, and that layer
    contracted: list[Tensor] = field(default_factory=list)  # names of a weight's input channels
    arrived: list[Tensor] = field(default_factory=list)  # names of all channels that a weight, in groups or not, reads
    loud: list[Tensor] = field(default_factory=list)  # names that a weight reads where they are not zero when removed
    statistics: list[Tensor] = field(default_factory=list)  # names that a statistic is taken over
    products: list[Tensor] = field(default_factory=list)  # names that a product of two activations sums over
    cuts: list[Tensor] = field(default_factory=list)  # names of equal parts, if code finds the cut by the width
    divisors: list[Tensor] = field(default_factory=list)  # names of parameters that must not be zero
    _ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _pool: Tensor = field(default_factory=lambda: torch.arange(1 << 15))  # views of it are cheap

    def fresh(self, n: int) -> Tensor:
        """Return n new names, [n]."""
        self.count += n
        if self.count > len(self._pool):
            self._pool = torch.arange(4 * self.count)
        return self._pool[self.count - n : self.count]

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Let the names in `a` and `b`, broadcast against each other, live and die together."""
        if a is b:
            return
        if a.shape != b.shape:
            shape = np.broadcast_shapes(a.shape, b.shape)
            a, b = a.expand(shape), b.expand(shape)
        self._ties.append((a.reshape(-1), b.reshape(-1)))

    def freeze(self, names: Tensor, layer: str, reason: str) -> None:
        """Keep these names, whatever a mask says; the first reason for a channel is the one reported."""
        self.frozen.append(Frozen(names.reshape(-1), layer, reason))

    def freeze_output(self, names: Tensor) -> None:
        """Keep these names, because they are the network's output."""
        self.frozen.append(Frozen(names.reshape(-1), "", "reaches the output of the network", output=True))

    def components(self) -> np.ndarray:
        """Return the connected component of every name, [count]."""
        if not self._ties:
            return np.arange(self.count)
        a = torch.cat([a for a, _ in self._ties]).numpy()
        b = torch.cat([b for _, b in self._ties]).numpy()
        links = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(self.count, self.count))
        return np.asarray(connected_components(links, directed=False)[1])


def varies(label: Tensor, dim: int) -> bool:
    """Tell whether names differ along a dimension."""
    return label.shape[dim] > 1


def varying(label: Tensor) -> list[int]:
    """Return the dimensions along which names differ."""
    return [dim for dim, size in enumerate(label.shape) if size > 1]


def alone(labels: Sequence[Tensor]) -> dict[int, Tensor]:
    """Return the names along each dimension that shares them with no other, [size]."""
    along = ((varying(label), label) for label in labels)
    return {dims[0]: label.reshape(-1) for dims, label in along if len(dims) == 1}


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Pair the runs of dimensions that a reshape turns into each other, each run as short as possible.

    `old` and `new` hold the same number of elements: [2, 6, 4, 4] -> [2, 3, 2, 16] gives (0 | 0), (1 | 1, 2),
    (2, 3 | 3).
    """
    ends_old = list(accumulate(old, int.__mul__))
    ends_new = list(accumulate(new, int.__mul__))
    pairs, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        i2, j2 = i, j
        done = ends_old[i - 1] if i else 1
        size_old = size_new = done
        if i2 < len(old):
            size_old, i2 = ends_old[i2], i2 + 1
        if j2 < len(new):
            size_new, j2 = ends_new[j2], j2 + 1
        while size_old != size_new:
            if size_old < size_new:
                size_old, i2 = ends_old[i2], i2 + 1
            else:
                size_new, j2 = ends_new[j2], j2 + 1
        pairs.append((range(i, i2), range(j, j2)))
        i, j = i2, j2
    return pairs


def reshape(label: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Reshape a label as its tensor is, from `old` to `new`; of size 1 in runs without names."""
    shape_in: list[int] = []
    shape_out: list[int] = []
    for before, after in blocks(old, new):
        if any(label.shape[dim] > 1 for dim in before):
            shape_in += [old[dim] for dim in before]
            shape_out += [new[dim] for dim in after]
        else:
            shape_in += [1] * len(before)
            shape_out += [1] * len(after)
    return label.expand(shape_in).reshape(shape_out)
