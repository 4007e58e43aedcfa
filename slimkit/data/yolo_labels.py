"""Labels as YOLO's tools write them: a text file a picture, a line an object, in shares of width and height."""

import re
from array import array
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from slimkit.data.boxes import Box, Boxed
from slimkit.data.outlines import Outline

_LARGEST = 2**20  # bytes of a file: thousands of objects
_CLASSES = 10_000
_KEYPOINTS = re.compile(r"^kpt_shape\s*:", re.MULTILINE)
_SEEN = 100  # files by which keypoints are told from outlines
_NEAR = 1e-3  # of a picture: numbers are rounded


def read(picture: Path, labels: Path | None, outlined: bool = False, posed: bool = False) -> Boxed:
    """Read the labels of a picture: `class x y width height` of the centre, or `class x1 y1 x2 y2 ...` of an outline.

    A picture without a file has no objects. What is wrong with a file is kept for its check.

    Args:
        picture: its path.
        labels: its file, None where there is none.
        outlined: keep outlines, beside the boxes around them.
        posed: after a box come keypoints, which are left aside; see `are_posed`.
    """
    if labels is None:
        return Boxed(picture)
    try:
        if labels.stat().st_size > _LARGEST:
            return Boxed(picture, wrong=f"its labels {labels} are of more than a megabyte")
        lines = [line.split() for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return Boxed(picture, wrong=f"its labels {labels} cannot be read as text")
    boxes, categories, outlines = [], [], []
    for number, words in enumerate(lines, 1):
        try:
            category, sides = int(words[0]), [float(word) for word in (words[1:5] if posed else words[1:])]
            boxes.append(_box(sides))
        except ValueError:
            wanted = "a class, and the centre's x and y, width and height"
            return Boxed(picture, wrong=f"line {number} of {labels} is {' '.join(words)[:60]!r}, not {wanted}")
        if not 0 <= category < _CLASSES:
            return Boxed(picture, wrong=f"line {number} of {labels} is of class {category}")
        categories.append(category)
        outlines.append(Outline(polygons=(array("f", sides),)) if len(sides) > 4 else None)
    found = Boxed(picture, tuple(boxes), tuple(categories), (False,) * len(boxes), shares=True)
    return replace(found, outlines=tuple(outlines)) if outlined else found


def are_posed(root: Path, files: Iterable[Path]) -> bool:
    """Tell whether labels are boxes with keypoints after them: `class x y width height x1 y1 ...`, or `x1 y1 v1 ...`.

    A yaml beside them says so, or all lines of the first files are of one length and have a box around their points.
    """
    if any(_KEYPOINTS.search(path.read_text(errors="replace")) for path in root.glob("*.y*ml") if path.is_file()):
        return True
    rows: list[list[float]] = []
    for path in islice(files, _SEEN):
        try:
            words = path.read_text(encoding="utf-8").split("\n") if path.stat().st_size <= _LARGEST else []
            rows += [[float(word) for word in line.split()[1:]] for line in words if line.strip()]
        except (OSError, ValueError):  # which is told when the file is read
            continue
    return len({len(row) for row in rows}) == 1 and any(all(_around(row, size) for row in rows) for size in (2, 3))


def _around(row: list[float], size: int) -> bool:
    """Tell whether the first four numbers of a line are a box around the points after them, of 2 or 3 numbers each."""
    points = row[4:]
    if not points or len(points) % size:
        return False
    left, top, right, bottom = _box(row[:4])
    return all(
        left - _NEAR <= x <= right + _NEAR and top - _NEAR <= y <= bottom + _NEAR
        for x, y in zip(points[::size], points[1::size], strict=True)
        if x or y  # else it is not labelled
    )


def _box(sides: list[float]) -> Box:
    if len(sides) == 4:
        x, y, width, height = sides
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(sides) < 6 or len(sides) % 2:
        raise ValueError
    return min(sides[::2]), min(sides[1::2]), max(sides[::2]), max(sides[1::2])
