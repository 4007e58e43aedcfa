"""What training gave: epochs, the recovery after a cut, the search for a mask."""

from dataclasses import dataclass, field
from typing import Literal

from slimkit.record import Amount, Count, Record, Share
from slimkit.results.network import check_bins


@dataclass(frozen=True, kw_only=True)
class AfterCut(Record):
    """The network right after the cut, before any training.

    Attributes:
        constants: what became of what removed channels said on average: `fold` (given to their readers) or `zero`.
        batch_norm: statistics of its BatchNorms: `as trained` or `re-estimated`.
        output_error: root mean square against the dense network, in standard deviations of its outputs.
        accuracy: on the validation split, by the first metric of the task.
    """

    constants: str
    batch_norm: str
    output_error: Amount | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Epoch(Record):
    """What one epoch of training gave.

    Attributes:
        epoch: its number, from 1.
        loss: mean over its steps.
        learning_rate: of its last step.
        validation_accuracy: after it, by the first metric of the task; None where nobody measured it.
    """

    epoch: Count
    loss: float | None
    learning_rate: Amount | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fit(Record):
    """What is left of a network, fitted to what the original computes: no labels, no training.

    Attributes:
        on: the inputs: `1,024 inputs of digits`, `256 images made from noise`.
        made: they were made from noise, so that nothing is known about real ones.
        before, after: divergence of the predictions from the original's on inputs held out of the fit, in nats, with
            constants folded only and as fitted.
        left: weights that were left as they were.
        held: inputs on which the network delivered was compared with the original; of made ones mixtures.
        apart: nothing was fitted to those, nor trained on them.
        groups: of inputs that resemble each other, as frames of a video do: those held, each of which counts as one; of
            all, where they were too few to hold any out. None where no inputs do.
        agreement: share of them that the network delivered puts into the same class as the original, which for mixtures
            of images made from noise is a guess for real ones; None where it is no classifier. Of networks for
            segmentation the mean IoU of its class maps with the original's.
        agreement_by: which of the two it is.
        interval: of the agreement, 95 %, as of inputs held out; None where there is none, and in earlier reports.
        off: by how much values that the network delivered returns are off on them: root of the mean square, as a share
            of what they vary by; where they have the shape of an input, of what is not it. None where they are classes.
        strange: they are not such as the network was trained on, as its BatchNorms tell, so that what is told of them
            says nothing of such.
    """

    on: str
    made: bool
    before: float | None
    after: float | None
    left: Count
    held: Count
    apart: bool = True
    groups: Count | None = None
    agreement: Share | None = None
    agreement_by: Literal["inputs", "mean IoU"] = "inputs"
    interval: tuple[Share, Share] | None = None
    off: Amount | None = None
    strange: bool = False


@dataclass(frozen=True, kw_only=True)
class Recovery(Record):
    """The retraining of a network that was cut.

    Attributes:
        epochs: that were asked for; 0: BatchNorm's statistics only.
        seconds: wall time.
        images: trained on, in all.
        device, precision: computed on and in.
        history: epoch by epoch; the last one is delivered, if any is.
        by: `slimkit`; the trainer of Ultralytics, with its version; or the user's `own` function, of which nothing else
            is known.
        delivered: whether its network is the one delivered; not where it did worse on validation than the one that it
            began with, which was delivered then: by more than such images can tell, or by its loss too; without
            labels, where it was further from the original.
    """

    epochs: Amount
    seconds: Amount
    images: Count
    device: str
    precision: str
    history: tuple[Epoch, ...]
    by: str = "slimkit"
    delivered: bool = True


@dataclass(frozen=True, kw_only=True)
class Settling(Record):
    """When the mask of one ratio settled.

    Attributes:
        epoch: at which it was drawn, None where it was not.
        settled: whether it had settled by then.
        distance_to_final: share of the channels, of groups that can lose some, on which it and the last mask differ.
    """

    epoch: Amount | None
    settled: bool = True
    distance_to_final: Share | None = None


@dataclass(frozen=True, kw_only=True)
class Look(Record):
    """One look at the mask.

    Attributes:
        epoch: when.
        distance: to the mask before it, None where that is no evidence.
    """

    epoch: Amount
    distance: Amount | None


@dataclass(frozen=True, kw_only=True)
class GammaSnapshot(Record):
    """The BatchNorm scales at one moment.

    Attributes:
        epoch: when.
        edges: of the bins of |gamma|.
        counts: channels in each.
    """

    epoch: Amount
    edges: tuple[float, ...]
    counts: tuple[Count, ...]

    def __post_init__(self) -> None:
        check_bins(self.edges, self.counts)


@dataclass(frozen=True, kw_only=True)
class PenaltyEntry(Record):
    """What pulled on channels until the draw.

    Attributes:
        kind: `gamma` or `group`.
        strength: lambda, its weight in the loss.
        pull: S = lambda * sum of learning rates / (1 - momentum), as it was reached.
        pull_of_schedule: what S would come to over the whole schedule.
        share_below_tenth_of_median: of what was penalised, at the cut.
        gap: whether small and large ones had parted at the ratio; None without a penalty.
    """

    kind: str
    strength: Amount
    pull: Amount
    pull_of_schedule: Amount | None = None
    share_below_tenth_of_median: Share | None = None
    gap: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Search(Record):
    """The search for the mask, and the training around it.

    Attributes:
        method: that found the small network.
        history: of all epochs, before and after the cut.
        watched: criterion of the masks that were looked at; another than that of the cut where that one needs data.
        rule: when a mask has settled.
        normalised: whether distances are divided by those of chance.
        threshold: distance below which a mask has settled.
        init: weights that the small network began with.
        precision: of the training until the draw.
        drawn_epoch: when the mask was drawn.
        ratios: what was watched, by ratio.
        distances: look by look; shares of the channels of groups that can lose some, as those of `matrix` are.
        matrix: distance between the masks of every two of `epochs`.
        epochs: of the matrix.
        gamma_history: BatchNorm scales over time.
        penalty: what pulled on channels.
    """

    method: str
    history: tuple[Epoch, ...]
    watched: str | None = None
    rule: str | None = None
    normalised: bool = False
    threshold: Amount | None = None
    init: str | None = None
    precision: str | None = None
    drawn_epoch: Amount | None = None
    ratios: dict[str, Settling] = field(default_factory=dict)
    distances: tuple[Look, ...] = ()
    matrix: tuple[tuple[Amount, ...], ...] = ()
    epochs: tuple[Amount, ...] = ()
    gamma_history: tuple[GammaSnapshot, ...] = ()
    penalty: PenaltyEntry | None = None

    def __post_init__(self) -> None:
        if any(len(side) != len(self.epochs) for side in (self.matrix, *self.matrix)):
            raise ValueError("matrix must have a row and a column for each of epochs")
        for name in self.ratios:
            float(name)
