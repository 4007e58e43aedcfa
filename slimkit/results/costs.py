"""What a run cost: multiply-adds, time, energy, memory."""

from dataclasses import dataclass

from slimkit.record import Amount, Count, Record
from slimkit.results.figures import Energy


@dataclass(frozen=True, kw_only=True)
class Spent(Record):
    """Time and energy of a part of a run.

    Attributes:
        seconds: wall time.
        energy_kj: kJ.
    """

    seconds: Amount
    energy_kj: Amount


@dataclass(frozen=True, kw_only=True)
class Times(Record):
    """Time and energy of the parts of a training run, as they were measured.

    Attributes:
        search: until the last cut; None where there was none.
        training: of the small network.
    """

    search: Spent | None = None
    training: Spent | None = None


@dataclass(frozen=True, kw_only=True)
class Cost(Record):
    """What a run cost. Training on an image is taken as three forward passes; a teacher adds one.

    Attributes:
        search_macs: multiply-adds of training until the last cut, and of training networks that were not delivered.
        training_macs: of training the one that was, after the cut.
        dense_training_macs: of training the dense network once, for the epochs of the run.
        train_prune_retrain_macs: of that, and then training the slim network for as long.
        share_of_dense_training: cost of the run in units of one dense training.
        seconds: wall time of the whole run.
        times: of its parts.
        energy_kj: of the whole run, kJ.
        break_even_inferences: after how many the run is repaid by what each saves; None where it saves nothing.
        device, precision: of the training of the small network.
        search_precision: of the training before the cut.
    """

    search_macs: Count
    training_macs: Count
    dense_training_macs: Count | None = None
    train_prune_retrain_macs: Count | None = None
    share_of_dense_training: Amount | None = None
    seconds: Amount
    times: Times | None = None
    energy_kj: Energy
    break_even_inferences: Count | None = None
    device: str | None = None
    precision: str | None = None
    search_precision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stage(Record):
    """One finished stage of a run.

    Attributes:
        name: what it did.
        seconds: wall time.
        cpu_seconds: user and system time of this process and of its finished children.
        peak_mb: most resident memory, in MB of 10^6 bytes, that the process had *until the end* of the stage; it never
            falls, so the stage at which it last rose is the one that set it.
    """

    name: str
    seconds: Amount
    cpu_seconds: Amount
    peak_mb: Amount
