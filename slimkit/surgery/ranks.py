"""Which rank each layer gets when it becomes two thin ones, and which layers stay one.

The energy of rank r is the share of the squared singular values that the first r hold: 1 - energy is the squared
relative error of the weight. A layer stays one where two would cost as much: at or above its break-even rank.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import torch
from torch import Tensor, nn

from slimkit.errors import BudgetError, SpecError
from slimkit.example import Example, batch_size, call
from slimkit.models.factors import matrix
from slimkit.modules import evaluating, heard, unwrapped
from slimkit.surgery.factorise import left_dense, singular_values

CostKind = Literal["params", "macs"]


@dataclass(frozen=True)
class Spectrum:
    """A layer that can be two.

    Attributes:
        path: of the module.
        energy: float64 [limit], share of the squared singular values in the first 1, 2, ... of them.
        params, macs: of the layer as it is; biases are not counted.
        params_a_rank, macs_a_rank: of two thin ones, for each rank; MACs of one image.
        shape: of one image's input to the layer.
        most: the highest rank at which two are worth having beside what they cost, as where more are slower than one.
        step: ranks are multiples of it, and at least it.
    """

    path: str
    energy: Tensor
    params: int
    macs: int
    params_a_rank: int
    macs_a_rank: int
    shape: tuple[int, ...]
    most: int | None = None
    step: int = 1

    def at(self, rank: int | None, cost: CostKind) -> int:
        """Return what the layer costs at a rank; None: as one layer."""
        dense, each = (self.params, self.params_a_rank) if cost == "params" else (self.macs, self.macs_a_rank)
        return dense if rank is None else each * rank

    def paying(self, rank: int, cost: CostKind) -> int | None:
        """Return the rank, None where two layers of it cost as much as one, are not worth having, or there is none."""
        most = len(self.energy) if self.most is None else self.most
        return rank if self.at(rank, cost) < self.at(None, cost) and rank <= most else None


def layers(model: nn.Module, example: Example, keep: Collection[str] = ()) -> list[Spectrum]:
    """Return the layers that can be two, in the order of execution; those that never ran are left out.

    Args:
        model: run once in eval mode; left as it was found.
        example: one input, or a batch of one image.
        keep: paths to leave out.

    Raises:
        ArchitectureError: the model is no module. TraceError: the example is no input.
    """
    model = unwrapped(model)
    batch_size(example)
    unfit = {**left_dense(model), **dict.fromkeys(keep, "")}
    wanted = {path: m for path, m in model.named_modules() if matrix(m) is not None and path not in unfit}
    positions: dict[str, tuple[int, int]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    paths = {module: path for path, module in wanted.items()}

    def count(layer: nn.Module, given: Tensor, output: Tensor) -> None:
        path, (first, second) = paths[layer], _positions(layer, given, output)
        shapes[path] = tuple(given.shape[1:])
        before = positions.get(path, (0, 0))
        positions[path] = (before[0] + first, before[1] + second)  # a layer may run several times

    with evaluating(model), torch.no_grad(), heard(paths, count):
        call(model, example)
    return [_layer(path, wanted[path], positions[path], shapes[path]) for path in positions]


def _positions(layer: nn.Module, images: Tensor, output: Tensor) -> tuple[int, int]:
    """Return where the first and the second thin layer would compute: positions a channel, of the batch given."""
    if isinstance(layer, nn.Linear):
        return (images.numel() // layer.in_features,) * 2
    batch = len(output) if output.dim() == 4 else 1
    return batch * images.shape[-2] * output.shape[-1], batch * output.shape[-2] * output.shape[-1]


def _layer(path: str, layer: nn.Module, positions: tuple[int, int], shape: tuple[int, ...]) -> Spectrum:
    found = matrix(layer)
    assert found is not None
    squares = singular_values(layer).square().sum(0)
    total = squares.sum()
    energy = (squares.cumsum(0) / total).clamp(max=1.0) if total > 0 else torch.ones_like(squares)
    weights, (first, second) = layer.get_parameter("weight").numel(), positions
    return Spectrum(
        path=path,
        energy=energy,
        params=weights,
        macs=weights * second,
        params_a_rank=found.params(1),
        macs_a_rank=found.groups * (first * found.columns + second * found.rows),
        shape=shape,
    )


def in_steps(found: Sequence[Spectrum], step: int) -> list[Spectrum]:
    """Return layers whose ranks are multiples of a step; those that have no such rank keep all."""
    return [replace(layer, step=step if step <= len(layer.energy) else 1) for layer in found]


def by_energy(found: Sequence[Spectrum], energy: float, cost: CostKind = "params") -> dict[str, int]:
    """Return the least ranks that keep a share of the energy, by path; layers that do not pay are left out.

    Args:
        energy: in (0, 1].
        cost: what two layers have to spare.
    """
    if not 0 < energy <= 1:
        raise SpecError(f"energy is {energy}: it is the share of the squared singular values kept, in (0, 1].")
    ranks = {layer.path: layer.paying(_least(layer, energy), cost) for layer in found}
    return {path: rank for path, rank in ranks.items() if rank is not None}


def _least(layer: Spectrum, energy: float) -> int:
    least = min(int(torch.searchsorted(layer.energy, energy - 1e-12)) + 1, len(layer.energy))
    return ceil(least / layer.step) * layer.step


def total(found: Sequence[Spectrum], ranks: Mapping[str, int], whole: int, cost: CostKind) -> int:
    """Return the cost of a network, of `whole` before, with layers at these ranks."""
    return whole - sum(layer.at(None, cost) - layer.at(ranks.get(layer.path), cost) for layer in found)


def to_budget(found: Sequence[Spectrum], whole: int, budget: int, cost: CostKind) -> dict[str, int]:
    """Return ranks of one and the same energy for all layers, the highest that a budget allows, by bisection.

    What is left of the budget then goes step by step to the layers that keep least of their energy.

    Args:
        whole: cost of the network as it is, with what cannot be two.
        budget: the most that it may cost: parameters, or MACs of one image.

    Raises:
        BudgetError: the lowest rank in every layer costs more.
    """
    levels = sorted({float(e) for layer in found for e in layer.energy})
    low, high = -1, len(levels)
    while high - low > 1:
        middle = (low + high) // 2
        fits = total(found, by_energy(found, levels[middle], cost), whole, cost) <= budget
        low, high = (middle, high) if fits else (low, middle)
    if low < 0:
        lowest = {layer.path: layer.step for layer in found if layer.paying(layer.step, cost)}
        least = total(found, lowest, whole, cost)
        if least > budget:
            slower = [layer.path for layer in found if layer.path not in lowest]
            rank = " or ".join(map(str, sorted({layer.step for layer in found})))
            stay = f" but those that stay whole ({', '.join(slower)})" if slower else ""
            raise BudgetError(
                f"{budget} {cost} were asked for, but with every layer at rank {rank}{stay} there are {least} of "
                f"{whole}.\n"
                "  Raise the budget, or remove channels too"
            )
        ranks = lowest
    else:
        ranks = by_energy(found, levels[low], cost)
    return _filled(found, ranks, budget - total(found, ranks, whole, cost), cost)


def _filled(found: Sequence[Spectrum], ranks: dict[str, int], spare: int, cost: CostKind) -> dict[str, int]:
    by_path = {layer.path: layer for layer in found}
    while True:
        fitting = [
            path
            for path, rank in ranks.items()
            if by_path[path].at(by_path[path].step, cost) <= spare
            and by_path[path].paying(rank + by_path[path].step, cost)
        ]
        if not fitting:
            return ranks
        poorest = min(fitting, key=lambda path: float(by_path[path].energy[ranks[path] - 1]))
        step = by_path[poorest].step
        ranks = {**ranks, poorest: ranks[poorest] + step}
        spare -= by_path[poorest].at(step, cost)
