"""When has a mask settled? The published rules, as functions of the last masks.

d(a, b) = share of the units of groups that can lose some on which two masks differ; for random masks that lack a share
p of those units, chance = 2 p (1 - p). Such groups are given by their units, int64 [n] each.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimkit.errors import SpecError
from slimkit.methods import pruning_indicator
from slimkit.selection.mask import Mask, distance

# How a mask's movement grows with the time between two looks: distance ~ interval ** MOVEMENT. Measured, see
# `calibrated`.
MOVEMENT = 0.5
# Epochs over which a mask must hold where looks are closer than an epoch. While the learning rate warms up masks drift
# slowly but far: without this 12 of 12 masks of ResNet-8 on digits (10 steps an epoch) were drawn 0.26 to 0.41 from
# the final one, with it 0.05 to 0.14 but for two.
SPAN = 2.0


@dataclass(frozen=True)
class Rule:
    """When to draw.

    Attributes:
        name: `consecutive`, `window` or `architecture`.
        threshold: distance below which a mask has settled, for masks one epoch apart.
        normalised: divide distances by those of chance.
        length: how many distances (`consecutive`) or masks (the others) must agree.
        interval: epochs between two masks; below 1 the threshold shrinks with it, see `calibrated`, and a mask must
            also lie within `threshold` of the one `SPAN` epochs before.
    """

    name: str = "consecutive"
    threshold: float = 0.1
    normalised: bool = False
    length: int = 5
    interval: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise SpecError(f"rule is {self.name!r}: it must be one of {', '.join(RULES)}.")
        for name, value, good in (
            ("threshold", self.threshold, 0 < self.threshold <= 1),
            ("length", self.length, isinstance(self.length, int) and self.length >= 2),
            ("interval", self.interval, self.interval > 0 and math.isfinite(self.interval)),
        ):
            if not good:
                raise SpecError(
                    f"{name} of the draw rule is {value}: out of range.\n"
                    "  threshold lies in (0, 1], length is a whole number from 2 on, interval (in epochs) is above 0"
                )

    @property
    def calibrated(self) -> float:
        """The threshold for masks `interval` epochs apart.

        Masks that are looked at more often lie closer, whether they have settled or not. Their distance was
        seen to grow about as the square root of the time between them, as that of a random walk does; so a
        shorter interval asks for a smaller distance. A longer one asks for no larger one.
        """
        return self.threshold * float(min(1.0, self.interval) ** MOVEMENT)


def consecutive(masks: Sequence[Mask], groups: Sequence[Tensor]) -> list[float]:
    """Return the distances of successive masks, oldest first: the paper's rule.

    You et al. 2020, arXiv:1909.11957.
    """
    units = torch.cat(list(groups))
    return [distance(a, b, units) for a, b in zip(masks, masks[1:], strict=False)]


def window(masks: Sequence[Mask], groups: Sequence[Tensor]) -> list[float]:
    """Return the distances of the newest mask to each older one: the rule of the paper's released code.

    It also sees a slow drift.
    """
    units = torch.cat(list(groups))
    return [distance(old, masks[-1], units) for old in masks[:-1]]


def architecture(masks: Sequence[Mask], groups: Sequence[Tensor]) -> list[float]:
    """Return how much the widths of the newest mask differ from those of each older one."""
    counts = [[int(mask.keep[units].sum()) for units in groups] for mask in masks]
    return [pruning_indicator.width_distance(old, counts[-1]) for old in counts[:-1]]


def chance(rule: Rule, mask: Mask, groups: Sequence[Tensor]) -> float:
    """Return the distance that two random masks have on average which remove as many units as this one."""
    sizes = [len(units) for units in groups]
    share = mask.removed / sum(sizes)
    return pruning_indicator.chance(sizes, share) if rule.name == "architecture" else 2 * share * (1 - share)


def compared(rule: Rule) -> int:
    """Return how many masks a rule compares."""
    return rule.length + 1 if rule.name == "consecutive" else rule.length


def needed(rule: Rule) -> int:
    """Return how many masks it takes to settle: those compared, and where looks are close those of `SPAN` epochs."""
    return max(compared(rule), math.ceil(SPAN / rule.interval) + 1) if rule.interval < 1 else compared(rule)


def settled(rule: Rule, distances: Sequence[float]) -> bool:
    """Tell whether distances, already divided by chance if the rule asks for it, are small enough."""
    if not distances:
        return False
    if rule.name == "consecutive":
        return max(distances) < rule.calibrated
    if rule.name == "window":
        return max(distances) <= rule.calibrated
    return float(torch.tensor(distances).mean()) <= rule.calibrated


RULES: dict[str, Callable[[Sequence[Mask], Sequence[Tensor]], list[float]]] = {
    "consecutive": consecutive,
    "window": window,
    "architecture": architecture,
}
