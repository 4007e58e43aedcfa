"""LeNet-300-100, LeCun et al. 1998: two hidden layers on the pixels, no convolution."""

from typing import cast

from torch import Tensor, nn


class LeNet(nn.Module):
    """Pixels -> 300 -> 100 -> classes, with ReLU and, if asked, BN in between."""

    def __init__(self, pixels: int, num_classes: int, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in ((pixels, 300), (300, 100)):
            layers.append(nn.Linear(inputs, outputs, bias=not batch_norm))
            layers += [nn.BatchNorm1d(outputs)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] of `pixels` values each to logits [N, num_classes]."""
        return cast(Tensor, self.classifier(self.features(x)))


def lenet_300_100(num_classes: int = 10, in_channels: int = 1, image_size: int = 28, batch_norm: bool = False) -> LeNet:
    """Build LeNet-300-100 for square images of `image_size` pixels a side; without BN, as published."""
    return LeNet(in_channels * image_size**2, num_classes, batch_norm)
