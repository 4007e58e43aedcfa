"""Accuracy: the share of a split's images whose highest score is the right class."""

from pathlib import Path

from torch import nn

from slimkit.measure.quality import Split, quality
from slimkit.tasks import CLASSIFICATION


def accuracy(network: nn.Module | str | Path, split: Split, *, batch_size: int = 250) -> float:
    """Return the top-1 accuracy, in [0, 1], of a network or of an ONNX file; see `quality.evaluate`."""
    return quality(network, split, CLASSIFICATION, batch_size=batch_size)
