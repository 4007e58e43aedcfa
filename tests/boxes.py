"""Made pictures of discs, squares and triangles with boxes, outlines or keypoints, in Ultralytics' files or COCO's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

NAMES = ("disc", "square", "triangle")
KEYPOINTS = ("left", "right", "top")  # the outermost corners of a shape


def outlines(random: np.random.Generator, size: int) -> Iterator[tuple[int, list[tuple[float, float]]]]:
    """Give one to three shapes of a picture: class and corners in pixels, none over the edge."""
    for _ in range(random.integers(1, 4)):
        kind, radius = int(random.integers(3)), float(random.uniform(0.09, 0.2) * size)
        x, y = random.uniform(radius, size - radius, 2)
        turns = {0: 24, 1: 4, 2: 3}[kind]
        angles = np.arange(turns) * 2 * np.pi / turns + {0: 0.0, 1: np.pi / 4, 2: -np.pi / 2}[kind]
        yield kind, [(x + radius * np.cos(a), y + radius * np.sin(a)) for a in angles]


def picture(random: np.random.Generator, size: int) -> tuple[Image.Image, list[tuple[int, np.ndarray]]]:
    """Return a noisy picture and its shapes: class and corners [K, 2] as shares of its side; later ones lie on top."""
    image = Image.fromarray(random.integers(0, 110, (size, size, 3)).astype(np.uint8))
    draw, found = ImageDraw.Draw(image), []
    for kind, corners in outlines(random, size):
        draw.polygon(corners, fill=tuple(int(c) for c in random.integers(120, 256, 3)))
        found.append((kind, np.array(corners) / size))
    return image, found


def line(kind: int, corners: np.ndarray, task: str) -> str:
    """Return a label as Ultralytics writes it."""
    low, high = corners.min(0), corners.max(0)
    box = [*((low + high) / 2), *(high - low)]
    numbers: Any = {
        "detect": box,
        "segment": corners.flatten(),
        "pose": [*box, *corners[0], 2, *corners[-1], 2],
    }[task]
    return " ".join([str(kind), *(f"{n:.5f}" for n in numbers)])


def write(root: Path, images: dict[str, int], size: int = 96, task: str = "detect", seed: int = 0) -> Path:
    """Write a data set in the layout of Ultralytics; return its yaml.

    Args:
        root: folder to make.
        images: number of pictures a split, as {"train": 64, "val": 32}.
        size: side of a picture in pixels.
        task: `detect`, `segment`, `pose` (the first and the last corner).
        seed: of the pictures.
    """
    random = np.random.default_rng(seed)
    for split, count in images.items():
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, found = picture(random, size)
            image.save(root / "images" / split / f"{number}.png")
            lines = [line(kind, corners, task) for kind, corners in found]
            (root / "labels" / split / f"{number}.txt").write_text("\n".join(lines))
    rows = [f"path: {root}", *(f"{split}: images/{split}" for split in images), "names:"]
    rows += [f"  {number}: {name}" for number, name in enumerate(NAMES)]
    rows += ["kpt_shape: [2, 3]"] if task == "pose" else []
    yaml = root / "data.yaml"
    yaml.write_text("\n".join(rows) + "\n")
    return yaml


def outermost(corners: np.ndarray) -> np.ndarray:
    """Return the keypoints of a shape, [3, 2], of its corners [K, 2]."""
    return corners[[corners[:, 0].argmin(), corners[:, 0].argmax(), corners[:, 1].argmin()]]


def coco(root: Path, images: dict[str, int], size: int = 96, seed: int = 0) -> Path:
    """Write a data set as COCO has it: `images/SPLIT` and `annotations/instances_SPLIT.json`; return its folder.

    Objects have boxes, polygons and keypoints.

    Args:
        root: folder to make.
        images: number of pictures a split, as {"train": 64, "val": 32}.
        size: side of a picture in pixels.
        seed: of the pictures.
    """
    random = np.random.default_rng(seed)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, count in images.items():
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        made: dict[str, list[Any]] = {"images": [], "annotations": []}
        categories = enumerate(NAMES, 1)
        made["categories"] = [{"id": number, "name": name, "keypoints": KEYPOINTS} for number, name in categories]
        for number in range(count):
            image, found = picture(random, size)
            image.save(root / "images" / split / f"{number}.png")
            made["images"].append({"id": number, "file_name": f"{number}.png", "width": size, "height": size})
            for kind, corners in found:
                low, high = (corners.min(0) * size).tolist(), (corners.max(0) * size).tolist()
                entry = {"id": len(made["annotations"]), "image_id": number, "category_id": kind + 1}
                entry |= {"bbox": [*low, high[0] - low[0], high[1] - low[1]]}
                entry |= {"segmentation": [(corners * size).flatten().tolist()]}
                entry |= {"keypoints": [side for x, y in outermost(corners * size).tolist() for side in (x, y, 2)]}
                made["annotations"].append(entry)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(made))
    return root
