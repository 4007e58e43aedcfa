"""Layers that normalise by statistics of training: BatchNorms, and those that libraries have frozen."""

from dataclasses import dataclass

from torch import Tensor, nn

_EPS = 1e-5  # of frozen ones that do not say


@dataclass(frozen=True)
class Norm:
    """A layer and the statistics that it keeps of what it reads.

    Attributes:
        module: the layer.
        mean, variance: [C], along dimension 1 of what it reads.
        eps: what it adds to the variance.
    """

    module: nn.Module
    mean: Tensor
    variance: Tensor
    eps: float

    def reads(self, x: object) -> bool:
        """Tell whether a tensor is such as the statistics are of."""
        return isinstance(x, Tensor) and x.dim() > 1 and x.shape[1] == len(self.mean)

    def gap(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return how far statistics [C] are from those that it keeps: squares, in spreads, a mean over channels."""
        kept = (self.variance + self.eps).to(mean)
        shift = (mean - self.mean.to(mean)).square() / kept
        spread = (variance / kept).clamp(min=1e-6).sqrt() - (self.variance.to(mean) / kept).sqrt()
        return (shift + spread.square()).mean()


def estimated(mean: Tensor | None, variance: Tensor | None) -> bool:
    """Tell whether such statistics, [C] each, were ever estimated: those that a layer is made with are 0 and 1."""
    return mean is not None and variance is not None and (bool(mean.any()) or not bool((variance == 1).all()))


def learned(model: nn.Module) -> list[Norm]:
    """Return the layers of a network whose statistics were ever estimated.

    They are told by `running_mean` and `running_var`: the frozen ones of torchvision, Detectron2, DETR and timm are no
    BatchNorms of torch's.
    """
    found = []
    for module in model.modules():
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if not (isinstance(mean, Tensor) and isinstance(variance, Tensor)):
            continue
        if mean.dim() == 1 and mean.shape == variance.shape and estimated(mean, variance):
            found.append(Norm(module, mean, variance, float(getattr(module, "eps", _EPS))))
    return found
