"""torchvision's detectors: cut exactly up to their heads; trained on by the losses that they give themselves."""

import boxes
import numpy as np
import pytest
import tiny_detector
import torch
from torch import Tensor, nn
from torchvision.models.detection import (
    FasterRCNN,
    KeypointRCNN,
    RetinaNet,
    fcos_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    ssdlite320_mobilenet_v3_large,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import slimkit
from slimkit.models.detectors import Heads, is_detector
from slimkit.selection.mask import Mask
from slimkit.surgery import proof

SIDE = 96
SIZES = {"min_size": SIDE, "max_size": SIDE}


def backbone() -> nn.Module:
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d)


DETECTORS = {
    "faster": lambda: FasterRCNN(backbone(), num_classes=4, **SIZES),
    "retina": lambda: RetinaNet(backbone(), num_classes=4, **SIZES),
    "ssdlite": lambda: ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4),
    "keypoint": lambda: KeypointRCNN(backbone(), num_classes=2, num_keypoints=2, **SIZES),
    "fcos": lambda: fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4, **SIZES),
    "mask": lambda: maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4, **SIZES),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("fcos", "mask")]


def detector(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = DETECTORS[name]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return net.eval()


def shapes(count: int, kinds: int = 4, seed: int = 0) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return images and targets as a detector takes them; masks are the boxes, keypoints two corners."""
    random, images, targets = np.random.default_rng(seed), [], []
    for _ in range(count):
        image, found = boxes.picture(random, SIDE)
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)
        corners = [torch.from_numpy(c).float() * SIDE for _, c in found]
        low, high = (torch.stack([f(c, 0).values for c in corners]) for f in (torch.min, torch.max))
        masks = torch.zeros(len(found), SIDE, SIDE, dtype=torch.uint8)
        for mask, a, b in zip(masks, low.long(), high.long(), strict=True):
            mask[a[1] : b[1] + 1, a[0] : b[0] + 1] = 1
        points = torch.stack([torch.stack([c[0], c[-1]]) for c in corners])
        targets.append(
            {
                "boxes": torch.cat([low, high], 1),
                "labels": torch.tensor([min(kind + 1, kinds - 1) for kind, _ in found]),
                "masks": masks,
                "keypoints": torch.cat([points, torch.ones(len(found), 2, 1)], 2),
            }
        )
    return images, targets


def half_of(model: nn.Module, x: Tensor) -> tuple[slimkit.Graph, Mask]:
    graph = slimkit.trace(model, x)
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.groups:
        keep[group.members[: len(group.members) // 2]] = False
    return graph, Mask(keep)


@pytest.mark.long
@pytest.mark.parametrize("name", [*(name for name in DETECTORS if name not in ("fcos", "mask")), *SLOW])
def test_a_detector_is_cut_exactly_and_stays_one(name):
    net = detector(name)
    assert is_detector(net) and not is_detector(nn.Linear(1, 1))
    heads = Heads(net).eval()
    images, targets = shapes(2, kinds=2 if name == "keypoint" else 4)
    x = heads.prepared(images)
    graph, mask = half_of(heads, x)
    inner = [kept for kept in graph.kept if not kept.output and "GroupNorm" not in kept.reason]
    assert inner == [] and graph.units > 1000
    assert proof.evidence_for(heads, graph, mask, [x]).error <= proof.TOLERANCE

    slim = slimkit.remove(heads, graph, mask).net
    assert sum(p.numel() for p in slim.parameters()) < 0.5 * sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        assert [set(found) >= {"boxes", "labels", "scores"} for found in slim(images)] == [True, True]
    losses = slim.train()(images, targets)
    assert set(losses) == set(net.train()(images, targets))
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in slim.parameters() if p.grad is not None)


def test_retraining_is_by_the_losses_of_the_detector_itself():
    net = tiny_detector.make(4).eval()
    images, targets = shapes(8)
    cut: list[float] = []  # its losses before it is retrained

    def loss(model: nn.Module) -> float:
        model.train()
        with torch.no_grad():
            found = float(sum(model(images, targets).values()))
        model.eval()
        return found

    def retrain(slim: nn.Module, dense: nn.Module) -> nn.Module:
        assert isinstance(slim, type(net)) and isinstance(dense, type(net))
        cut.append(loss(slim))
        sgd = torch.optim.SGD(slim.parameters(), lr=0.01, momentum=0.9)
        slim.train()
        for _ in range(6):
            sgd.zero_grad()
            sum(slim(images, targets).values()).backward()
            sgd.step()
        return slim

    x = Heads(net).eval().prepared(images)
    asked = {"calibration": x, "onnx": False}
    result = slimkit.compress(net, x[:1], 0.5, retrain=retrain, evaluate=lambda model: {"loss": loss(model)}, **asked)
    assert isinstance(result.model, type(net)) and result.report.recovery.by == "own"
    assert result.report.own.after["loss"] < cut[0]
    assert result.report.proof.masked_vs_slim <= proof.TOLERANCE


def test_fixed_regions_are_those_that_pooling_gives():
    """One level: the regions are what the detector's own pooling reads there."""
    from torchvision.ops import MultiScaleRoIAlign

    from slimkit.models.detectors import REGIONS, pooled

    pool = MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=2)
    features, images = {"0": torch.rand(1, 4, 12, 12)}, torch.rand(1, 3, 96, 96)
    expected = pool(features, [torch.tensor(REGIONS) * 96], [(96, 96)])
    torch.testing.assert_close(pooled(pool, features, images), expected)
