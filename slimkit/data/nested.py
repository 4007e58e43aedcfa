"""Inputs of several tensors, and their targets, in memory: one input at a time, as PyTorch data sets give them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset as MapDataset

from slimkit.example import tensors


class Nested(MapDataset[tuple[Any, Any]]):
    """Inputs, a nest of tensors [N, ...], with targets [N, ...]."""

    def __init__(self, inputs: Any, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return tree_map_only(Tensor, partial(_row, index=index), self.inputs), self.targets[index]


def _row(tensor: Tensor, index: int) -> Tensor:
    return tensor[index]


def nested(part: Any) -> Any:
    """Return (inputs of several tensors, targets) as a data set; whatever else it is stays."""
    if not (isinstance(part, (tuple, list)) and len(part) == 2 and isinstance(part[0], (Mapping, tuple, list))):
        return part
    inputs, targets = tree_map_only(np.ndarray, torch.as_tensor, (part[0], part[1]))
    found = tensors(inputs)
    if not isinstance(targets, Tensor) or not targets.dim() or not found:
        return part
    return Nested(inputs, targets) if all(one.dim() and len(one) == len(targets) for one in found) else part
