"""Made pictures with shapes in them, their masks, and a small network that finds them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


def shapes(count: int, size: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return noisy pictures uint8 [N, 3, size, size] of a disc and a square, and masks [N, size, size]: 0, 1, 2."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    images = random.integers(0, 90, (count, 3, size, size))
    masks = np.zeros((count, size, size), np.int64)
    for image, mask in zip(images, masks, strict=True):
        (y, x), radius = random.integers(5, size - 5, 2), random.integers(3, 6)
        mask[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = 1
        top, left = random.integers(0, size - 8, 2)
        mask[top : top + 7, left : left + 7] = 2
        image[0][mask == 1] += 120
        image[2][mask == 2] += 120
    return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(masks)


def write(root: Path, part: str, count: int, seed: int) -> None:
    """Write pictures and masks as a folder for segmentation."""
    for kind in ("images", "masks"):
        (root / part / kind).mkdir(parents=True, exist_ok=True)
    for number, (image, mask) in enumerate(zip(*shapes(count, seed=seed), strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / part / "images" / f"{number}.png")
        Image.fromarray(mask.to(torch.uint8).numpy()).save(root / part / "masks" / f"{number}.png")


class Segmenter(nn.Module):
    """Encoder, decoder, and in training an auxiliary head, as torchvision's networks return them."""

    def __init__(self, classes: int = 3, width: int = 16) -> None:
        super().__init__()

        def block(c: int, w: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(c, w, 3, stride, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU())

        self.down = nn.Sequential(block(3, width), block(width, 2 * width, 2), block(2 * width, 2 * width))
        self.up = nn.Sequential(nn.Upsample(scale_factor=2.0), block(2 * width, width))
        self.head = nn.Conv2d(width, classes, 1)
        self.auxiliary = nn.Conv2d(2 * width, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low = self.down(x)
        out = {"out": self.head(self.up(low))}
        return {**out, "aux": self.auxiliary(low)} if self.training else out
