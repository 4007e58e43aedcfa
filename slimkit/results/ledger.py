"""What a training run costs, beside the alternatives.

One MAC is a multiply-add. Forward MACs are counted; training on an image is taken as three forward passes
(one forward, two backward), a model that all rows share. Measuring BN statistics and validating are left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

FORWARDS_PER_IMAGE = 3


@dataclass(frozen=True)
class Leg:
    """Part of a run: one network, so many images.

    Attributes:
        macs: of one forward pass of one image.
        images: trained on.
        search: the network was still the dense one, or one that a later cut made smaller.
        seconds, cpu_seconds: that this took.
    """

    macs: int
    images: int
    search: bool
    seconds: float = field(default=0.0, compare=False)
    cpu_seconds: float = field(default=0.0, compare=False)

    @property
    def cost(self) -> int:
        """MACs of this part."""
        return FORWARDS_PER_IMAGE * self.macs * self.images


@dataclass(frozen=True)
class Ledger:
    """MACs of a run and of what one might have done instead.

    Attributes:
        search: until the last cut.
        training: after it.
        dense: training the dense network once, for the epochs of the run.
        train_prune_retrain: that, and then training the slim network for as long, as network slimming does.
    """

    search: int
    training: int
    dense: int
    train_prune_retrain: int

    @property
    def total(self) -> int:
        """MACs of the whole run."""
        return self.search + self.training

    @property
    def share(self) -> float:
        """Cost of the run in units of one dense training."""
        return self.total / self.dense


def ledger(legs: Sequence[Leg], dense_macs: int, slim_macs: int, images: int) -> Ledger:
    """Add up a run.

    Args:
        legs: all parts of the run.
        dense_macs: of one forward pass of the dense network.
        slim_macs: of the slim one.
        images: that one training sees: epochs times images an epoch.
    """
    dense = Leg(dense_macs, images, True).cost
    return Ledger(
        search=sum(leg.cost for leg in legs if leg.search),
        training=sum(leg.cost for leg in legs if not leg.search),
        dense=dense,
        train_prune_retrain=dense + Leg(slim_macs, images, False).cost,
    )


def times(legs: Sequence[Leg]) -> dict[str, tuple[float, float] | None]:
    """Return seconds and CPU-seconds of a run's parts, as they were measured; None where there was none.

    What one dense training would take is not among them: the few steps of a search warm up, and may be of another
    precision. From eight of them it came out three times too long.
    """
    search, training = ([leg for leg in legs if leg.search is wanted] for wanted in (True, False))
    return {"search": _time(search) if search else None, "training": _time(training) if training else None}


def _time(legs: Sequence[Leg]) -> tuple[float, float]:
    return math.fsum(leg.seconds for leg in legs), math.fsum(leg.cpu_seconds for leg in legs)


def break_even(cost: float, before: float, after: float) -> int | None:
    """Return after how many inferences a cost is repaid by what each saves; None where it saves nothing.

    All three in one unit: MACs or energy.
    """
    return round(cost / (before - after)) if before > after else None
