"""What is said of the objects in one picture, whichever file says it, and what can be wrong with it."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from PIL import ImageOps
from PIL.ExifTags import Base
from torch import Tensor

from slimkit.data.listing import FORMATS, open_picture, problem
from slimkit.data.outlines import Outline

_OVER = 2.0  # pixels by which a box may reach over the edge: tools round, and some count from 1

_ACROSS = (5, 6, 7, 8)  # orientations that change width and height
_LEAST = 0.01  # pixels of a side within the picture: less is gone once a picture is mirrored

Box = tuple[float, float, float, float]
Point = tuple[float, float, float]  # x and y in pixels; 2 seen, 1 hidden, 0 not labelled


@dataclass(frozen=True)
class Boxed:
    """A picture with the objects in it; K of them.

    Attributes:
        path: of the picture.
        boxes: K of left, top, right, bottom: in pixels, or as shares of width and height.
        categories: K numbers, as the file has them.
        crowd: K, whether it is a crowd rather than one object.
        shares: boxes and outlines are shares.
        outlines: K, where they were asked for; None where the file says nothing.
        keypoints: K times as many as were asked for; none where the file says nothing.
        areas: K pixels of each object itself, by which keypoints are judged.
        size: width and height, where the file says them.
        wrong: what is wrong with what the file says, where that was seen already.
    """

    path: Path
    boxes: tuple[Box, ...] = ()
    categories: tuple[int, ...] = ()
    crowd: tuple[bool, ...] = ()
    shares: bool = False
    outlines: tuple[Outline | None, ...] = ()
    keypoints: tuple[tuple[Point, ...], ...] = ()
    areas: tuple[float, ...] = ()
    size: tuple[int, int] | None = None
    wrong: str | None = None

    def within(self, width: int, height: int) -> Tensor:
        """Return the boxes in pixels, within the picture, float32 [K, 4]."""
        sides = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes = torch.tensor(self.boxes, dtype=torch.float32).reshape(-1, 4)
        return torch.minimum((boxes * sides if self.shares else boxes).clamp_min(0), sides)

    def masks(self, width: int, height: int) -> Tensor:
        """Return which pixels are of each object, uint8 [K, H, W]."""
        outlines = self._within(width, height)
        found = [outline.mask(width, height) for outline in outlines if outline is not None]
        return torch.stack(found) if found else torch.zeros(0, height, width, dtype=torch.uint8)

    def points(self, count: int) -> Tensor:
        """Return the keypoints, float32 [K, count, 3], each a `Point`."""
        return torch.tensor(self.keypoints, dtype=torch.float32).reshape(-1, count, 3)

    def shown(self, picture: Any) -> Any:
        """Return a picture as its boxes are of it: turned as its EXIF says, unless its size unturned is the file's."""
        return picture if self.size == picture.size else ImageOps.exif_transpose(picture)

    def problem(self) -> str | None:
        """Say why the picture cannot be used, None where it can: the file is read, and its boxes are checked."""
        if self.wrong is not None:
            return self.wrong
        if not self.path.exists():
            return "it is not there"
        if (why := problem(self.path)) is not None:
            return why
        with open_picture(self.path, formats=FORMATS) as opened:
            width, height = opened.size
            if self.size != opened.size and opened.getexif().get(Base.Orientation, 1) in _ACROSS:
                width, height = height, width
        if self.size not in (None, (width, height)):
            assert self.size is not None
            return f"it is {width}x{height}, its annotations are of {self.size[0]}x{self.size[1]}"
        across, down = (width, height) if self.shares else (1, 1)
        for number, box in enumerate(self.boxes):
            left, top, right, bottom = box[0] * across, box[1] * down, box[2] * across, box[3] * down
            words = f"box {number + 1} ({left:g}, {top:g} to {right:g}, {bottom:g})"
            if not all(map(isfinite, box)):
                return f"{words} holds what is no number"
            if not (right > left and bottom > top):
                return f"{words} is empty"
            if min(left, top) < -_OVER or right > width + _OVER or bottom > height + _OVER:
                return f"{words} reaches out of the picture of {width}x{height}"
            if left >= width or top >= height or right <= 0 or bottom <= 0:
                return f"{words} is outside of the picture of {width}x{height}"
            if min(min(right, width) - max(left, 0), min(bottom, height) - max(top, 0)) < _LEAST:
                return f"{words} is within the picture by less than {_LEAST:g} pixels"
        return self._outlined(width, height) or self._pointed(width, height)

    def _outlined(self, width: int, height: int) -> str | None:
        for number, outline in enumerate(self._within(width, height), 1):
            if outline is None:
                return f"object {number} has {'a box alone, no outline' if self.shares else 'no `segmentation`'}"
            if (why := outline.problem(width, height)) is not None:
                return f"{'the outline' if self.shares else '`segmentation`'} of object {number} {why}"
        return None

    def _within(self, width: int, height: int) -> list[Outline | None]:
        """Return the outlines in pixels."""
        return [one.times(width, height) if one and self.shares else one for one in self.outlines]

    def _pointed(self, width: int, height: int) -> str | None:
        for number, points in enumerate(self.keypoints, 1):
            for place, (x, y, seen) in enumerate(points, 1):
                words = f"keypoint {place} of object {number} ({x:g}, {y:g}, {seen:g})"
                if seen not in (0, 1, 2):
                    return f"{words} is neither 2, seen, nor 1, hidden, nor 0, not labelled"
                if seen and not (-_OVER <= x <= width + _OVER and -_OVER <= y <= height + _OVER):
                    return f"{words} is outside of the picture of {width}x{height}"
        return None
