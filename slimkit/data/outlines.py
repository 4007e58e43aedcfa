"""Which pixels are of an object, as COCO writes it: polygons, or runs of pixels down the columns (RLE)."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

_OVER = 2.0  # pixels by which a corner may reach over the edge, as a box may
_DEEP = 60  # bits of a run's length: more is no length


@dataclass(frozen=True)
class Outline:
    """An object's pixels as its file says them; whether that can be is told by `problem`.

    Attributes:
        polygons: x and y of the corners in turn, in pixels; together they are the object.
        runs: how many pixels are outside, inside, outside, ... down the columns, as numbers or in COCO's characters.
        size: height and width that the runs are of.
        wrong: what is wrong with it, where that was seen already.
    """

    polygons: tuple[Sequence[float], ...] = ()
    runs: Sequence[int] | bytes = ()
    size: tuple[int, ...] = ()
    wrong: str | None = None

    @classmethod
    def of(cls, said: Any) -> "Outline | None":
        """Return what the `segmentation` of an annotation says, in little memory; None where it says nothing."""
        if said is None or said == []:
            return None
        if isinstance(said, list):
            if not all(isinstance(one, list) and all(map(_is_number, one)) for one in said):
                return cls(wrong="is no list of lists of numbers")
            return cls(polygons=tuple(array("f", [_held(side) for side in one]) for one in said))
        if not isinstance(said, Mapping):
            return cls(wrong=f"is {said!r:.40}")
        counts, size = said.get("counts"), said.get("size")
        if not isinstance(size, list) or len(size) != 2 or not all(map(_is_length, size)):
            return cls(wrong=f"is of size {size!r:.40}, not of height and width")
        if isinstance(counts, str):
            return cls(runs=counts.encode("ascii", "replace"), size=tuple(size))
        if isinstance(counts, list) and all(map(_is_length, counts)):
            return cls(runs=array("q", counts), size=tuple(size))
        return cls(wrong=f"has runs of {type(counts).__name__}")

    def times(self, across: float, down: float) -> "Outline":
        """Return the outline with its corners so many times as far from the left and from the top."""
        scales = (across, down)
        polygons = (array("f", [side * scales[n % 2] for n, side in enumerate(one)]) for one in self.polygons)
        return replace(self, polygons=tuple(polygons))

    def problem(self, width: int, height: int) -> str | None:
        """Say why it is no outline in a picture of that size, None where it is one."""
        if self.wrong is not None:
            return self.wrong
        for polygon in self.polygons:
            if len(polygon) < 6 or len(polygon) % 2:
                return f"has a polygon of {len(polygon)} numbers: x and y of three corners or more are needed"
            if not all(map(isfinite, polygon)):
                return "holds what is no number"
            for axis, side in ((polygon[::2], width), (polygon[1::2], height)):
                if min(axis) < -_OVER or max(axis) > side + _OVER:
                    return f"reaches out of the picture of {width}x{height}"
        if self.polygons:
            return None
        if self.size != (height, width):
            return f"is of {self.size[1]}x{self.size[0]} pixels, the picture of {width}x{height}"
        try:
            counts = lengths(self.runs)
        except ValueError as error:
            return f"cannot be read: {error}"
        if sum(counts) != width * height:
            return f"is of {sum(counts)} pixels, the picture of {width * height}"
        return None

    def mask(self, width: int, height: int) -> Tensor:
        """Return which pixels of a picture are of the object, uint8 [H, W] of 0 and 1.

        Polygons are drawn as COCO's own code draws them; of overlapping ones all pixels count.
        """
        runs = self.runs
        if self.polygons:
            from pycocotools import mask as coco

            runs = coco.merge(coco.frPyObjects([list(polygon) for polygon in self.polygons], height, width))["counts"]
        counts = lengths(runs)
        pixels = np.repeat((np.arange(len(counts)) % 2).astype(np.uint8), counts)
        return torch.from_numpy(np.ascontiguousarray(pixels.reshape(width, height).T))


def lengths(runs: Sequence[int] | bytes) -> Sequence[int]:
    """Return the lengths of runs, also of those in COCO's characters: 5 bits each, from the fourth on as a difference.

    Written here, since COCO's own code trusts them and reads and writes beyond its memory where they are damaged.

    Raises:
        ValueError: they are not such characters, or a length is below 0.
    """
    if not isinstance(runs, bytes):
        return runs
    counts: list[int] = []
    value = shift = 0
    for character in runs:
        part = character - 48
        if not 0 <= part < 64 or shift > _DEEP:
            raise ValueError(f"{chr(character)!r} is none of its characters")
        value |= (part & 31) << shift
        shift += 5
        if part & 32:
            continue
        value -= (1 << shift) * (part >> 4 & 1)
        value += counts[-2] if len(counts) > 2 else 0
        if value < 0:
            raise ValueError("a run is of less than no pixels")
        counts.append(value)
        value = shift = 0
    if shift:
        raise ValueError("it ends within a run")
    return counts


def _is_number(side: Any) -> bool:
    return isinstance(side, int | float) and not isinstance(side, bool)


def _is_length(count: Any) -> bool:
    return isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**40


def _held(side: float) -> float:
    """Return a number that a float holds."""
    return float(max(-(10**30), min(side, 10**30))) if isinstance(side, int) else side
