"""Detectors of 64 pixels and three convolutions, which an architecture reference can name."""

from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

SIDE = 64


class Body(nn.Module):
    out_channels: int | list[int] = 24

    def __init__(self) -> None:
        super().__init__()
        widths = [(3, 16), (16, 24), (24, 24)]
        parts = [(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in widths]
        self.layers = nn.Sequential(*(part for three in parts for part in three))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def boxes_of(num_classes: int) -> dict[str, Any]:
    """Return what finds boxes of that many classes, the background among them."""
    return {
        "min_size": SIDE,
        "max_size": SIDE,
        "rpn_anchor_generator": AnchorGenerator(((12, 18, 25),), ((1.0,),)),
        "box_roi_pool": MultiScaleRoIAlign(["0"], 5, 2),
        "box_head": TwoMLPHead(24 * 25, 48),
        "box_predictor": FastRCNNPredictor(48, num_classes),
    }


def make(num_classes: int = 4) -> FasterRCNN:
    """Build the detector for that many classes, the background among them."""
    return FasterRCNN(Body(), **boxes_of(num_classes))


def make_mask(num_classes: int = 4) -> MaskRCNN:
    """Build one that finds masks too."""
    return MaskRCNN(
        Body(),
        mask_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        mask_head=MaskRCNNHeads(24, (24, 24), 1),
        mask_predictor=MaskRCNNPredictor(24, 24, num_classes),
        **boxes_of(num_classes),
    )


def make_keypoint(num_classes: int = 4, num_keypoints: int = 3) -> KeypointRCNN:
    """Build one that finds keypoints too."""
    return KeypointRCNN(
        Body(),
        keypoint_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        keypoint_head=KeypointRCNNHeads(24, (24, 24)),
        keypoint_predictor=KeypointRCNNPredictor(24, num_keypoints),
        **boxes_of(num_classes),
    )


def make_ssd(num_classes: int = 4) -> SSD:
    """Build a detector of one stage, the background among its classes."""
    body = Body()
    body.out_channels = [body.out_channels]
    return SSD(body, DefaultBoxGenerator([[2]], scales=[0.2, 0.5]), (SIDE, SIDE), num_classes, score_thresh=0.0)
