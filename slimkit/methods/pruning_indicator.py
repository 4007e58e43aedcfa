"""Early pruning indicator: watch the widths rather than the channels, Shen et al. 2022, arXiv:2110.12007."""

import math
from collections.abc import Sequence


def width_distance(a: Sequence[int], b: Sequence[int]) -> float:
    """Return the mean over groups of |a - b| / (a + b), counts of kept units, in [0, 1].

    One minus it is the paper's similarity of two structures; the paper draws when its mean over the last
    structures is high enough.
    """
    return math.fsum(abs(x - y) / (x + y) for x, y in zip(a, b, strict=True)) / len(a)


def chance(sizes: Sequence[int], ratio: float) -> float:
    """Return about what `width_distance` is for two random masks over groups of these sizes.

    A kept count is then about normal with variance n p (1 - p), so two differ by 2 sqrt(n p (1 - p) / pi).
    """
    p = ratio
    return math.fsum(math.sqrt(n * p * (1 - p) / math.pi) / (n * (1 - p)) for n in sizes) / len(sizes)
