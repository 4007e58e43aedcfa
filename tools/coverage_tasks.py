"""Which networks of other tasks can be slimmed exactly: dense prediction, video, optical flow, Hugging Face's CNNs.

    python tools/coverage_tasks.py [--out docs/results/data/coverage_tasks.jsonl] [NAME ...]

As coverage_timm.py, whose rows these are like: random weights, small images. Networks of segmentation_models_pytorch
and transformers are run where these are installed.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from coverage_timm import ROWS, drawn, each, measured
from coverage_timm import table as table
from rows import Row
from torch import nn

from slimkit.example import Example

OUT = ROWS.with_name("coverage_tasks.jsonl")
DECODERS = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus")
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "ResNet": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2]},
    "RegNet": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2], "groups_width": 16},
    "MobileNetV1": {},
    "MobileNetV2": {},
    "EfficientNet": {"width_coefficient": 0.5, "depth_coefficient": 0.5},
    "ConvNext": {"hidden_sizes": [32, 64], "depths": [2, 2], "num_stages": 2},
    "PoolFormer": {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
    "LeViT": {},
}


def picture(size: int = 96) -> Example:
    return torch.randn(1, 3, size, size)


def clip() -> Example:
    return torch.randn(1, 3, 8, 64, 64)


def of_torchvision(name: str, **settings: Any) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(name, weights=None, **settings)
    return model


def of_smp(decoder: str) -> nn.Module:
    import segmentation_models_pytorch as smp

    model: nn.Module = getattr(smp, decoder)("resnet18", encoder_weights=None, classes=4)
    return model


def of_transformers(kind: str, settings: dict[str, Any]) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**settings)
    model: nn.Module = getattr(transformers, f"{kind}ForImageClassification")(config)
    return model


def fpn() -> nn.Module:
    return torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d
    )


Made = tuple[Callable[[], nn.Module], Callable[[], Example]]
NETWORKS: dict[str, Made] = {
    "torchvision segmentation: fcn_resnet50": (lambda: of_torchvision("fcn_resnet50", weights_backbone=None), picture),
    "torchvision segmentation: deeplabv3_mobilenet_v3_large": (
        lambda: of_torchvision("deeplabv3_mobilenet_v3_large", weights_backbone=None), picture,
    ),
    "torchvision segmentation: lraspp_mobilenet_v3_large": (
        lambda: of_torchvision("lraspp_mobilenet_v3_large", weights_backbone=None), picture,
    ),
    "torchvision detection: backbone with FPN": (fpn, picture),
    "torchvision video: r3d_18": (lambda: of_torchvision("r3d_18"), clip),
    "torchvision video: mc3_18": (lambda: of_torchvision("mc3_18"), clip),
    "torchvision video: r2plus1d_18": (lambda: of_torchvision("r2plus1d_18"), clip),
    "torchvision video: s3d": (lambda: of_torchvision("s3d"), lambda: torch.randn(1, 3, 16, 224, 224)),
    "torchvision optical flow: raft_small": (
        lambda: of_torchvision("raft_small"), lambda: (torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128)),
    ),
    **{f"segmentation_models_pytorch: {name}": ((lambda name=name: of_smp(name)), picture) for name in DECODERS},
    **{
        f"transformers: {kind}": (
            (lambda kind=kind, settings=settings: of_transformers(kind, settings)), lambda: picture(224),
        )
        for kind, settings in TRANSFORMERS.items()
    },
}  # fmt: skip


def measure(name: str) -> Row:
    """Return the row of one network."""
    torch.manual_seed(0)
    build, example = NETWORKS[name]
    return measured(drawn(build()), example())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; default: all")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    each(args.names or list(NETWORKS), args.out, lambda name: name.partition(":")[0], measure)


if __name__ == "__main__":
    main()
