"""What a run found out about a network: its channels, groups and layers, before and after."""

from dataclasses import dataclass
from typing import Literal

from slimkit.record import Amount, Count, Json, Positive, Record


@dataclass(frozen=True, kw_only=True)
class Normalisation(Record):
    """How images in [0, 1] were normalised, channel by channel.

    Attributes:
        mean, std: of each input channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or 0 in self.std:
            raise ValueError("mean and std must be as long as each other, and no std 0")


@dataclass(frozen=True, kw_only=True)
class Architecture(Record):
    """The network before anything was done to it.

    Attributes:
        name: reference to what builds it, or the name of its class.
        arguments: of that factory.
        source: kind of file that it was read from, `module` or `fresh`.
        input_shape: of one image, (C, H, W); None where the input is no single tensor.
        classes: that it tells apart, None where it is no classifier.
        normalisation: of the images it expects, None where it is not known.
        assumptions: what its file does not say, and was taken to be so.
        file: that it was read from, as it was named; of an absolute path, which says whose machine it is, the last
            part, after PATH/TO/. "" where there was none, and in earlier reports.
    """

    name: str
    arguments: dict[str, Json]
    source: str
    input_shape: tuple[Positive, ...] | None
    classes: Count | None = None
    normalisation: Normalisation | None = None
    assumptions: tuple[str, ...] = ()
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class KeptEntry(Record):
    """Channels that could not be removed.

    Attributes:
        layer: that gives them.
        channels: how many.
        reason: why they stay.
    """

    layer: str
    channels: Count
    reason: str


@dataclass(frozen=True, kw_only=True)
class Channels(Record):
    """Channels of the whole network; one that several layers share counts once, outputs do not count.

    Attributes:
        total: all of them.
        removable: that could go.
        removed: that went.
        asked: share of the removable ones that was asked for, None where the budget was another.
        kept: what could not go, and why; the network's outputs are listed too.
    """

    total: Count
    removable: Count
    removed: Count
    asked: float | None
    kept: tuple[KeptEntry, ...]

    def __post_init__(self) -> None:
        if not self.removed <= self.removable <= self.total:
            raise ValueError("removed must not be more than removable, nor that more than total")

    @property
    def share_removed(self) -> float:
        """Share of the removable channels that went."""
        return self.removed / self.removable if self.removable else 0.0


@dataclass(frozen=True, kw_only=True)
class GroupEntry(Record):
    """Layers that live and die together.

    Attributes:
        name: of its first layer.
        layers: all of them.
        before, after: channels.
        batch_norm: whether a BatchNorm scales them.
        limit: what kept the cut from going further: the largest share of a group (`cap`), or the fewest channels
            that a group may have (`floor`).
    """

    name: str
    layers: tuple[str, ...]
    before: Positive
    after: Count
    batch_norm: bool
    limit: Literal["cap", "floor"] | None = None


@dataclass(frozen=True, kw_only=True)
class LayerEntry(Record):
    """A convolution or linear layer.

    Attributes:
        name: path of its module.
        kind: class of its module.
        channels_before, channels_after: outputs.
        macs_before, macs_after: multiply-adds of one image.
        params_before, params_after: parameters.
        ms_before, ms_after: time of one batch in the engine, ms; together no more than the network takes. None where it
            was not measured.
    """

    name: str
    kind: str
    channels_before: Positive
    channels_after: Count
    macs_before: Count
    macs_after: Count
    params_before: Count
    params_after: Count
    ms_before: Amount | None = None
    ms_after: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class Gammas(Record):
    """Histograms of |gamma| over all BatchNorms, on common edges.

    Attributes:
        edges: of the bins, rising.
        before, after: channels in each bin, of the dense and of the slim network.
    """

    edges: tuple[float, ...]
    before: tuple[Count, ...]
    after: tuple[Count, ...]

    def __post_init__(self) -> None:
        check_bins(self.edges, self.before)
        check_bins(self.edges, self.after)


def check_bins(edges: tuple[float, ...], counts: tuple[int, ...]) -> None:
    """Check that a histogram has bins, edges that rise, and one more of them than counts.

    Raises:
        ValueError: it is not so.
    """
    if not counts or len(edges) != len(counts) + 1 or any(a >= b for a, b in zip(edges, edges[1:], strict=False)):
        raise ValueError("a histogram needs rising edges, one more than counts")
