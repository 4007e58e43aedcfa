"""What was measured of a network: size, work, latency, energy, accuracy; and that it computes what it should."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from slimkit.intervals import wilson
from slimkit.record import Amount, Count, Positive, Record, Share


@dataclass(frozen=True, kw_only=True)
class LatencyEntry(Record):
    """Time of one batch in an engine.

    Attributes:
        median, q25, q75: wall time, ms: median and quartiles.
        fastest: least wall time, ms: what a busy machine disturbs least.
        cpu: CPU time of the process, ms, the 5th percentile of all runs; above the wall time with several threads.
        engine: name and version.
        threads: that compute.
        batch: images at once.
        repeats: batches that were timed.
        noisy: something else was running, so that wall times are not to be trusted.
    """

    median: Amount
    q25: Amount
    q75: Amount
    fastest: Amount
    cpu: Amount
    engine: str
    threads: Positive
    batch: Positive
    repeats: Positive
    noisy: bool

    @property
    def by_cpu(self) -> bool:
        """Whether the CPU time is what to judge by: one thread on a noisy machine."""
        return self.noisy and self.threads == 1

    @property
    def quoted(self) -> float:
        """The figure to judge by, ms: the median; on a noisy machine one thread's CPU time, of several the fastest."""
        return {"cpu": self.cpu, "fastest": self.fastest, "median": self.median}[self.clock]

    @property
    def clock(self) -> str:
        """The name of that figure: `median`, `cpu` or `fastest`."""
        return "cpu" if self.by_cpu else "fastest" if self.noisy else "median"


@dataclass(frozen=True, kw_only=True)
class Energy(Record):
    """An amount of energy and where it comes from.

    Attributes:
        value: in `unit`.
        unit: `mJ` for an inference, `kJ` for a run.
        method: `measured (...)` or `modelled (...)`.
        constants: what a modelled value was computed with; the names give the units.
        leaves_out: what is not in it.
    """

    value: Amount
    unit: str
    method: str
    constants: dict[str, float] = field(default_factory=dict)
    leaves_out: str = ""


@dataclass(frozen=True, kw_only=True)
class OtherMetric(Record):
    """What a network is judged by beside the metric by which networks are compared.

    Attributes:
        metric: its name.
        unit: as in `Accuracy`.
        value: on the split that the accuracy's own figure is quoted of: test, or where there is none validation.
        interval: lowest and highest value that may well be so for all images of the kind, 95 %; None where unknown.
    """

    metric: str
    unit: str
    value: float | None
    interval: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.interval is not None and len(self.interval) != 2:
            raise ValueError("interval must have two ends")


@dataclass(frozen=True, kw_only=True)
class Accuracy(Record):
    """How good a network is at its task: the share of images that it gets right, or what that task has instead.

    Attributes:
        task: its name.
        metric: name of the first metric of the task, by which networks are compared.
        unit: `share` (in [0, 1]), a unit such as `dB`, or "" for a plain number.
        better: whether higher or lower is better.
        validation: on the split that decisions were made on.
        test: on the split that is looked at once; None where it was not.
        validation_images, test_images: in each split; None where it is not known.
        interval: lowest and highest value on test that may well be so for all images of the kind, 95 %.
        validation_interval: the same on validation, where the task's metric gives one.
        tested_apart: `test` is a split of its own; else its figures are those of validation, and quoted as such.
        commonest: of classes, the share of the commonest one on test: what saying nothing else gets right.
        metrics: every metric of the task: on test, or where there is none on validation.
        others: those of them by which networks are not compared, with unit and interval.
    """

    task: str = "classification"
    metric: str = "accuracy"
    unit: str = "share"
    better: Literal["higher", "lower"] = "higher"
    validation: float | None
    test: float | None = None
    validation_images: Count | None = None
    test_images: Count | None = None
    interval: tuple[float, ...] | None = None
    validation_interval: tuple[float, ...] | None = None
    tested_apart: bool = True
    commonest: Share | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    others: tuple[OtherMetric, ...] = ()

    def __post_init__(self) -> None:
        if any(span is not None and len(span) != 2 for span in (self.interval, self.validation_interval)):
            raise ValueError("interval and validation_interval must have two ends")
        if self.unit == "share" and any(value < 0 or value > 1 for value in (self.validation, self.test) if value):
            raise ValueError("validation and test must be in [0, 1]")

    def of(self, split: str) -> "Measured | None":
        """Return what was measured on `validation` or `test`; None where nothing was."""
        on_test = split == "test"
        value = self.test if on_test else self.validation
        images = self.test_images if on_test else self.validation_images
        if value is None:
            return None
        ends = self.interval if on_test else self.validation_interval
        span = (ends[0], ends[1]) if ends else None
        if span is None and self.unit == "share" and self.metric == "accuracy" and images:
            span = wilson(value, images)
        return Measured(self, split, value, images, span)

    @property
    def quoted(self) -> "Measured | None":
        """The figure to quote: on test where there is one of its own."""
        return (self.of("test") if self.tested_apart else None) or self.of("validation")

    @property
    def each(self) -> "dict[tuple[str, str], Measured]":
        """All that was measured, by metric and split: the metric that decides on both, then the others."""
        found = [self.of("validation"), self.of("test")]
        if quoted := self.quoted:
            for one in self.others:
                if one.value is None:
                    continue
                by = Accuracy(task=self.task, metric=one.metric, unit=one.unit, validation=None)
                span = (one.interval[0], one.interval[1]) if one.interval else None
                found.append(Measured(by, quoted.split, one.value, quoted.images, span))
        return {(one.by.metric, one.split): one for one in found if one is not None}


@dataclass(frozen=True)
class Measured:
    """A metric on one split: its value, the number of images where that is known, and the 95 % interval."""

    by: Accuracy
    split: str
    value: float
    images: int | None
    interval: tuple[float, float] | None

    @property
    def of(self) -> str:
        """What it is of, in words: 359 test images."""
        return f"{self.images} {self.split} images" if self.images else f"{self.split} images"


@dataclass(frozen=True, kw_only=True)
class Figures(Record):
    """What was measured of one network, or of one file.

    Attributes:
        params: parameters.
        macs: multiply-adds of one image; twice that are FLOPs.
        bytes: size of the ONNX file, with the weights that it keeps in files beside it.
        latency_ms: time of one batch, ms.
        energy_mj: energy of one image, mJ.
        accuracy: how good it is, where there are images to tell by.
    """

    params: Count | None = None
    macs: Count | None = None
    bytes: Count | None = None
    latency_ms: LatencyEntry | None = None
    energy_mj: Energy | None = None
    accuracy: Accuracy | None = None

    def value(self, path: str) -> float | None:
        """Return the figure at a path such as `energy_mj/value`; None where it was not measured."""
        found: Any = self
        for name in path.split("/"):
            found = None if found is None else getattr(found, name)
        return None if found is None else float(found)


@dataclass(frozen=True, kw_only=True)
class Proof(Record):
    """That the files compute what they should: differences over the spread of the outputs.

    Attributes:
        masked_vs_slim: the dense network with the channels switched off, against the slim one.
        slim_vs_reloaded: the slim network, against itself read back from its file; None where none was written.
        slim_vs_onnx: the slim network, against its ONNX file in ONNX Runtime; None where there is none.
        tolerance: up to which two outputs count as equal.
        inputs: what it was checked on.
        kept_after_failing: groups that were kept whole, since the proof failed without them.
    """

    masked_vs_slim: Amount
    slim_vs_reloaded: Amount | None
    slim_vs_onnx: Amount | None
    tolerance: Amount
    inputs: tuple[str, ...]
    kept_after_failing: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """The largest of the three."""
        return max(self.masked_vs_slim, self.slim_vs_reloaded or 0.0, self.slim_vs_onnx or 0.0)


def measured_on(before: Figures, after: Figures) -> Iterator[tuple[Measured, Measured | None, Measured | None]]:
    """Give each metric and split that one of two networks was measured by: of either, of the first, of the second."""
    olds, news = (side.accuracy.each if side.accuracy else {} for side in (before, after))
    for key, known in {**olds, **news}.items():
        yield known, olds.get(key), news.get(key)
