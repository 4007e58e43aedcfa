"""What all stages of one training run share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import data, training
from slimkit.channels import Example, Graph
from slimkit.results.ledger import Leg
from slimkit.settings import TrainSpec
from slimkit.surgery.prove import Slimmed
from slimkit.training.penalty import solve_strength
from slimkit.training.schedules import total

Progress = Callable[[str, float | None], None]
# S by default. A group is pulled as a whole, so that the loss has nothing of it left to make up with: at 2 a
# ResNet-8 with 150 steps to learn digits did not learn them, at 1 it lost nothing.
_TOTAL = {"gamma": 2.0, "group": 1.0}


@dataclass
class Job:
    """What all stages of one run need.

    Attributes:
        spec: settings.
        dense: the fresh network; untouched.
        graph: its channels.
        dataset: what to train on.
        inputs: what the proofs run on.
        fresh: builds the network with other weights.
        solver: chooses channels, for budgets that need measurements.
        store: where the state of the run is kept.
        progress: told what is being done.
        warnings: what the user should know.
    """

    spec: TrainSpec
    dense: nn.Module
    graph: Graph
    dataset: data.Dataset
    inputs: Sequence[Example]
    fresh: Callable[[], nn.Module]
    solver: Any
    store: training.Store | None
    progress: Progress
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Searched:
    """What the search and the training of the small network gave.

    Attributes:
        model: the small network, trained to the end.
        slimmed: what was cut from the dense network; its model has the widths, not the weights.
        legs: images trained on, network by network.
        search: the part of the report on the search.
        rows: further parts of the report, known since the cut.
        device, precision: computed on and in.
        earlier: seconds and CPU-seconds of training before the run was resumed.
    """

    model: nn.Module
    slimmed: Slimmed
    legs: tuple[Leg, ...]
    search: dict[str, Any]
    rows: dict[str, Any]
    device: str
    precision: str
    earlier: tuple[float, float]


def recipe(spec: TrainSpec) -> training.Recipe:
    """Return the settings of one training."""
    return training.Recipe(
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        schedule={"step": "milestones"}.get(spec.schedule, spec.schedule),
        seed=spec.seed,
        precision=spec.precision,
        device=spec.device,
    )


def steps_of(job: Job) -> int:
    """Return the steps of an epoch."""
    images = len(job.dataset.train)
    return max(1, images // min(job.spec.batch_size, max(1, images)))


def fixed_units(job: Job) -> Tensor:
    keep = job.spec.without_bn == "keep"
    return ~job.graph.has_norm if keep else torch.zeros(job.graph.units, dtype=torch.bool)


def example(spec: TrainSpec, dataset: data.Dataset) -> Tensor:
    """Return a random image [1, C, H, W]."""
    return torch.randn(1, *dataset.input_shape, generator=torch.Generator().manual_seed(spec.seed))


def strength(job: Job) -> float:
    """Return lambda: as set, or such that its total pull over the whole schedule is `penalty_total`."""
    spec, settings = job.spec, recipe(job.spec)
    if spec.l1 is not None:
        return spec.l1
    wanted = _TOTAL[spec.penalty] if spec.penalty_total is None else spec.penalty_total
    if not wanted:
        return 0.0
    return solve_strength(wanted, rates(settings, steps_of(job)), settings.momentum)


def rates(settings: training.Recipe, steps: int, last: int | None = None) -> float:
    return settings.learning_rate * total(settings.shape, settings.epochs * steps, 0, last)
