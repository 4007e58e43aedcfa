"""Random crop and flip of a whole batch at once."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """What may be done to an image of a data set without changing its class.

    Attributes:
        pad: pixels an image may shift in each direction; the border is filled with zeros.
        flip: whether an image may be mirrored left to right.
    """

    pad: int = 0
    flip: bool = False


def shift_and_flip(images: Tensor, how: Augmentation, random: torch.Generator, shard: slice) -> Tensor:
    """Shift and mirror the images of one batch.

    Args:
        images: uint8 or float [B, C, H, W], this process's part of a batch.
        how: what may be done.
        random: source of the numbers, on the CPU; drawn for the whole batch, so that the result doesn't
            depend on the number of processes.
        shard: which part of the whole batch `images` is; `shard.stop` is the size of the whole batch.
    """
    whole = int(shard.stop)
    count, _, height, width = images.shape
    if how.pad:
        shifts = torch.randint(2 * how.pad + 1, (2, whole), generator=random)[:, shard].to(images.device)
        padded = F.pad(images, [how.pad] * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [B, C, shifts, shifts, H, W], a view
        images = windows[torch.arange(count, device=images.device), :, shifts[0], shifts[1]]
    if how.flip:
        flipped = (torch.rand(whole, generator=random)[shard] < 0.5).to(images.device)
        images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
    return images
