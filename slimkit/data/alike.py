"""Inputs that resemble each other, as frames of a video, bursts and augmented copies do, in groups."""

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from slimkit.example import Example, tensors

# How far the nearest other input is, quantiles 1 %, 10 %, 50 %. Distinct ones: 2,048 of Fashion-MNIST .09 .12 .20, in
# 14x14 .09 .13 .21; the nearest of its classes, trousers, .11 .14 .20; digits .12 .17 .22; noise of 8x8 .26 .29 .33; 64
# places in 36 photographs .12 .20 .38. Nearer than .08 are 0.7 % of them at the most.
# Frames, 32 scenes of 16, in 14x14; 28x28; photographs of 224x224; quantiles 50 %, 90 %, 100 %, and the nearest of
# another scene. Noise of 0.05 deviations: .05 .07 .09, .22; .02 .03 .04, .22; .03 .05 .09, .27. Noise of 0.1: .09 .13
# .16, .22; .04 .07 .09, .21; .05 .10 .17, .27. Brightness by 10 %: all .00. Moved by a pixel: .00 .11 .19, .16; .00 .10
# .22, .19; .00 .03 .15, .26. All three: .05 .12 .22, .15; .03 .10 .23, .19; .03 .08 .20, .25. With these numbers 32
# groups are found of noise and of brightness, and 66, 48 and 38 where they are moved, 64, 53 and 39 of all three.
_NEAR = 0.08  # nearer than distinct inputs are
_LINKED = 0.18  # where there are such: also those no nearer than the nearest of distinct ones may be
_MOVED = 6.0  # times as far in place: what is elsewhere altogether is another input, though it looks the same
_OFTEN = 0.05  # share of inputs that have one so near: fewer, as any large data set has, change little of what is told
# How far inputs are from their mean, over their contrast, in the median: Fashion-MNIST .75, its classes .34 to .75;
# digits .72, its classes .40 to .57; noise and smooth images 1. Frames of one scene, which is the mean: .03 to .06.
_FLAT = 0.35  # what is nearer to the mean is taken to be so far from it, so that noise is not all that differs
_DIM = 0.05  # of the median contrast: of less no more is made
_LEAST = 64  # numbers of an input: of fewer there is always another near by
_SIDE, _LONG, _DEEP = 16, 256, 8  # what planes, rows and volumes are averaged to: noise vanishes
_MOST = 512  # numbers that are compared


def alike(batches: Iterable[Example]) -> Tensor | None:
    """Return which inputs resemble each other: the number of a group for each, int64 [N], 0 and up.

    An input that resembles none is a group of its own. None where all are distinct, or nearly all; where their tensors
    differ in shape; and where they have too few real numbers, as tokens have none, to tell.

    Args:
        batches: of inputs, N in all; compared N x N, so a few thousand at the most.
    """
    rows = _rows(batches)
    if rows is None:
        return None
    apart = _apart(*rows)
    if not bool(apart.isfinite().all()):  # equal ones, and numbers that are none, are refused later
        return None
    apart.fill_diagonal_(torch.inf)
    if float((apart.amin(1) < _NEAR).double().mean()) < _OFTEN:
        return None
    one, other = (apart < _LINKED).nonzero().unbind(1)
    group = torch.arange(len(apart))
    while True:  # each takes the lowest number beside it, and that of the one whose number it is
        nearer = group.scatter_reduce(0, one, group[other], "amin")
        nearer = nearer[nearer]
        if torch.equal(nearer, group):
            _, numbers = torch.unique(group, return_inverse=True)
            found: Tensor = numbers
            return found
        group = nearer


def _apart(placed: Tensor, looks: Tensor) -> Tensor:
    """Return how far inputs are apart, over how far the nearer of two is from the mean, [N, N]."""
    lengths = placed.norm(dim=1).clamp_min(_FLAT)
    farther = torch.maximum(torch.cdist(looks, looks), torch.cdist(placed, placed) / _MOVED)
    return farther / torch.minimum(lengths[:, None], lengths)


def _rows(batches: Iterable[Example]) -> tuple[Tensor, Tensor] | None:
    """Return numbers of each input in their places, and how it looks wherever that is: float32 [N, M], on the CPU.

    Less the mean, over their contrast; None where there are too few, or not as many of each.
    """
    found: list[list[Tensor]] = []
    for batch in batches:
        members = tensors(batch)
        count = {len(one) if one.dim() else 0 for one in members}
        real = [one for one in members if one.is_floating_point() and prod(one.shape[1:]) >= _LEAST]
        if len(count) != 1 or not real:
            return None
        found.append([_pooled(one).cpu() for one in real])
    if not found or len({tuple(one.shape[1:] for one in each) for each in found}) > 1:
        return None
    joined = [_lit(torch.cat(parts)) for parts in zip(*found, strict=True)]
    contrast = torch.cat([_within(one) for one in joined], 1).norm(dim=1).median()
    centred = [(one - one.mean(0)) / contrast for one in joined]
    return _some([one.flatten(1) for one in centred]), _some([_looks(one) for one in centred])


def _lit(pooled: Tensor) -> Tensor:
    """Return inputs of one brightness and contrast, but for those that have next to none."""
    every = tuple(range(1, pooled.dim()))
    spread = pooled.std(every, correction=0, keepdim=True)
    even: Tensor = (pooled - pooled.mean(every, keepdim=True)) / spread.clamp_min(
        max(1e-9, _DIM * float(spread.median()))
    )
    return even


def _within(lit: Tensor) -> Tensor:
    """Return how inputs differ from the mean of each plane: what channels are offset by tells nothing of a scene."""
    planes = tuple(range(2, lit.dim())) or 1
    return (lit - lit.mean(planes, keepdim=True)).flatten(1)


def _looks(pooled: Tensor) -> Tensor:
    """Return how strong each frequency of a plane is, which does not change where it moves; others as they are."""
    if pooled.dim() != 4:
        return pooled.flatten(1)
    strength: Tensor = torch.fft.fft2(pooled, norm="ortho").abs()
    return strength[..., : pooled.shape[-1] // 2 + 1].flatten(1)


def _some(parts: list[Tensor]) -> Tensor:
    """Return at most 512 numbers of each input, scaled as if they were all."""
    every = torch.cat(parts, 1)
    places = torch.linspace(0, every.shape[1] - 1, min(_MOST, every.shape[1])).long()
    some: Tensor = every[:, places] * (every.shape[1] / len(places)) ** 0.5
    return some


def _pooled(tensor: Tensor) -> Tensor:
    """Return averages over neighbours, float32; of large planes over some of them, which are as good."""
    tensor, across = tensor.detach(), tensor.dim() - 2
    if across not in (1, 2, 3):
        return tensor.float()
    limit = (_LONG, _SIDE, _DEEP)[across - 1]
    pool: Any = (functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d)
    for place in range(2, tensor.dim()):
        step = max(1, tensor.shape[place] // (2 * limit))
        tensor = tensor[(*[slice(None)] * place, slice(None, None, step))]
    averages: Tensor = pool[across - 1](tensor.float(), [min(limit, size) for size in tensor.shape[2:]])
    return averages
