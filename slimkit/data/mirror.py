"""A picture and its objects as a mirror shows them; keypoints that have a left and a right change places."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
_SIDE = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])")


def partners(names: Sequence[str]) -> tuple[int, ...] | None:
    """Return of each keypoint the number of the one in whose place a mirror shows it: left_eye's is right_eye.

    Args:
        names: of the keypoints.

    Returns:
        K numbers; None where the names do not tell: none has a side, or one with a side has no partner.
    """
    plain = [name.lower() for name in names]
    other = [_SIDE.sub(lambda side: _SIDES[side[0]], name) for name in plain]
    if other == plain or sorted(other) != sorted(set(plain)):
        return None
    return tuple(map(plain.index, other))


def mirrored(
    image: Tensor, target: dict[str, Tensor], swapped: Sequence[int] | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a picture mirrored left to right, with its objects.

    Args:
        image: [3, H, W].
        target: `boxes` [N, 4], where there are some `masks` [N, H, W] and `keypoints` [N, K, 3], in pixels; what else
            there is stays.
        swapped: as `partners` gives it, where there are keypoints.
    """
    width, found = image.shape[-1], dict(target)
    left, top, right, bottom = target["boxes"].unbind(1)
    found["boxes"] = torch.stack([width - right, top, width - left, bottom], 1)
    if "masks" in target:
        found["masks"] = target["masks"].flip(-1)
    if "keypoints" in target:
        assert swapped is not None
        x, y, seen = target["keypoints"][:, list(swapped)].unbind(2)
        found["keypoints"] = torch.stack([torch.where(seen > 0, width - x, x), y, seen], 2)
    return image.flip(-1), found
