"""The report of a run, whole: what `report.json` holds; and what `inspect` and `bench` find."""

from dataclasses import dataclass
from typing import Literal

from slimkit.record import Amount, Count, Json, Positive, Record
from slimkit.results.costs import Cost, Stage
from slimkit.results.figures import Figures, LatencyEntry, Proof
from slimkit.results.network import Architecture, Channels, Gammas, GroupEntry, LayerEntry
from slimkit.results.training import AfterCut, Fit, Recovery, Search
from slimkit.usage import Usage

REPORT_SCHEMA: Literal["slimkit.report/3"] = "slimkit.report/3"


@dataclass(frozen=True, kw_only=True)
class RoundEntry(Record):
    """One mask that was made and measured.

    Attributes:
        predicted: share of the original that the table said.
        reached: share that was measured.
    """

    predicted: Amount
    reached: Amount


@dataclass(frozen=True, kw_only=True)
class MeasuredBudget(Record):
    """How the mask meets a budget that had to be measured: ms, mJ or bytes.

    Attributes:
        kind: `latency`, `energy` or `bytes`.
        asked: as it was written.
        original: of the dense network.
        target: what that comes to.
        reached: by the mask.
        by_table: whether times are those of a table that was made elsewhere.
        where: what they are of: processor, engine, threads, batch.
        rounds: masks that were made and measured.
        loss: importance that is lost.
        least_loss: about the least that a mask as fast loses, if every group saved what it does at this one.
        notes: what a reader of the figures has to know.
    """

    kind: Literal["latency", "energy", "bytes"]
    asked: str | float | None
    original: Amount
    target: Amount
    reached: Amount
    by_table: bool = False
    where: str = ""
    rounds: tuple[RoundEntry, ...] = ()
    loss: float | None = None
    least_loss: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Attempt(Record):
    """One network that was tried within a drop.

    Attributes:
        share: of the original that was asked for.
        epochs: that it was retrained for.
        drop, margin: what it lost, in points where the metric is a share, and what other images may say beyond that.
        within: whether that is within what may be lost.
    """

    share: Amount
    epochs: Amount
    drop: float
    margin: float | None
    within: bool


@dataclass(frozen=True, kw_only=True)
class WithinDrop(Record):
    """The smallest network that loses at most so much.

    Attributes:
        max_drop: what may be lost, in points where the metric is a share.
        minimise: what was to be made small.
        by: what the networks that keep the drop were compared by, the least being delivered: `latency`, `energy` or
            `bytes` of their files, or where there are none `macs` or `params`; "" in reports of earlier versions.
        figure: of the one delivered, measured beside the others: ms, mJ, bytes, or a number.
        drop, margin: what was lost, and what other images may say beyond that.
        unit: of these: `points`, or the metric's own; "" where it has none, and in reports of earlier versions.
        images: that both networks were judged on; groups of inputs, where they resemble each other.
        tried: one entry an attempt.
    """

    max_drop: Amount
    minimise: str
    by: str = ""
    figure: Amount | None = None
    drop: float
    margin: float | None
    unit: str = ""
    images: Count
    tried: tuple[Attempt, ...]


@dataclass(frozen=True, kw_only=True)
class Own(Record):
    """Figures of the user's own, by name.

    Attributes:
        before, after: of the dense and of the slim network.
    """

    before: dict[str, float | None]
    after: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Report(Record):
    """What a run did, measured, proved and cost.

    Attributes:
        schema: version of this record.
        slimkit: version that made it.
        created: when, UTC.
        command: that was run.
        spec: all settings, by name.
        arch: the network.
        environment: machine and versions.
        channels: how many there were, how many went, and why others stayed.
        groups: layers that keep the same channels.
        layers: in order of execution.
        gammas: BatchNorm scales, None where there are none.
        before, after: figures of the dense and of the slim network.
        proof: that the files compute what they should.
        cost: what the run cost.
        stages: what each stage of it cost.
        after_cut: the network right after the cut, treated in several ways.
        fit: of what is left to what the original computes, by `compress`.
        recovery: retraining after `compress`; None where there was no data.
        search: for the mask, of `train`.
        budget: one that had to be measured.
        drop: where the smallest network within a drop was looked for.
        int8: figures of the INT8 file.
        own: the user's own figures of both networks.
        usage: how the small network is used.
        warnings: what the user should know.
        verdict: the run in a sentence.
    """

    schema: Literal["slimkit.report/3"] = REPORT_SCHEMA
    slimkit: str
    created: str
    command: Literal["compress", "train"]
    spec: dict[str, Json]
    arch: Architecture
    environment: dict[str, str | int]
    channels: Channels
    groups: tuple[GroupEntry, ...]
    layers: tuple[LayerEntry, ...]
    gammas: Gammas | None
    before: Figures
    after: Figures
    proof: Proof
    cost: Cost
    stages: tuple[Stage, ...]
    after_cut: tuple[AfterCut, ...] = ()
    fit: Fit | None = None
    recovery: Recovery | None = None
    search: Search | None = None
    budget: MeasuredBudget | None = None
    drop: WithinDrop | None = None
    int8: Figures | None = None
    own: Own | None = None
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()
    verdict: str = ""

    def __repr__(self) -> str:
        return f"Report({self.command!r}, {self.verdict!r})"


@dataclass(frozen=True, kw_only=True)
class InspectedGroup(Record):
    """A group of channels that could be made smaller.

    Attributes:
        name: of its first layer.
        layers: that live and die together.
        channels: that they share.
        batch_norm: whether a BatchNorm scales them.
        macs: multiply-adds of those layers for one image.
    """

    name: str
    layers: tuple[str, ...]
    channels: Positive
    batch_norm: bool
    macs: Count


@dataclass(frozen=True, kw_only=True)
class Inspection(Record):
    """What `inspect` finds: what can be removed, and what cannot and why.

    Attributes:
        schema: version of this record.
        slimkit: version that made it.
        arch: the network.
        channels: how many there are, and why some must stay.
        groups: what could go.
        gammas: BatchNorm scales, None where there are none; before and after are the same.
        macs: of one image.
        params: parameters.
    """

    schema: Literal["slimkit.inspection/1"] = "slimkit.inspection/1"
    slimkit: str
    arch: Architecture
    channels: Channels
    groups: tuple[InspectedGroup, ...]
    gammas: Gammas | None
    macs: Count
    params: Count


@dataclass(frozen=True, kw_only=True)
class Benched(Record):
    """One ONNX file in one engine.

    Attributes:
        name: its path, as it was given.
        bytes: size of the file, with the weights that it keeps in files beside it.
        latency_ms: time of one batch, ms.
        share: time of one image over that of the first file, by the clock that fits.
    """

    name: str
    bytes: Count
    latency_ms: LatencyEntry
    share: Amount


@dataclass(frozen=True, kw_only=True)
class TableSummary(Record):
    """A latency table that was written: where it was made, and the time of the network.

    Attributes:
        path: of the file.
        layers: that were timed.
        runtime: name of the engine.
        engine: name and version.
        threads: of the engine.
        batch: images at once.
        cpu: name of the processor.
        step: multiples of it are the widths that were timed.
        network_ms: time of the whole network, ms.
        clock: that it is by: `wall` or `cpu`.
    """

    path: str
    layers: Count
    runtime: str
    engine: str
    threads: Positive
    batch: Positive
    cpu: str
    step: Positive
    network_ms: Amount
    clock: str


@dataclass(frozen=True, kw_only=True)
class Benchmark(Record):
    """What `bench` finds: ONNX files side by side.

    Attributes:
        schema: version of this record.
        models: a row each, engine by engine.
        table: the latency table that was written.
    """

    schema: Literal["slimkit.bench/1"] = "slimkit.bench/1"
    models: tuple[Benched, ...]
    table: TableSummary | None = None


@dataclass(frozen=True, kw_only=True)
class Entry(Record):
    """A method, or a setting of one.

    Attributes:
        name: to give it by.
        default: value where it is not set.
        meaning: what it is.
    """

    name: str
    default: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Catalogue(Record):
    """What there is to choose from.

    Attributes:
        title: what is listed.
        rows: one an entry.
    """

    title: str
    rows: tuple[Entry, ...]
