"""How many channels stay along many dimensions at once; U = units of a network."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Counts:
    """Counts, for rows of units, how many of each are kept: one pass, equal rows once.

    Made of rows [n], the unit of each channel, -1 where it must stay; called with `keep`, bool [U], it gives
    the counts [rows], int64.
    """

    def __init__(self, rows: Sequence[Tensor], units: int) -> None:
        distinct: dict[bytes, int] = {}
        found: list[Tensor] = []
        of_row = []
        for row in rows:
            key = row.numpy().tobytes()
            if key not in distinct:
                distinct[key] = len(found)
                found.append(row)
            of_row.append(distinct[key])
        self.of_row = torch.tensor(of_row, dtype=torch.long)
        flat = torch.cat([*found, torch.zeros(0, dtype=torch.long)])
        self.units = torch.where(flat < 0, units, flat)
        self.ends = torch.tensor([len(row) for row in found], dtype=torch.long).cumsum(0)

    def __call__(self, keep: Tensor) -> Tensor:
        stays = torch.cat([keep, torch.ones(1, dtype=torch.bool)])
        sums = torch.cat([torch.zeros(1, dtype=torch.long), stays[self.units].cumsum(0)])
        until = sums[self.ends]
        return until.diff(prepend=torch.zeros(1, dtype=torch.long))[self.of_row]
