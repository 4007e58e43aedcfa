"""torchvision's detectors as surgery sees them: images -> the maps of their heads, before anchors and suppression.

Faster R-CNN with its masks and keypoints, RetinaNet, FCOS, SSD and SSDLite. A detector itself takes a list of images,
and what it returns depends on what it finds; what its layers compute is told by its heads. In training mode it gives
its own losses, which is how it is trained: `heads.net(images, targets)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_REGIONS = ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.6, 0.5), (0.3, 0.4, 1.0, 1.0))  # of an image, that second stages look at


class Heads(nn.Module):
    """A detector as surgery sees it; the detector itself is `net`, and stays one.

    Second stages look at three fixed regions, on the features of every level.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Return the maps of every head by name.

        Args:
            images: [N, 3, H, W], as `prepared` gives them.
        """
        net: Any = self.net
        features = net.backbone(images)
        features = dict(features) if isinstance(features, Mapping) else {"0": features}
        if not hasattr(net, "rpn"):
            found: dict[str, Any] = net.head(list(features.values()))
            return found
        objectness, boxes = net.rpn.head(list(features.values()))
        return {"objectness": objectness, "boxes": boxes} | _second_stage(net.roi_heads, features, images)

    def prepared(self, images: Sequence[Tensor]) -> Tensor:
        """Return images as the layers get them: normalised, resized and padded by the detector, [N, 3, H, W].

        Args:
            images: each [3, h, w] in [0, 1], as a detector takes them.
        """
        net: Any = self.net
        found: Tensor = net.transform(list(images))[0].tensors
        return found


def is_detector(model: object) -> bool:
    """Tell whether a module is a detector of torchvision, with a backbone of its own."""
    kinds = {kind.__module__ for kind in type(model).__mro__}
    named = any(kind.startswith("torchvision.models.detection.") for kind in kinds)
    return named and hasattr(model, "backbone") and hasattr(model, "transform")


def _second_stage(heads: Any, features: dict[str, Tensor], images: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}
    scores, deltas = heads.box_predictor(heads.box_head(_pooled(heads.box_roi_pool, features, images)))
    found |= {"classes": scores, "box_deltas": deltas}
    if heads.has_mask():
        found["masks"] = heads.mask_predictor(heads.mask_head(_pooled(heads.mask_roi_pool, features, images)))
    if heads.has_keypoint():
        pooled = _pooled(heads.keypoint_roi_pool, features, images)
        found["keypoints"] = heads.keypoint_predictor(heads.keypoint_head(pooled))
    return found


def _pooled(pool: Any, features: dict[str, Tensor], images: Tensor) -> Tensor:
    """Return the regions of every image on every level that a stage reads, [levels x N x regions, C, h, w]."""
    from torchvision.ops import roi_align

    height, width = images.shape[2:]
    sides = images.new_tensor([width, height, width, height])
    regions = [images.new_tensor(_REGIONS) * sides for _ in images]
    maps = [features[name] for name in pool.featmap_names if name in features]
    return torch.cat([roi_align(m, regions, pool.output_size, m.shape[2] / height, pool.sampling_ratio) for m in maps])
