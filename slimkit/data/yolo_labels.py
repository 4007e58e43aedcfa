"""Labels as YOLO's tools write them: a text file a picture, a line an object, in shares of width and height."""

from array import array
from dataclasses import replace
from pathlib import Path

from slimkit.data.boxes import Box, Boxed
from slimkit.data.outlines import Outline

_LARGEST = 2**20  # bytes of a file: thousands of objects
_CLASSES = 10_000


def read(picture: Path, labels: Path | None, outlined: bool = False) -> Boxed:
    """Read the labels of a picture: `class x y width height` of the centre, or `class x1 y1 x2 y2 ...` of an outline.

    A picture without a file has no objects. What is wrong with a file is kept for its check.

    Args:
        picture: its path.
        labels: its file, None where there is none.
        outlined: keep outlines, beside the boxes around them.
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
            category, sides = int(words[0]), [float(word) for word in words[1:]]
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


def _box(sides: list[float]) -> Box:
    if len(sides) == 4:
        x, y, width, height = sides
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(sides) < 6 or len(sides) % 2:
        raise ValueError
    return min(sides[::2]), min(sides[1::2]), max(sides[::2]), max(sides[1::2])
