"""Which channels reconstruction can do without, and what that costs: the scores that the regression itself gives.

    scores = losses(dense, graph, batches)             # [U], nats; the lowest of a group go first

Within a group the unit goes next whose removal adds least to the error of the least squares of all its readers, the
others making up for it as well as they can: optimal brain surgery for channels (Hassibi and Stork 1993; OBSPA,
arXiv:2403.18955, scores them likewise), each output weighted with what an error there costs (`curvature`). So scores
of different groups have one unit and can be summed: what a width of a group loses is the sum over what is gone.

Shapes: U units, G convolution groups, F values read, O outputs, as in `readers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimkit.channels import Graph, Group
from slimkit.channels.graph import Axis
from slimkit.example import Example
from slimkit.progress import Progress, quiet
from slimkit.recovery.calibration import chunks
from slimkit.recovery.curvature import curvature
from slimkit.recovery.inputs import Inputs, gather

# Added to the variance of each value that is read, as a share of it: correlations that so few inputs cannot tell from
# chance count for little, and scores do not depend on the scale of a channel.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_BETTER = 0.99  # of the error before: a larger ridge has to show for it
_SLICES = 64  # a group is taken apart in about so many steps


@dataclass
class _System:
    """Least squares of one reader, of one convolution group: inverse [F, F], weight [F, O], columns of units [n, K]."""

    inverse: Tensor
    weight: Tensor
    columns: Tensor

    def increase(self, alive: Tensor) -> Tensor:
        """Return, for each of the units `alive`, by how much the error grows without it."""
        columns = self.columns[alive]  # [A, K]
        own = self.inverse[columns[:, :, None], columns[:, None]]
        weight = self.weight[columns]  # [A, K, O]
        added: Tensor = weight * torch.linalg.solve(own, weight)
        return added.sum((1, 2))

    def remove(self, units: Tensor) -> None:
        """Let the other inputs make up for some units."""
        gone = self.columns[units].flatten()
        side = self.inverse[:, gone]
        step = torch.linalg.solve(side[gone], torch.cat([self.weight[gone], side.T], 1))
        made = self.weight.shape[1]
        self.weight = self.weight - side @ step[:, :made]
        self.inverse = self.inverse - side @ step[:, made:]


@torch.no_grad()
def losses(dense: nn.Module, graph: Graph, batches: Sequence[Example], *, progress: Progress | None = None) -> Tensor:
    """Return what is lost when each unit goes, after those of its group that are lost more cheaply, [U].

    In nats of the divergence of the predictions, as far as errors are small and add up; never falling within a group
    in the order in which units go; NaN where nothing that can be fitted reads the group.

    Args:
        dense: the network; left as found.
        graph: its channels.
        batches: inputs without labels, as for `reconstruct`.
        progress: called with what is being done, and the share done.
    """
    parts = chunks(batches)
    report: Progress = progress or (quiet)
    costs = curvature(dense, parts)
    readers = {axis.tensor for axis in graph.axes if axis.reads}
    inputs = gather(dense, parts, readers, report)
    result: Tensor = torch.zeros(graph.units, dtype=torch.float64)
    for number, group in enumerate(graph.groups):
        systems = [s for axis in graph.axes if axis.reads for s in _systems(dense, axis, group, inputs, costs)]
        order, gained = _eliminate(systems, len(group.members))
        result[group.members[order]] = gained
        report("scoring channels", (number + 1) / len(graph.groups))
    return result


def _systems(
    dense: nn.Module, axis: Axis, group: Group, inputs: dict[str, list[Inputs]], costs: dict[str, Tensor]
) -> list[_System]:
    """Return the least squares of what one dimension of a weight reads of a group, one a use and convolution group."""
    if axis.tensor not in inputs or not bool(torch.isin(axis.unit_of, group.members).any()):
        return []
    weight = dense.get_parameter(axis.tensor).detach().cpu()
    found = []
    for use in inputs[axis.tensor]:
        along = axis.unit_of.reshape([-1 if d == axis.dim else 1 for d in range(weight.dim())])
        unit_of = use.reader.matrix(along.expand(weight.shape))[:, :, 0]  # [G, F]
        matrix = use.reader.matrix(weight).double()
        cost = costs.get(axis.tensor)
        if cost is not None and cost.numel() == matrix.shape[0] * matrix.shape[2]:
            matrix = matrix * cost.cpu().reshape(len(matrix), 1, -1).sqrt()
        for part in range(len(matrix)):
            places = unit_of[part]
            of_unit = [(places == unit).nonzero().flatten() for unit in group.members]
            if len({len(own) for own in of_unit}) == 1 and len(of_unit[0]):
                inverse = _inverse(use, part, matrix[part].square().sum(1))
                found.append(_System(inverse, matrix[part], torch.stack(of_unit)))
    return found


def _inverse(use: Inputs, part: int, weights: Tensor) -> Tensor:
    """Return the inverse covariance [F, F] of what one convolution group reads, as far as the inputs can tell it.

    Row i of the inverse says how value i follows from the others. The ridge is the one by which values follow best on
    inputs held out: with 128 images pooled to 128 rows, 1,280 values all follow from one another, but only there.

    Args:
        weights: [F], how much an error of each value counts.
    """
    ridge = _RIDGES[0]
    if use.held.rows and use.fit.rows:
        fit = _covariance(use.fit.x[part].cpu(), use.fit.xx[part].cpu(), use.fit.rows)
        shift = ((use.held.x / use.held.rows - use.fit.x / use.fit.rows)[part]).cpu()
        held = _covariance(use.held.x[part].cpu(), use.held.xx[part].cpu(), use.held.rows)
        held = held + shift[:, None] * shift  # around the mean that was fitted
        best = float("inf")
        for candidate in _RIDGES:
            inverse = torch.linalg.inv(_damped(fit, candidate))
            errors = ((inverse @ held) * inverse).sum(1) / inverse.diagonal().square()
            error = float((weights * errors).sum())
            if error > _BETTER * best:
                break
            best, ridge = error, candidate
    x, xx = (use.fit.x + use.held.x)[part].cpu(), (use.fit.xx + use.held.xx)[part].cpu()
    return torch.linalg.inv(_damped(_covariance(x, xx, use.fit.rows + use.held.rows), ridge))


def _covariance(x: Tensor, xx: Tensor, rows: int) -> Tensor:
    mean = x / rows
    found: Tensor = xx / rows - mean[:, None] * mean
    return found


def _damped(covariance: Tensor, ridge: float) -> Tensor:
    variance = covariance.diagonal()
    return covariance + torch.diag(ridge * (variance + 1e-6 * variance.max()) + 1e-30)


def _eliminate(systems: Sequence[_System], count: int) -> tuple[Tensor, Tensor]:
    """Take units away until one is left; return their order [n], and what each added, never falling [n]."""
    alive = torch.arange(count)
    if not systems:
        return alive, torch.full((count,), float("nan"), dtype=torch.float64)
    order, gained = [], []
    while len(alive) > 1:
        increase = torch.stack([system.increase(alive) for system in systems]).sum(0)
        picked = increase.argsort(stable=True)[: max(1, min(count // _SLICES, len(alive) - 1))]
        order.append(alive[picked])
        gained.append(increase[picked])
        for system in systems:
            system.remove(alive[picked])
        rest = torch.ones(len(alive), dtype=torch.bool)
        rest[picked] = False
        alive = alive[rest]
    order.append(alive)
    gained.append(torch.full((len(alive),), float(gained[-1].max()) if gained else 0.0, dtype=torch.float64))
    return torch.cat(order), torch.cat(gained).cummax(0).values
