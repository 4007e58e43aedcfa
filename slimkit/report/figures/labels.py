"""Where the labels of crowded dots stand: beside them, on no other dot or label, near by where there is room.

All lengths are pixels; y grows upwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEAR = 12.0  # from a dot to its label: no line has to lead there
_RINGS = (NEAR, 19.0, 26.0, 34.0, 43.0, 54.0, 66.0, 80.0, 96.0, 114.0)
_ANGLES = np.deg2rad([0, 180, 30, 330, 150, 210, 60, 300, 120, 240, 90, 270, 15, 345, 165, 195, 45, 315, 135, 225])
_HIT, _CROSSED = 1000.0, 4.0  # what a label costs on a dot or a label, and on a line, in pixels that it is away


@dataclass(frozen=True)
class Box:
    """A rectangle by its middle and its size."""

    x: float
    y: float
    width: float
    height: float


def beside(dots: Sequence[Box], sizes: Sequence[tuple[float, float]], lines: Sequence[Box], room: Box) -> list[Box]:
    """Return where the labels stand, one a dot.

    Args:
        dots: what the labels are of.
        sizes: width and height of each label.
        lines: what labels had better not cross.
        room: what holds all labels.
    """
    taken, thin = _corners(dots), _corners(lines)
    away = np.array([(ring * np.cos(angle), ring * np.sin(angle)) for ring in _RINGS for angle in _ANGLES])
    far = np.hypot(*away.T)
    found: dict[int, Box] = {}
    for place in sorted(range(len(dots)), key=lambda index: (dots[index].x, dots[index].y)):
        (width, height), dot = sizes[place], dots[place]
        middle = away + (dot.x, dot.y)
        spots = np.concatenate([middle - (width / 2, height / 2), middle + (width / 2, height / 2)], axis=1)
        outside = ~_inside(spots, room)
        cost = far + _HIT * (_overlaps(spots, taken) + 10 * outside) + _CROSSED * _overlaps(spots, thin)
        best = int(cost.argmin())
        found[place] = Box(float(middle[best, 0]), float(middle[best, 1]), width, height)
        taken = np.concatenate([taken, spots[best : best + 1]])
    return [found[place] for place in range(len(dots))]


def _corners(boxes: Sequence[Box]) -> np.ndarray:
    """Return left, bottom, right and top of boxes, [N, 4]."""
    rows = [(b.x - b.width / 2, b.y - b.height / 2, b.x + b.width / 2, b.y + b.height / 2) for b in boxes]
    return np.array(rows).reshape(-1, 4)


def _inside(spots: np.ndarray, room: Box) -> np.ndarray:
    left, bottom, right, top = _corners([room])[0]
    x, y, x_end, y_end = spots.T
    inside: np.ndarray = (x >= left) & (y >= bottom) & (x_end <= right) & (y_end <= top)
    return inside


def _overlaps(spots: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Count, for each of the spots [S, 4], the boxes [N, 4] that it meets; [S]."""
    a, b = spots[:, None], boxes[None]
    meets = (a[..., 0] < b[..., 2]) & (b[..., 0] < a[..., 2]) & (a[..., 1] < b[..., 3]) & (b[..., 1] < a[..., 3])
    count: np.ndarray = meets.sum(1)
    return count
