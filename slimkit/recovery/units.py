"""The units of a network's inputs, as its first BatchNorms tell them: pixels up to 255, volts, counts around 8,192.

Noise of mean 0 and variance 1 is what networks of standardised inputs expect. Others read an offset and a scale in each
channel, and the BatchNorms that inputs reach first keep what becomes of these: the means are linear in the offsets, the
logarithms of the spreads in that of a common scale, where nothing but a convolution or a rescaling lies between. A few
steps of least squares find both, also where something bent lies between.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_NEAR = 0.25  # mean square error from which on noise is rescaled at all; 0.03 where inputs are standardised
_POWERS = sorted(range(-8, 9), key=abs)  # of ten, that scales may be off by; where all are as good, none
_STEPS = 20
_SETTLED = 0.01  # share of the error by which a step has to make it smaller for another one
_LOOSE, _STIFF = 1e-3, 1e6  # how strongly a step is held back: at first, and where none is made any more
_FAR = math.log(10)  # most that the logarithm of a scale changes in a step: far away spreads may hardly depend on it

# Images [N, C, ...] -> by how much the mean and the spread of each channel of the first BatchNorms are off [2, E]
Errors = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Units:
    """Offset and scale of each channel of the inputs, [C] both: inputs are `offset + scale * noise`."""

    offset: Tensor
    scale: Tensor

    def of(self, noise: Tensor) -> Tensor:
        """Return noise [N, C, ...] in these units."""
        shape = (-1, *[1] * (noise.dim() - 2))
        return self.offset.reshape(shape) + self.scale.reshape(shape) * noise


def units_by(errors: Errors, noise: Tensor) -> Units:
    """Return the units in which noise [N, C, ...] makes the errors least, their squares summed."""
    count = noise.shape[1]
    units = Units(noise.new_zeros(count), noise.new_ones(count))
    if float(errors(noise).square().mean()) < _NEAR:
        return units
    each = torch.eye(2 * count).to(noise)
    together = torch.cat([each[:, :count], each[:, count:].sum(1, keepdim=True)], 1)  # one scale: a good beginning
    for moves in (together, each):
        units = _descended(_sized(units, errors, noise), moves, errors, noise)
    return units


def _sized(units: Units, errors: Errors, noise: Tensor) -> Units:
    """Return units with scales by a power of ten, by which spreads are off least: those of means wait for offsets."""
    sizes = [Units(units.offset, units.scale * 10.0**power) for power in _POWERS]
    return min(sizes, key=lambda one: float(errors(one.of(noise))[1].square().sum()))


def _descended(units: Units, moves: Tensor, errors: Errors, noise: Tensor) -> Units:
    """Return units with smaller errors, by Levenberg's and Marquardt's steps along moves [2 C, M]."""

    def off(units: Units) -> Tensor:
        return errors(units.of(noise)).flatten().double()

    now, held = off(units), _LOOSE
    for _ in range(_STEPS):
        slopes = torch.stack([off(_moved(units, move)) - now for move in moves.mT], 1)
        square, before = slopes.mT @ slopes, float(now.square().sum())
        while True:
            damped = square + torch.diag(held * square.diagonal() + 1e-12)
            step = moves @ -torch.linalg.solve(damped, slopes.mT @ now).to(noise)
            tried = _moved(units, step)
            after = off(tried)
            if float(after.square().sum()) < before:
                break
            if (held := 10 * held) > _STIFF:
                return units
        units, now, held = tried, after, held / 10
        if float(now.square().sum()) > (1 - _SETTLED) * before and float(step.chunk(2)[1].abs().max()) < _FAR:
            break
    return units


def _moved(units: Units, step: Tensor) -> Units:
    """Return units after a step [2 C]: of the offsets, in scales, and of the logarithms of the scales."""
    offset, scale = step.chunk(2)
    return Units(units.offset + units.scale * offset, units.scale * scale.clamp(-_FAR, _FAR).exp())
