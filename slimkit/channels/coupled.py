"""Which slices of which parameters belong to each unit, as flat indices: sums over slices in one pass.

U = units of a network; N = indices along all dimensions that hold units, parameter after parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Coupled:
    """The slices coupled to each unit.

    Attributes:
        places: name of the parameter and dimension, one entry a dimension that holds units.
        sizes: [len(places)], indices of each.
        unit_of: int64 [N], the unit of every index, U where the index must stay.
        tensors: [U + 1], how many of `places` each unit has a slice in.
    """

    def __init__(self, places: Sequence[tuple[str, int]], rows: Sequence[Tensor], count: int) -> None:
        """Take, per place, the unit of each of its indices [n], -1 where it must stay; U is `count`."""
        self.places = tuple(places)
        self.sizes = [len(row) for row in rows]
        flat = torch.cat([*rows, torch.zeros(0, dtype=torch.long)])
        self.unit_of = torch.where(flat < 0, count, flat)
        self.tensors = torch.zeros(count + 1)
        for row in rows:
            self.tensors[row] += 1  # once, however many indices a unit has; what must stay is -1, the last
        self._rows = _padded(self.unit_of, count)
        self._made: dict[torch.device, Coupled] = {}

    def to(self, device: torch.device) -> Coupled:
        """Return the same on a device; the copy is made once."""
        if self.unit_of.device == device:
            return self
        if device not in self._made:
            made = self._made[device] = Coupled.__new__(Coupled)
            made.places, made.sizes, made._made = self.places, self.sizes, {}
            made.unit_of, made.tensors = self.unit_of.to(device), self.tensors.to(device)
            made._rows = [(units.to(device), indices.to(device)) for units, indices in self._rows]
        return self._made[device]

    def sums(self, values: Tensor) -> Tensor:
        """Return, per unit, the sum of its entries of values [N]; [U + 1], the last 0.

        The order of the terms is fixed, on a GPU too, so that equal networks get equal sums.
        """
        padded = torch.cat([values, values.new_zeros(1)])
        found = values.new_zeros(len(self.tensors))
        for units, indices in self._rows:
            found[units] = padded[indices].sum(1)
        return found


def _padded(units: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    """Return units [n] with where their entries are [n, m], padded with N; one pair for each m = 1, 2, 4, ..."""
    order = units.argsort(stable=True)
    sizes = torch.bincount(units, minlength=count + 1)
    starts = sizes.cumsum(0) - sizes
    sizes[count] = 0
    found = []
    width = 1
    while bool((sizes > width // 2).any()):
        rows = ((sizes > width // 2) & (sizes <= width)).nonzero().flatten()
        if len(rows):
            columns = torch.arange(width)
            at = (starts[rows, None] + columns).clamp(max=len(units) - 1)
            found.append((rows, torch.where(columns < sizes[rows, None], order[at], len(units))))
        width *= 2
    return found
