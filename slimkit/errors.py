"""What a user can cause; the command prints the message on stderr and exits 2.

A message says what was given, what is wrong and what to do.
"""

import math


class SlimkitError(Exception):
    """Base of every error a user can cause and mend."""


class SpecError(SlimkitError):
    """A setting of a run is unknown or outside its range."""


class CheckpointError(SlimkitError):
    """A file is missing, damaged, unsafe to read, or of a kind that holds no trainable network."""


class ArchitectureError(SlimkitError):
    """No architecture, or more than one, fits what was given."""


class DataError(SlimkitError):
    """A data set is unknown, missing, or does not fit the network."""


class TraceError(SlimkitError):
    """The network does not run on its example input."""


class MaskError(SlimkitError):
    """A channel mask does not fit the network, or nothing would be left or removed."""


class BudgetError(SlimkitError):
    """A budget cannot be met."""


class OutOfReachError(BudgetError):
    """The counts of channels that are allowed do not reach a budget.

    Attributes:
        reached: share of the original that was measured at the best; NaN where fewer channels are always less.
    """

    def __init__(self, message: str, reached: float = math.nan) -> None:
        super().__init__(message)
        self.reached = reached


class ProofError(SlimkitError):
    """The smaller network does not compute what the masked one computes."""


class OutputError(SlimkitError):
    """The output folder is taken, not writable, or the disk is full."""


class RecordError(SlimkitError):
    """A report is missing or of another version, or a record in a file is damaged or was not made by slimkit."""


class TrainingError(SlimkitError):
    """Training cannot go on: the loss is not finite, or the state to resume from does not fit."""


class DivergedError(TrainingError):
    """The loss of a training is not finite any more."""


class LostProcessError(TrainingError):
    """Another process that trains the same network has died, or cannot be reached."""


class DeviceMemoryError(SlimkitError):
    """The memory of a GPU, or of the machine, is too small for what was asked."""


class EngineError(SlimkitError):
    """An engine or an optional package is not installed, or does not support what was asked."""
