"""The calls of weights that read something, and from which of them on calibration inputs are in lockstep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from slimkit.example import Example
from slimkit.recovery.lockstep import Lane
from slimkit.recovery.readers import parameters, reader

_ROOM = 1 << 30  # bytes that activations of chunks in lockstep may take, about
_COPIES = 4  # of what a layer reads and makes: two networks, and what lies between two weights
_FIRST = 4  # chunks that start together, one of them held out


@dataclass(frozen=True)
class WeightCall:
    """A weight that reads something: its name, in which way, and the bytes that it reads and makes of one chunk."""

    name: str
    way: tuple[int, int]
    size: int


def calls_of(model: nn.Module, example: Example) -> list[WeightCall]:
    """Return the calls of weights that read something, in order of execution."""
    names = parameters(model)
    lane = Lane(model, example, lambda func, args: reader(func, args, names), after=True)
    found = []
    while (event := lane.advance()) is not None:
        (one, x), out = event
        found.append(WeightCall(one.name, one.way, x.element_size() * (x.numel() + out.numel())))
    return found


def joins(calls: Sequence[WeightCall], chunks: int) -> list[int]:
    """Return, for each chunk of inputs, the call at which it joins those in lockstep.

    Maps are large where a network begins, and a few images are many rows there: the others start once what is to come
    fits in memory, and run through layers that are solved already.
    """
    fits, least = [], chunks
    for one in reversed(calls):
        least = min(least, max(_FIRST, _ROOM // (_COPIES * one.size + 1)))
        fits.append(least)
    fits.reverse()
    return [next((number for number, count in enumerate(fits) if count > chunk), len(calls)) for chunk in range(chunks)]
