"""A search for topologies that work with any weight, as long as all connections share it: arXiv:1906.04358.

A population of topologies; each is judged by its mean over six shared weights, by its best one, and by how many
connections it uses. Weights are never trained. Departs from the code of the paper in one respect: crowding counts
each measure by its range.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from slimkit.data import Batches
from slimkit.errors import DataError
from slimkit.methods.pareto import crowding, fronts
from slimkit.methods.topology import Topology, child, minimal
from slimkit.settings.checks import number, whole

SHARED = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)  # weights that each topology is tried with


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How topologies are looked for. Checked when made.

    Attributes:
        population: topologies at a time.
        generations: how often the better ones have children.
        tournament: topologies of which the best becomes a parent.
        share: of the connections from inputs to outputs that a first topology uses, in (0, 1].
        elite: share of a generation that goes on as it is; `cull`: share that has no children.
        simple: odds that a generation is ranked by mean and connections; else by mean and best weight.
        images: that a generation is judged by, the same for all of it.
        seed: of everything.
    """

    population: int = 96
    generations: int = 200
    tournament: int = 8
    share: float = 0.05
    elite: float = 0.2
    cull: float = 0.2
    simple: float = 0.8
    images: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("population", "generations", "tournament", "images"):
            whole(1)(name, getattr(self, name))
        for name in ("share", "elite", "cull", "simple"):
            number(0, 1)(name, getattr(self, name))


@dataclass(frozen=True)
class ScoredTopology:
    """A topology, and what it was worth on the images of its last generation.

    Attributes:
        mean: of minus the cross entropy, over the shared weights.
        best: with the best of them.
        weight: which that is.
    """

    topology: Topology
    mean: float
    best: float
    weight: float


def search(
    split: Batches,
    classes: int,
    config: SearchConfig,
    progress: Callable[[int, ScoredTopology], None] = lambda generation, best: None,
) -> list[ScoredTopology]:
    """Return the front of the last generation: topologies that no other beats in mean and in connections.

    Args:
        split: labelled images.
        progress: told the best mean after each generation.

    Raises:
        DataError: the images are not one tensor, or have not one of the classes each.
    """
    random = np.random.default_rng(config.seed)
    inputs = _images(split, classes, config, 0)[0].shape[1]
    population = [minimal(inputs, classes, config.share, random) for _ in range(config.population)]
    for generation in range(config.generations + 1):
        images, labels = _images(split, classes, config, generation)
        scored = [score(topology, images, labels) for topology in population]
        progress(generation, max(scored, key=lambda one: one.mean))
        if generation == config.generations:
            break
        order = _order(_measures(scored, simple=random.random() < config.simple))
        population = _next(population, order.tolist(), config, random)
    measures = _measures(scored, simple=True)
    return [one for one, front in zip(scored, fronts(measures).tolist(), strict=True) if front == 0]


@torch.no_grad()
def score(topology: Topology, images: Tensor, labels: Tensor) -> ScoredTopology:
    """Judge a topology by images [N, I] and labels [N]."""
    logits = topology.shared(images, torch.tensor(SHARED))
    rewards = [-float(cross_entropy(each, labels)) for each in logits]
    place = max(range(len(SHARED)), key=rewards.__getitem__)
    return ScoredTopology(topology, sum(rewards) / len(rewards), rewards[place], SHARED[place])


def _images(split: Batches, classes: int, config: SearchConfig, generation: int) -> tuple[Tensor, Tensor]:
    """Return the images of one generation, [N, I], and their labels."""
    images, labels = next(islice(split.batches(config.images, seed=config.seed, epoch=generation), 1))
    one_each = isinstance(images, Tensor) and isinstance(labels, Tensor) and labels.shape == images.shape[:1]
    if not one_each or labels.dtype != torch.int64 or not 0 <= labels.min() <= labels.max() < classes:
        given = " and ".join(
            f"{one.dtype} {list(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
            for one in (images, labels)
        )
        raise DataError(
            f"the split gives {given}: topologies are searched by images in one tensor, and a class from 0 to "
            f"{classes - 1} for each.\n  Give such a split"
        )
    return images.flatten(1), labels


def _measures(scored: list[ScoredTopology], simple: bool) -> Tensor:
    """Return what topologies are ranked by, more is better: [N, 2]."""
    second = [1 / one.topology.connections if simple else one.best for one in scored]
    return torch.tensor([[one.mean, other] for one, other in zip(scored, second, strict=True)], dtype=torch.float64)


def _order(measures: Tensor) -> Tensor:
    """Return the indices from the best to the worst: by front, then where it is least crowded."""
    number = fronts(measures)
    spread = torch.zeros(len(measures), dtype=torch.float64)
    for front in range(int(number.max()) + 1):
        members = number == front
        spread[members] = crowding(measures[members])
    by_spread = spread.argsort(descending=True, stable=True)
    return by_spread[number[by_spread].argsort(stable=True)]


def _next(
    population: list[Topology], order: list[int], config: SearchConfig, random: np.random.Generator
) -> list[Topology]:
    """Return the next generation: the elite, and children of those that win a tournament."""
    size = len(population)
    parents = order[: max(1, size - round(config.cull * size))]
    kept = [population[i] for i in order[: round(config.elite * size)]]
    places = random.integers(len(parents), size=(size - len(kept), config.tournament)).min(1)
    return kept + [child(population[parents[cast(int, place)]], random) for place in places]
