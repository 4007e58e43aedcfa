"""Pre-activation residual networks of bottlenecks, He et al. 2016, arXiv:1603.05027, for small images.

Depth is 9n + 2: three stages of n bottlenecks, as the slimming papers use them. No channel selection layers:
slimkit removes the channels of a residual stream together, or keeps them.
"""

import torch
from torch import Tensor, nn

from slimkit.zoo.initialise import initialise

EXPANSION = 4  # channels of the residual stream over those of the 3x3 convolution


class Bottleneck(nn.Module):
    """BN, ReLU and convolution, three times (1x1, 3x3, 1x1), beside a shortcut."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * inner
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.bn1(x)))
        y = self.conv2(torch.relu(self.bn2(y)))
        y = self.conv3(torch.relu(self.bn3(y)))
        out: Tensor = y + self.shortcut(x)
        return out


class PreResNet(nn.Module):
    """Stem, three stages of `blocks` bottlenecks, BN, ReLU, global average pool, linear classifier."""

    def __init__(self, blocks: int, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.layer1 = _stage(blocks, width, width, stride=1)
        self.layer2 = _stage(blocks, EXPANSION * width, 2 * width, stride=2)
        self.layer3 = _stage(blocks, EXPANSION * 2 * width, 4 * width, stride=2)
        self.bn = nn.BatchNorm2d(EXPANSION * 4 * width)
        self.fc = nn.Linear(EXPANSION * 4 * width, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.fc(torch.relu(self.bn(x)).mean((2, 3)))
        return logits


def preresnet20(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> PreResNet:
    """Build PreResNet-20."""
    return PreResNet(2, num_classes, in_channels, width)


def _stage(blocks: int, inputs: int, inner: int, stride: int) -> nn.Sequential:
    first = Bottleneck(inputs, inner, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * inner, inner, 1) for _ in range(blocks - 1)))
