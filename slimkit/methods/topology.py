"""Networks of single nodes and connections, each node with its own activation: Gaier & Ha 2019, arXiv:1906.04358.

Nodes are numbered: 0 is the bias, then come the inputs, the outputs and the hidden nodes. Connections run from lower
to higher depth. N = images, I = inputs, O = outputs, E = connections in use, W = settings of the weights at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "step": lambda x: (x > 0).to(x.dtype),
    "sin": lambda x: torch.sin(math.pi * x),
    "gauss": lambda x: torch.exp(-x.square() / 2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "inverse": torch.neg,
    "abs": torch.abs,
    "relu": torch.relu,
    "cos": lambda x: torch.cos(math.pi * x),
}
_KINDS = tuple(ACTIVATIONS.values())


@dataclass(frozen=True, eq=False)
class Topology:
    """Who is connected to whom.

    Attributes:
        inputs, outputs: how many.
        hidden: activation of each hidden node, an index of `ACTIVATIONS`; outputs are linear.
        sources, targets: of every connection, int [n].
        used: whether the connection is in use, bool [n].
    """

    inputs: int
    outputs: int
    hidden: tuple[int, ...]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    used: NDArray[np.bool_]

    @property
    def connections(self) -> int:
        """Connections in use, E."""
        return int(self.used.sum())

    @property
    def first_hidden(self) -> int:
        """Number of the first hidden node."""
        return 1 + self.inputs + self.outputs

    @cached_property
    def depth(self) -> list[int]:
        """Of each hidden node: the longest way to it, by connections in use or not: they may be used again."""
        found = [1] * len(self.hidden)
        start = self.first_hidden
        inner = (self.sources >= start) & (self.targets >= start)
        pairs = list(zip((self.sources[inner] - start).tolist(), (self.targets[inner] - start).tolist(), strict=True))
        changed = True
        while changed:
            changed = False
            for source, target in pairs:
                if found[target] <= found[source]:
                    found[target], changed = found[source] + 1, True
        return found

    def __call__(self, images: Tensor, weights: Tensor) -> Tensor:
        """Compute logits [W, N, O] of images [N, I] with a weight for every connection in use [W, E]."""
        start, first = self.first_hidden, 1 + self.inputs  # nothing leads to a node below `first`: it has no column
        matrix = weights.new_zeros(len(weights), start + len(self.hidden), self.outputs + len(self.hidden))
        used = torch.from_numpy(self.used)
        matrix[:, torch.from_numpy(self.sources)[used], torch.from_numpy(self.targets)[used] - first] = weights
        given = torch.cat([images.new_ones(len(images), 1), images], 1)
        sums = given @ matrix[:, :first]  # [W, N, outputs and hidden nodes], what comes from the inputs
        done: list[int] = []
        values: list[Tensor] = []
        for depth in sorted(set(self.depth)):
            layer = [start + i for i, d in enumerate(self.depth) if d == depth]
            columns = [node - first for node in layer]
            total = sums[:, :, columns]
            if done:
                total = total + torch.cat(values, -1) @ matrix[:, done][:, :, columns]
            parts = [_KINDS[self.hidden[node - start]](total[:, :, i]) for i, node in enumerate(layer)]
            values.append(torch.stack(parts, -1))
            done += layer
        outputs = sums[:, :, : self.outputs]
        if done:
            outputs = outputs + torch.cat(values, -1) @ matrix[:, done, : self.outputs]
        return outputs

    def shared(self, images: Tensor, values: Tensor) -> Tensor:
        """Compute logits [W, N, O] with one weight for all connections, values [W]."""
        return self(images, values[:, None].expand(-1, self.connections))


def minimal(inputs: int, outputs: int, share: float, random: np.random.Generator) -> Topology:
    """Return a topology without hidden nodes, in which a share of all connections from inputs to outputs is in use."""
    sources = np.repeat(np.arange(1 + inputs), outputs)
    targets = np.tile(np.arange(1 + inputs, 1 + inputs + outputs), 1 + inputs)
    used = random.random(len(sources)) < share
    used[random.integers(len(used))] = True
    return Topology(inputs, outputs, (), sources, targets, used)


def child(parent: Topology, random: np.random.Generator) -> Topology:
    """Return a topology with exactly one change, by the odds of the paper; the parent where none was possible."""
    changes = (_add_node, _add_connection, _change_activation, _use_again)
    return changes[random.choice(4, p=[0.25, 0.20, 0.50, 0.05])](parent, random)


def _add_node(parent: Topology, random: np.random.Generator) -> Topology:
    """Put a node into the middle of a connection."""
    split = random.choice(np.flatnonzero(parent.used))
    node, used = parent.first_hidden + len(parent.hidden), parent.used.copy()
    used[split] = False
    return replace(
        parent,
        hidden=(*parent.hidden, int(random.integers(len(ACTIVATIONS)))),
        sources=np.append(parent.sources, [parent.sources[split], node]),
        targets=np.append(parent.targets, [node, parent.targets[split]]),
        used=np.append(used, [True, True]),
    )


def _add_connection(parent: Topology, random: np.random.Generator) -> Topology:
    """Connect two nodes that are not, from lower to higher depth; tries a few pairs."""
    start, nodes = parent.first_hidden, parent.first_hidden + len(parent.hidden)
    there = set(zip(parent.sources.tolist(), parent.targets.tolist(), strict=True))
    depth = [0] * (1 + parent.inputs) + [len(parent.hidden) + 2] * parent.outputs + parent.depth
    for _ in range(20):
        source, target = int(random.integers(nodes)), int(random.integers(1 + parent.inputs, nodes))
        from_output = 1 + parent.inputs <= source < start
        if not from_output and depth[source] < depth[target] and (source, target) not in there:
            return replace(
                parent,
                sources=np.append(parent.sources, source),
                targets=np.append(parent.targets, target),
                used=np.append(parent.used, True),
            )
    return parent


def _change_activation(parent: Topology, random: np.random.Generator) -> Topology:
    """Give a hidden node another activation; without one, add a node."""
    if not parent.hidden:
        return _add_node(parent, random)
    hidden = list(parent.hidden)
    place = int(random.integers(len(hidden)))
    hidden[place] = (hidden[place] + int(random.integers(1, len(ACTIVATIONS)))) % len(ACTIVATIONS)
    return replace(parent, hidden=tuple(hidden))


def _use_again(parent: Topology, random: np.random.Generator) -> Topology:
    """Use a connection again that was not in use."""
    idle = np.flatnonzero(~parent.used)
    if not len(idle):
        return parent
    used = parent.used.copy()
    used[random.choice(idle)] = True
    return replace(parent, used=used)
