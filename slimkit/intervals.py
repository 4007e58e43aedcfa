"""Intervals of what was counted or measured on a sample: where the value of all there is may well lie, 95 %."""

from math import sqrt

Z = 1.959964  # of a normal distribution, 95 % of which are within


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the interval of a share that was counted on `count` samples: Wilson 1927.

    Unlike mean +- two standard errors it holds at shares near 0 and 1, and stays within them.
    """
    middle = share + Z**2 / (2 * count)
    half = Z * sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    whole = 1 + Z**2 / count
    return min(max(0.0, (middle - half) / whole), share), max(min(1.0, (middle + half) / whole), share)  # rounding
