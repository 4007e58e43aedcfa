"""A study as records: one line of `study.jsonl` an arm that was trained to its end."""

from dataclasses import dataclass, field
from typing import Final, Literal

from slimkit.record import Amount, Count, Json, Positive, Record

STUDY_SCHEMA: Final = "slimkit.study/1"


@dataclass(frozen=True, kw_only=True)
class Outcome(Record):
    """How good a trained network is on one split, after its last epoch.

    Attributes:
        value: of the task's metric.
        right: images told right; None where the metric is no count of them, as mean IoU is none.
        images: of the split.
    """

    value: float
    right: Count | None
    images: Count


@dataclass(frozen=True, kw_only=True)
class Spending(Record):
    """What an arm cost, by count: the same on every machine.

    Attributes:
        macs: of all its training, three forward passes an image.
        dense_trainings: the same, in trainings of the dense network for the epochs of the study.
        search: share of it that went to networks before their last cut.
    """

    macs: Count
    dense_trainings: Amount
    search: Amount


@dataclass(frozen=True, kw_only=True)
class Clock(Record):
    """What was timed: differs from one run to the next.

    Attributes:
        seconds, cpu_seconds: of training the arm.
        energy_kj: of training the arm.
        energy_by: how that was measured or modelled.
        latency_ms: of one batch: CPU time on one thread, on several the fastest run; None where it was not measured.
        cpu: the processor.
        engine: in which that was measured, name and version; None where it was not, or by a version that measured
            nothing but one image in ONNX Runtime on one thread.
        threads, batch: of that measurement.
    """

    seconds: Amount
    cpu_seconds: Amount
    energy_kj: Amount
    energy_by: str
    latency_ms: Amount | None
    cpu: str
    engine: str | None = None
    threads: Positive = 1
    batch: Positive = 1


@dataclass(frozen=True, kw_only=True)
class Arm(Record):
    """One training of one arm.

    Attributes:
        schema: of this line.
        arm: its name.
        method: of `slimkit train`.
        budget: what was asked, as `ratio 0.5`; empty where the arm has none.
        seed: of data split, data order and weights.
        settings: all settings of the run.
        data: which data, with how many training images of how many pixels.
        data_digest: of some of its inputs and targets; None where it was not taken, or is another each time.
        slimkit, commit: version, and the commit of a checkout with a plus where files differ from it.
        metric, unit, better: what is compared: its name, its unit (`share`), and `higher` or `lower`.
        validation, test: after the last epoch; test is read once.
        macs, params: of the network that is delivered, for one image.
        dense_macs, dense_params: of the dense one.
        widths: channels that each group kept; empty where none was cut.
        drawn_epoch: after which the mask was drawn.
        after_cut: on the validation split, right after the cut.
        spent: what it cost.
        notes: what the method said.
        clock: what was timed.
    """

    schema: Literal["slimkit.study/1"]
    arm: str
    method: str
    budget: str
    seed: Count
    settings: dict[str, Json]
    data: str
    slimkit: str
    commit: str | None
    metric: str
    unit: str
    better: Literal["higher", "lower"]
    validation: Outcome
    test: Outcome
    macs: Positive
    params: Positive
    dense_macs: Positive
    dense_params: Positive
    widths: tuple[int, ...] = ()
    drawn_epoch: Amount | None = None
    after_cut: float | None = None
    spent: Spending
    notes: tuple[str, ...] = ()
    data_digest: str | None = None
    clock: Clock = field(compare=False)

    @property
    def key(self) -> tuple[str, str, int]:
        """What there is once in a study: arm, budget, seed."""
        return self.arm, self.budget, self.seed

    @property
    def control(self) -> bool:
        """Whether it is a control."""
        return self.method == "scratch"
