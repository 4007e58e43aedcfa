"""Which of several results are best in more than one respect at once; D measures, of each more is better."""

import torch
from torch import Tensor


def dominates(points: Tensor) -> Tensor:
    """Tell which of points [N, D] beats which: bool [N, N], [i, j]: i is nowhere worse than j and somewhere better."""
    one, other = points[:, None], points[None]
    return (one >= other).all(-1) & (one > other).any(-1)


def fronts(points: Tensor) -> Tensor:
    """Number the fronts of points [N, D]: int [N]; 0 is dominated by none, n + 1 only by fronts up to n."""
    beats = dominates(points)
    found = torch.full((len(points),), -1)
    number = 0
    while bool((found < 0).any()):
        left = found < 0
        found[left & ~(beats & left[:, None]).any(0)] = number
        number += 1
    return found


def crowding(points: Tensor) -> Tensor:
    """Return how far apart the neighbours of each point of one front are: float [N], inf at the ends; Deb et al. 2002.

    Each measure counts by its own range.
    """
    total = torch.zeros(len(points), dtype=torch.float64)
    for column in points.double().T:
        order = column.argsort(stable=True)
        span = column[order[-1]] - column[order[0]]
        total[order[[0, -1]]] = torch.inf
        if span > 0:
            total[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return total
