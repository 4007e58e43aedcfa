"""What `evaluate` and `export` give back of one network."""

from dataclasses import dataclass
from typing import Literal

from slimkit.record import Amount, Count, Positive, Record
from slimkit.results.figures import Accuracy
from slimkit.usage import Usage


@dataclass(frozen=True, kw_only=True)
class Evaluation(Record):
    """How good the network in a file is at its task.

    Attributes:
        schema: version of this record.
        slimkit: version that made it.
        model: path of the file, as it was given.
        data: what it was measured on.
        accuracy: by the task's first metric, and all of them.
        assumptions: what neither file nor settings say, and was taken to be so.
    """

    schema: Literal["slimkit.evaluation/1"] = "slimkit.evaluation/1"
    slimkit: str
    model: str
    data: str
    accuracy: Accuracy
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExportedFile(Record):
    """A network in one format.

    Attributes:
        format: its name.
        file: name of the file, or of the folder.
        bytes: of all that belongs to it.
        error: largest difference of its outputs from the network's, over their spread; None where
            it cannot be run here.
        note: why it cannot.
        batch: number of inputs that it takes at a time; None where that is free.
    """

    format: str
    file: str
    bytes: Count
    error: Amount | None
    note: str = ""
    batch: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class Exports(Record):
    """The formats in which a network was written.

    Attributes:
        schema: version of this record.
        slimkit: version that made it.
        model: path of the network, as it was given.
        fp16: whether weights are 16-bit floats.
        tolerance: up to which outputs count as equal.
        usage: how the files are used; its batch is the one that all of them are bound to.
        files: one entry a format.
        left_out: formats that were asked for and cannot be written of this network, and why.
    """

    schema: Literal["slimkit.exports/1"] = "slimkit.exports/1"
    slimkit: str
    model: str
    fp16: bool
    tolerance: Amount
    usage: Usage
    files: tuple[ExportedFile, ...]
    left_out: tuple[str, ...] = ()
