"""Small networks of the slimming papers, for images of 8 to 32 pixels, with trained checkpoints.

Every factory takes the keywords `num_classes` and `in_channels`; most take `width`, the channels of the
first layer, which scales all others. Networks return logits [N, num_classes].
"""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from slimkit.zoo.lenet import lenet_300_100
from slimkit.zoo.preresnet import preresnet20
from slimkit.zoo.resnet import resnet8, resnet20, resnet56
from slimkit.zoo.vgg import vgg8, vgg16_bn

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "resnet8": resnet8,
    "resnet20": resnet20,
    "resnet56": resnet56,
    "preresnet20": preresnet20,
    "vgg8": vgg8,
    "vgg16_bn": vgg16_bn,
    "lenet-300-100": lenet_300_100,
}

# One image (C, H, W) that the factory called without arguments takes.
INPUT_SHAPES: dict[str, tuple[int, int, int]] = {
    "resnet8": (1, 8, 8),
    "resnet20": (3, 32, 32),
    "resnet56": (3, 32, 32),
    "preresnet20": (3, 32, 32),
    "vgg8": (1, 28, 28),
    "vgg16_bn": (3, 32, 32),
    "lenet-300-100": (1, 28, 28),
}

# Trained networks that come with the package, by name: `resnet8-digits` and so on.
CHECKPOINTS: dict[str, Path] = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}

__all__ = [
    "ARCHITECTURES",
    "CHECKPOINTS",
    "INPUT_SHAPES",
    "lenet_300_100",
    "preresnet20",
    "resnet8",
    "resnet20",
    "resnet56",
    "vgg8",
    "vgg16_bn",
]
