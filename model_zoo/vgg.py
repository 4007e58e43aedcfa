"""VGG networks with BN for small images, after Simonyan & Zisserman 2015, arXiv:1409.1556.

As in the slimming papers one linear layer classifies the pooled features. Widths are given for width = 1;
"M" is a 2x2 max pool.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from slimkit.zoo.initialise import initialise

VGG16 = (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8)
VGG8 = (1, 1, "M", 2, 2, "M", 4, 4, 4)


class VGG(nn.Module):
    """Convolutions with BN and ReLU, global average pool, linear classifier."""

    def __init__(self, plan: Sequence[int | str], num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for item in plan:
            if isinstance(item, str):
                layers.append(nn.MaxPool2d(2))
            else:
                conv = nn.Conv2d(channels, item * width, 3, padding=1, bias=False)
                channels = item * width
                layers += [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def vgg16_bn(num_classes: int = 10, in_channels: int = 3, width: int = 64) -> VGG:
    """Build VGG-16 with BN: 13 convolutions, for images of 16 pixels and more."""
    return VGG(VGG16, num_classes, in_channels, width)


def vgg8(num_classes: int = 10, in_channels: int = 1, width: int = 16) -> VGG:
    """Build a VGG of 7 narrow convolutions that trains in minutes on a CPU, from 4 pixels up."""
    return VGG(VGG8, num_classes, in_channels, width)
