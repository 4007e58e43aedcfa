"""Starting weights of the zoo's networks."""

from torch import nn


def initialise(model: nn.Module, gamma: float = 0.5) -> None:
    """Draw He-normal convolutions; set every BN's gamma to `gamma` and beta to 0.

    Gamma starts at 0.5 as in network slimming (Liu et al. 2017, arXiv:1708.06519), where it gave the better
    baseline on small images.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.constant_(module.weight, gamma)
            nn.init.zeros_(module.bias)
