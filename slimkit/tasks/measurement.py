"""A figure that images were judged by, with the interval that so many images allow."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slimkit.intervals import Z, wilson

_DRAWS = 1000


@dataclass(frozen=True)
class Measurement:
    """What one metric gave.

    Attributes:
        value: in the metric's own unit; a share is in [0, 1].
        images: number of images judged.
        interval: lowest and highest value that these images are likely to have come from, 95 %; None where
            a metric gives one value a batch, so that nothing is known about single images.
        hits: images that are right, where each is right or wrong; None of every other metric, shares among them.
    """

    value: float
    images: int
    interval: tuple[float, float] | None
    hits: int | None = None


def share(hits: int, images: int) -> Measurement:
    """Return hits / images with Wilson's interval: right for few images, and near 0 and 1."""
    return Measurement(hits / images, images, wilson(hits / images, images), hits)


def mean(rows: Tensor) -> Measurement:
    """Return the mean of one number an image, [N], with the interval of a normal mean."""
    rows = rows.double()
    value = float(rows.mean())
    if len(rows) < 2:
        return Measurement(value, len(rows), None)
    half = Z * float(rows.std()) / math.sqrt(len(rows))
    return Measurement(value, len(rows), (value - half, value + half))


def of_sums(rows: Tensor, value: Callable[[Tensor], float]) -> Measurement:
    """Return a function of the sum over images, with the percentile interval of a bootstrap over images.

    Pixels of one image are alike, so that images are what is drawn; Efron 1979, 1,000 draws, always the same.

    Args:
        rows: what is counted of each image, [N, ...].
        value: sum over images [...] -> the metric.
    """
    found = value(rows.double().sum(0))
    if len(rows) < 2:
        return Measurement(found, len(rows), None)
    low, high = _drawn(rows, value).quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Measurement(found, len(rows), (low, high))


def deviation(rows: Tensor, value: Callable[[Tensor], float]) -> float:
    """Return the standard deviation of a function of the sum over images, [N, ...], by the same bootstrap."""
    return float(_drawn(rows, value).std()) if len(rows) > 1 else 0.0


def _drawn(rows: Tensor, value: Callable[[Tensor], float]) -> Tensor:
    """Return the function of sums over images drawn anew, float64 [1,000]."""
    flat = rows.double().flatten(1)
    random = torch.Generator().manual_seed(0)
    values = []
    for _ in range(_DRAWS):
        drawn = torch.randint(len(flat), (len(flat),), generator=random)
        counts = torch.bincount(drawn, minlength=len(flat)).double()
        values.append(value((counts @ flat).view(rows.shape[1:])))
    return torch.tensor(values, dtype=torch.double)
