"""One arm of a study, trained to its end and judged: what a worker does."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from slimkit import data
from slimkit._version import __version__
from slimkit.errors import EngineError, TraceError
from slimkit.measure import energy, latency, quality
from slimkit.measure.commit import commit
from slimkit.measure.environment import cpu_name
from slimkit.measure.latency import Latency
from slimkit.measure.macs import count_macs
from slimkit.measure.size import count_params
from slimkit.measure.stages import Stages, stages_on
from slimkit.methods import Found, Job
from slimkit.results import STUDY_SCHEMA, Arm, Clock, Outcome, Spending
from slimkit.results.ledger import FORWARDS_PER_IMAGE
from slimkit.runs import begin
from slimkit.runs.figures import shapes_of
from slimkit.runs.folder.files import ONNX, export_network
from slimkit.runs.job import job_of, opened
from slimkit.runs.plan import Plan, plan
from slimkit.runs.start import conditions, random_input
from slimkit.settings import TrainSpec
from slimkit.tasks import Measurement

_SECONDS = 1.0  # about how long a network is timed


@dataclass(frozen=True)
class Assignment:
    """What a worker is given: plain values, so that it can be sent to another process or machine.

    Attributes:
        arm, budget: as the line of the arm has them.
        settings: of the run.
        images, pixels: the data set is made smaller to these.
        latency: measure it, as the settings say.
        readers: processes that read data, as `data.read_by` takes them.
        alone: nothing else is done on its machine, so that the machine's energy counters are its own.
    """

    arm: str
    budget: str
    settings: Mapping[str, Any]
    images: int | None
    pixels: int | None
    latency: bool
    readers: int | None = None
    alone: bool = True


@dataclass(frozen=True)
class Ground:
    """What all arms of one seed share.

    Attributes:
        data: in words.
        digest: of it, as `data.digest` gives it.
        macs, params: of the dense network.
        seed: of the data split.
    """

    data: str
    digest: str | None
    macs: int
    params: int
    seed: int

    def other(self, arm: Arm) -> str:
        """Say in what a finished arm stood on something else; nothing where it did not."""
        if arm.data != self.data:
            return f"it was trained on {arm.data}, not on {self.data}"
        if arm.seed == self.seed and self.digest and arm.data_digest not in (None, self.digest):
            return "the data has the same name and size, but its inputs or targets are others now"
        if (arm.dense_macs, arm.dense_params) != (self.macs, self.params):
            had = f"{arm.dense_macs:,} multiply-adds and {arm.dense_params:,} parameters"
            return f"its dense network has {had}, not {self.macs:,} and {self.params:,}: the code has changed"
        return ""


def train_arm(work: Assignment) -> dict[str, Any]:
    """Train an arm and return its line of the study.

    Raises:
        SlimkitError: whatever the caller can mend.
    """
    asked = plan(work.settings, source=f"arm {work.arm!r}", ignoring=work.settings)
    job = prepared(work, asked)
    stages = stages_on(asked.spec.device) if work.alone else Stages(meters=[])
    with stages.stage("training"):
        found = asked.method(job, asked.config)
    task = job.dataset.task
    validation, test = (
        quality.evaluate(found.model, split, task, device=job.device)[task.metric]
        for split in (job.dataset.validation, job.dataset.test)
    )
    ground = ground_of(job)
    time, untimed = _timed(found.model, job, asked.spec) if work.latency else (None, [])
    arm = Arm(
        schema=STUDY_SCHEMA,
        arm=work.arm,
        method=asked.method.name,
        budget=work.budget,
        seed=asked.spec.seed,
        settings=asked.settings(),
        data=ground.data,
        data_digest=ground.digest,
        slimkit=__version__,
        commit=commit(),
        metric=task.metric,
        unit=task.metrics[task.metric].unit,
        better=task.better,
        validation=_outcome(validation),
        test=_outcome(test),
        macs=count_macs(found.model, job.example),
        params=count_params(found.model),
        dense_macs=ground.macs,
        dense_params=ground.params,
        widths=tuple(found.cut.mask.counts(job.graph)) if found.cut else (),
        drawn_epoch=found.search.drawn_epoch,
        after_cut=found.cut.after.accuracy if found.cut else None,
        spent=_spent(job, found),
        notes=(*found.warnings, *untimed),
        clock=_clock(stages, time),
    )
    return arm.to_dict()


def prepared(work: Assignment, asked: Plan) -> Job:
    """Open the data, build the network and trace it.

    Raises:
        SlimkitError: the data is not there, the network does not fit it, or an engine is missing.
    """
    dataset = data.read_by(data.smaller(opened(asked.spec), work.images, work.pixels), work.readers)
    network = begin.fresh_network(asked.spec, dataset, asked.spec.seed)

    def fresh() -> nn.Module:
        return begin.fresh_network(asked.spec, dataset, asked.spec.seed + 1).model

    return job_of(network, fresh, dataset, asked)


def ground_of(job: Job) -> Ground:
    """Say what an arm stands on."""
    dataset = job.dataset
    size = " x ".join(map(str, dataset.input_shape[1:])) or str(dataset.input_shape)
    return Ground(
        data=f"{dataset.name}, {len(dataset.train):,} training images of {size}",
        digest=data.digest(dataset),
        macs=count_macs(job.dense, job.example),
        params=count_params(job.dense),
        seed=job.recipe.seed,
    )


def _outcome(found: Measurement) -> Outcome:
    return Outcome(value=found.value, right=found.hits, images=found.images)


def _spent(job: Job, found: Found) -> Spending:
    """Return what the training cost, beside one dense training for the same epochs."""
    images = round(job.recipe.epochs * job.steps) * min(job.recipe.batch_size, len(job.dataset.train))
    dense = FORWARDS_PER_IMAGE * job.macs() * images
    macs = sum(leg.cost for leg in found.legs)
    search = sum(leg.cost for leg in found.legs if leg.search)
    return Spending(macs=macs, dense_trainings=macs / dense, search=search / dense)


def _clock(stages: Stages, time: Latency | None) -> Clock:
    [stage] = stages.finished
    spent = energy.of_run(stage.cpu_seconds, stages.meters)
    clock = Clock(
        seconds=stage.seconds,
        cpu_seconds=stage.cpu_seconds,
        energy_kj=spent.value,
        energy_by=spent.method,
        latency_ms=None,
        cpu=cpu_name(),
    )
    if time is None:
        return clock
    quoted = time.cpu_ms if time.threads == 1 else time.fastest_ms  # other arms may be trained meanwhile
    return replace(clock, latency_ms=quoted, engine=time.engine, threads=time.threads, batch=time.batch)


def _timed(model: nn.Module, job: Job, spec: TrainSpec) -> tuple[Latency | None, list[str]]:
    """Return how long the network takes as an ONNX file, as the settings say; else why that is not known."""
    example = random_input(job.dataset, spec.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ONNX
        try:
            export_network(model, path, example, spec)
            [time] = latency.measure([path], shapes_of(example), **asdict(conditions(spec)), seconds=_SECONDS)
        except (EngineError, TraceError) as wrong:
            return None, [f"No latency: {str(wrong).splitlines()[0]}"]
    return time, []
