"""What was measured of a network: size, work, latency, energy, accuracy; and that it computes what it should."""

from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

from slimkit.results.codec import Amount, Count, Positive, Record, Share

_Z = 1.959964  # of a normal distribution, 95 % of which are within


@dataclass(frozen=True, kw_only=True)
class Latency(Record):
    """Time of one batch in an engine.

    Attributes:
        median, q25, q75: wall time, ms: median and quartiles.
        fastest: least wall time, ms: what a busy machine disturbs least.
        cpu: least CPU time of the process, ms; above the wall time with several threads.
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
        """The figure to quote, ms: the median, or one thread's CPU time where the machine was noisy."""
        return self.cpu if self.by_cpu else self.median


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
class Accuracy(Record):
    """Share of the images that are told right.

    Attributes:
        validation: on the split that decisions were made on.
        test: on the split that is looked at once; None where it was not.
        validation_images, test_images: in each split; None where it is not known.
    """

    validation: Share | None
    test: Share | None = None
    validation_images: Count | None = None
    test_images: Count | None = None

    @property
    def split(self) -> str:
        """The split to quote: test where there is one."""
        return "validation" if self.test is None else "test"

    @property
    def quoted(self) -> float | None:
        """The accuracy of that split."""
        return self.validation if self.test is None else self.test

    @property
    def images(self) -> int | None:
        """How many images that is of."""
        return self.validation_images if self.test is None else self.test_images

    def interval(self, split: str) -> tuple[float, float] | None:
        """Return what the accuracy on all images of the kind may well be, 95 %: see `wilson`."""
        share = self.test if split == "test" else self.validation
        images = self.test_images if split == "test" else self.validation_images
        return None if share is None or not images else wilson(share, images)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that was counted on `count` samples: Wilson 1927.

    Unlike mean +- two standard errors it holds at shares near 0 and 1, and stays within them.
    """
    middle = share + _Z**2 / (2 * count)
    half = _Z * sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    whole = 1 + _Z**2 / count
    return min(max(0.0, (middle - half) / whole), share), max(min(1.0, (middle + half) / whole), share)  # rounding


@dataclass(frozen=True, kw_only=True)
class Sample(Record):
    """A metric over the images of one split.

    Attributes:
        value: in the metric's unit.
        images: how many.
        interval: lowest and highest value that so many images allow, 95 %; None where that is not known.
    """

    value: float
    images: Count
    interval: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Quality(Record):
    """How good a network is at its task.

    Attributes:
        task: its name.
        metric: name of the metric by which networks are compared.
        unit: `share` (in [0, 1]), a unit such as `dB`, or "" for a plain number.
        better: which values are better.
        validation: on the split that decisions were made on.
        test: on the split that is looked at once.
        others: the task's other metrics on test, by name.
    """

    task: str
    metric: str
    unit: str
    better: Literal["higher", "lower"]
    validation: Sample
    test: Sample
    others: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Figures(Record):
    """What was measured of one network, or of one file.

    Attributes:
        params: parameters.
        macs: multiply-adds of one image; twice that are FLOPs.
        bytes: size of the ONNX file.
        latency_ms: time of one batch, ms.
        energy_mj: energy of one image, mJ.
        accuracy: on labelled images, of a network that classifies.
        quality: by the metric of its task, whatever that is.
    """

    params: Count | None = None
    macs: Count | None = None
    bytes: Count | None = None
    latency_ms: Latency | None = None
    energy_mj: Energy | None = None
    accuracy: Accuracy | None = None
    quality: Quality | None = None


@dataclass(frozen=True, kw_only=True)
class Proof(Record):
    """That the files compute what they should: differences over the spread of the outputs.

    Attributes:
        masked_vs_slim: the dense network with the channels switched off, against the slim one.
        slim_vs_reloaded: the slim network, against itself read back from its file.
        slim_vs_onnx: the slim network, against its ONNX file in ONNX Runtime.
        tolerance: up to which two outputs count as equal.
        inputs: what it was checked on.
        kept_after_failing: groups that were kept whole, since the proof failed without them.
    """

    masked_vs_slim: Amount
    slim_vs_reloaded: Amount
    slim_vs_onnx: Amount
    tolerance: Amount
    inputs: tuple[str, ...]
    kept_after_failing: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """The largest of the three."""
        return max(self.masked_vs_slim, self.slim_vs_reloaded, self.slim_vs_onnx)
