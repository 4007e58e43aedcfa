"""Are inputs such as a network was trained on? Its BatchNorms keep mean and spread of all that they read then."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import out_of_memory
from slimkit.example import Example, batch_size, call
from slimkit.modules import heard, private, unwrapped
from slimkit.recovery.norms import Norm, learned

# Gaps of the BatchNorm that runs first, and of the one in the middle. Of right inputs, 8 of them, or of one class: 0.39
# and 0.15 at most, on a ResNet, a ResNet-20 and an EfficientNet-Lite0; crops of one dark photo 0.64 and 0.34. Of
# pixels in [0, 1] or up to 255 in place of normalised ones, inverted ones, and noise 0.18 to 42,000 and 0.10 to 2,200,
# one of the two above these bounds each time, but for noise of 8 x 8 pixels.
_FIRST, _MIDDLE = 0.45, 0.25
_ENOUGH = 256  # inputs


class _Read:
    """Sums over what a BatchNorm reads, by channel, in double precision."""

    def __init__(self, norm: Norm) -> None:
        self.norm, self.count = norm, 0.0
        self.sums, self.squares = (torch.zeros(len(norm.mean), dtype=torch.float64) for _ in range(2))

    def add(self, x: Tensor) -> None:
        over = [dim for dim in range(x.dim()) if dim != 1]
        x = x.detach().double()
        self.count += x.numel() / x.shape[1]
        self.sums += x.sum(over).cpu()
        self.squares += x.square().sum(over).cpu()

    def gap(self) -> float:
        mean = self.sums / self.count
        return float(self.norm.gap(mean, (self.squares / self.count - mean.square()).clamp(min=0)))


@torch.no_grad()
def are_strange(model: nn.Module, batches: Sequence[Example], mixed: bool = False) -> bool:
    """Tell whether inputs are of other units, or of another kind, than those that the statistics of a network are of.

    A network whose BatchNorms were frozen while it was trained on other data finds that data strange. Without learned
    statistics, or where the network does not run, there is nothing to tell it by.

    Args:
        model: not changed.
        batches: where the network is; the first 256 inputs are enough.
        mixed: it was trained on mosaics of its inputs, whose statistics are others behind the first layers: a YOLO11n
            finds the pictures that it was trained on 0.44 from its own in the middle, and 0.03 at the first one.
    """
    twin = unwrapped(private(model))
    reads: dict[int, _Read] = {}  # in the order in which they run

    norms = {norm.module: norm for norm in learned(twin)}

    def note(module: nn.Module, given: Tensor, _: Any) -> None:
        if norms[module].reads(given) and given.numel():
            reads.setdefault(id(module), _Read(norms[module])).add(given)

    seen = 0
    with heard(norms, note, before=True):
        for batch in batches if norms else ():
            if seen >= _ENOUGH:
                break
            try:
                call(twin, batch)
            except Exception as error:  # whatever it raises: whoever needs it to run will say so
                out_of_memory.pass_on(error)
                return False
            seen += batch_size(batch)
    gaps = [read.gap() for read in reads.values()]
    return bool(gaps) and (not gaps[0] < _FIRST or (not mixed and not median(gaps) < _MIDDLE))
