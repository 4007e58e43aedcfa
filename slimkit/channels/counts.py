"""How many channels stay along many dimensions at once; U = units of a network."""

from collections.abc import Sequence

import torch
from torch import Tensor


def stays(keep: Tensor, unit_of: Tensor) -> Tensor:
    """Return which channels stay, bool [n]: those of kept units, and those of no unit.

    Args:
        keep: bool [U].
        unit_of: [n], the unit of each channel, -1 where it must stay.
    """
    return torch.cat([keep, keep.new_ones(1)])[unit_of]


class Counts:
    """Counts, for rows of units, how many of each are kept: one pass, equal rows once.

    Made of rows [n], the unit of each channel, -1 where it must stay; called with `keep`, bool [U], it gives
    the counts [rows], int64.
    """

    def __init__(self, rows: Sequence[Tensor]) -> None:
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
        self.unit_of = torch.cat([*found, torch.zeros(0, dtype=torch.long)])
        self.ends = torch.tensor([len(row) for row in found], dtype=torch.long).cumsum(0)

    def __call__(self, keep: Tensor) -> Tensor:
        sums = torch.cat([torch.zeros(1, dtype=torch.long), stays(keep, self.unit_of).cumsum(0)])
        until = sums[self.ends]
        return until.diff(prepend=torch.zeros(1, dtype=torch.long))[self.of_row]
