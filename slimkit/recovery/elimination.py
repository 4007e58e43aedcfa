"""Which channels reconstruction can do without, and what that costs: the scores that the regression itself gives.

    found = losses(dense, graph, batches)              # [U], nats; the lowest of a group go first

Within a group the unit goes next whose removal adds least to the error of the least squares of all its readers, the
others making up for it as well as they can: optimal brain surgery for channels (Hassibi and Stork 1993; OBSPA,
arXiv:2403.18955, scores them likewise), each output weighted with what an error there costs (`curvature`). So scores
of different groups have one unit and can be summed: what a width of a group loses is the sum over what is gone.

Shapes: U units, G convolution groups, F values read, O outputs, as in `readers`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimkit.channels import Graph, Group
from slimkit.channels.graph import Axis
from slimkit.example import Example
from slimkit.progress import Progress, quiet
from slimkit.recovery.calibration import LEAST, chunks
from slimkit.recovery.curvature import curvature
from slimkit.recovery.inputs import WeightInputs, gather
from slimkit.recovery.readers import Reader
from slimkit.recovery.sensitivity import Sensitivity, WeightAndBias

# Added to the variance of each value that is read, as a share of it: correlations that so few inputs cannot tell from
# chance count for little, and scores do not depend on the scale of a channel.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_BETTER = 0.99  # of the error before: a larger ridge has to show for it
_FOLLOWED = 256  # values that the ridge is chosen by, of a system that has more
_LARGE = 1e9  # multiply-adds of telling once what is lost
FEW = 64  # inputs: of fewer, losses do not tell all
_SLICES = 64  # a group is taken apart in about so many steps
_COMPACT = 0.9  # of the rows of a matrix: with no more left, the others are taken out of it


@dataclass(frozen=True)
class Losses:
    """What is lost when each unit goes, after those of its group that are lost more cheaply; two ways, [U] each.

    In nats of the divergence of the predictions, as far as losses of groups add up, on inputs held out: of few inputs,
    few channels explain all, but only those. Never falling within a group in the order in which units go; NaN where
    nothing that can be fitted reads the group.

    Attributes:
        estimated: errors at the readers, each weighted with what it costs by `curvature`.
        measured: the same, every group scaled by what half of it costs when that alone is gone. That is nearer for a
            group alone; what later layers would make up for it overprices (ResNet-20 at 0.4 of its latency: divergence
            0.043 by these widths, 0.030 by the estimated ones; EfficientNet-Lite0 the other way round).
    """

    estimated: Tensor
    measured: Tensor


@dataclass
class _System:
    """Least squares of one reader, of one convolution group.

    Attributes:
        use: what reads; `part`: its convolution group.
        inverse: [R, R], of the covariance of what is read and left, of inputs to fit; written over. Rows of values that
            went lately are still there, and near 0.
        mean: [F], of what is read.
        weight: [F, O], as it makes up for what is gone; written over. `whole`: before anything went.
        cost: [O], of a mean squared error of 1 at each output.
        columns: [n, K], what each unit is read as.
        held: [F, F], covariance of inputs held out.
    """

    use: Reader
    part: int
    inverse: Tensor
    mean: Tensor
    weight: Tensor
    whole: Tensor
    cost: Tensor
    columns: Tensor
    held: Tensor

    def __post_init__(self) -> None:
        self._rows = torch.arange(len(self.whole))  # that `inverse` has, R, of F
        self._place = self._rows.clone()  # [F], where each of them is
        self._stay = torch.ones(len(self.whole), dtype=torch.bool)  # [F]

    def increase(self, alive: Tensor) -> Tensor:
        """Return, for each of the units `alive`, by how much the error grows without it."""
        columns = self.columns[alive]  # [A, K]
        places = self._place[columns]
        own = self.inverse[places[:, :, None], places[:, None]]
        weight = self.weight[columns]  # [A, K, O]
        added: Tensor = weight * torch.linalg.solve(own, weight) * self.cost
        return added.sum((1, 2))

    def remove(self, units: Tensor) -> None:
        """Let the other inputs make up for some units.

        In place, and rows that are gone are left behind a few at a time: of 4,608 values a new matrix a step took three
        times as long, most of it for memory that was given back and taken again.
        """
        columns = self.columns[units].flatten()
        gone = self._place[columns]
        side = self.inverse[gone]  # rows for columns, which are the same: these are read in one piece
        made = self.weight.shape[1]
        step = torch.linalg.solve(side[:, gone], torch.cat([self.weight[columns], side], 1))
        self.weight.index_add_(0, self._rows, side.T @ step[:, :made], alpha=-1)
        self._stay[columns] = False
        self.weight[self._rows[~self._stay[self._rows]]] = 0.0
        self.inverse.addmm_(side.T, step[:, made:], alpha=-1)
        stay = self._stay[self._rows]
        if int(stay.sum()) <= _COMPACT * len(stay):
            self._rows = self._rows[stay]
            self.inverse = self.inverse[stay.nonzero(), stay.nonzero().T]
            self._place[self._rows] = torch.arange(len(self._rows))

    def copied(self) -> _System:
        """Return the system with its weight as it is now."""
        twin = copy.copy(self)
        twin.weight = self.weight.clone()
        return twin

    def loss(self) -> float:
        """Return what the error of all that is made costs, on inputs held out."""
        gone = (self.whole - self.weight).float()
        return float(((gone * (self.held @ gone)).sum(0) * self.cost).sum())


@torch.no_grad()
def losses(dense: nn.Module, graph: Graph, batches: Sequence[Example], *, progress: Progress | None = None) -> Losses:
    """Return what is lost when each unit goes.

    Args:
        dense: the network; left as found.
        graph: its channels.
        batches: inputs without labels, as for `reconstruct`.
        progress: called with what is being done, and the share done.

    Raises:
        DataError: as `reconstruct`. MaskError: the graph is of another network.
    """
    graph.check_of(dense)
    parts = chunks(batches, model=dense)
    report: Progress = progress or (quiet)
    costs = curvature(dense, parts)
    readers = {axis.tensor for axis in graph.axes if axis.reads}
    inputs = gather(dense, parts, readers, report)
    measure = Sensitivity(dense, [part for part in parts if part.held])
    estimated, measured = torch.zeros(2, graph.units, dtype=torch.float64)
    for number, group in enumerate(graph.groups):
        systems = [s for axis in graph.axes if axis.reads for s in _systems(dense, axis, group, inputs, costs)]
        order, gained, half = _eliminate(systems, len(group.members))
        estimated[group.members[order]] = gained
        measured[group.members[order]] = gained * _correction(dense, half, measure)
        report("scoring channels", (number + 1) / len(graph.groups))
    return Losses(estimated, measured)


def tempered(found: Losses, graph: Graph, norms: Tensor, inputs: int) -> Losses:
    """Return losses of few inputs, below 64, drawn to what the norms of weights say; of more as they are.

    A handful has none of many things that a network tells apart, so that channels for those seem to be worth nothing
    (an audio network at half of its multiply-adds, 8 inputs, three draws: 53, 68 and 72 % by losses alone, 77, 72 and
    79 so; MobileNetV3 60 and 68, others within 1.2).

    Args:
        norms: [U], `group-norm` of `selection.ranking`; their squares share out what the losses of a group come to.
        inputs: how many the losses are of.
    """
    if inputs >= FEW:
        return found
    doubt = LEAST / (LEAST + inputs)

    def drawn(losses: Tensor) -> Tensor:
        losses = losses.clone()
        for group in graph.groups:
            own, squares = losses[group.members], norms[group.members].to(losses).square()
            if bool(own.isfinite().all()) and float(squares.sum()) > 0:
                losses[group.members] = (1 - doubt) * own + doubt * own.sum() * squares / squares.sum()
        return losses

    return Losses(drawn(found.estimated), drawn(found.measured))


def _systems(
    dense: nn.Module, axis: Axis, group: Group, inputs: dict[str, list[WeightInputs]], costs: dict[str, Tensor]
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
        each = matrix.new_ones(matrix[:, 0].shape)  # [G, O]
        if cost is not None and cost.numel() == each.numel():
            each = cost.cpu().double().reshape(each.shape)
        for part in range(len(matrix)):
            places = unit_of[part]
            of_unit = [(places == unit).nonzero().flatten() for unit in group.members]
            if len({len(own) for own in of_unit}) == 1 and len(of_unit[0]):
                found.append(_system(use, part, matrix[part], each[part], torch.stack(of_unit)))
    return found


def _system(use: WeightInputs, part: int, weight: Tensor, cost: Tensor, columns: Tensor) -> _System:
    """Return the least squares of one convolution group.

    The ridge is the one by which the values that are read follow best from one another on inputs held out.
    """
    fit, held = ((side.x[part].cpu(), side.xx[part].cpu(), side.rows) for side in (use.fit, use.held))
    if not use.held.rows:
        held = fit
    mean = fit[0] / fit[2]
    covariance, apart = _covariance(*fit, mean), _covariance(*held, mean)
    counts = (weight.square() * cost).sum(1)
    some = torch.arange(0, len(mean), 1 + len(mean) // _FOLLOWED)
    unit = torch.eye(len(mean), dtype=torch.float64)[:, some]
    best, kept = float("inf"), torch.eye(len(mean), dtype=torch.float64)
    for ridge in _RIDGES:
        variance = covariance.diagonal()
        damped = covariance.clone()
        damped.diagonal().add_(ridge * (variance + 1e-6 * variance.max()) + 1e-30)
        factor, failed = torch.linalg.cholesky_ex(damped)
        del damped
        if int(failed):
            continue
        rows = torch.cholesky_solve(unit, factor)  # of the inverse: how a value follows from the others
        errors = (rows * (apart @ rows)).sum(0) / rows[some, torch.arange(len(some))].square()
        error = float((counts[some] * errors).sum())
        if error > _BETTER * best:
            break
        best, kept = error, factor
    kept = torch.cholesky_inverse(kept)
    return _System(use.reader, part, kept, mean, weight.clone(), weight, cost, columns, apart.float())


@dataclass(frozen=True)
class _Half:
    """A group with half of its units gone: its readers as they make up for that, and what is lost by the estimate."""

    systems: tuple[_System, ...] = ()
    lost: float = 0.0


def _correction(dense: nn.Module, half: _Half, measure: Sensitivity) -> float:
    """Return what half of a group costs as measured, over the estimate.

    The estimate takes errors of positions and channels as independent, and predictions as nearly the same.
    """
    if not half.lost > 0:
        return 1.0
    matrices: dict[str, tuple[Reader, Tensor]] = {}
    constants: dict[WeightAndBias, Tensor] = {}
    for system in half.systems:
        use, weight = system.use, dense.get_parameter(system.use.name).detach()
        _, matrix = matrices.setdefault(use.name, (use, use.matrix(weight).cpu().double().clone()))
        matrix[system.part] = system.weight
        constant = constants.setdefault((use.name, use.bias), torch.zeros(matrix[:, 0].shape, dtype=torch.float64))
        constant[system.part] = system.mean @ (system.whole - system.weight)
    weights = {name: use.weight(matrix, dense.get_parameter(name)) for name, (use, matrix) in matrices.items()}
    return measure(weights, {use: constant.flatten() for use, constant in constants.items()}) / half.lost


def _covariance(x: Tensor, xx: Tensor, rows: int, around: Tensor) -> Tensor:
    """Return second moments around a point [F]."""
    mean = x / rows
    moments = xx / rows
    return moments.addr_(mean - around, around, alpha=-1).addr_(around, mean, alpha=-1)  # in place: it may take 0.2 GB


def _eliminate(systems: Sequence[_System], count: int) -> tuple[Tensor, Tensor, _Half]:
    """Take units away until none is left; return their order [n], what each added, never falling [n], and the half."""
    alive, half = torch.arange(count), _Half()
    if not systems:
        return alive, torch.full((count,), float("nan"), dtype=torch.float64), half
    order, sizes, gained = [], [], []
    before, since = 0.0, 0
    work = sum(system.whole.numel() * len(system.whole) for system in systems)
    every = 1 if work < _LARGE else 8  # steps between two looks at what is lost
    while len(alive):
        increase = torch.stack([system.increase(alive) for system in systems]).sum(0)
        picked = increase.argsort(stable=True)[: max(1, min(count // _SLICES, len(alive) - 1))]
        order.append(alive[picked])
        for system in systems:
            system.remove(alive[picked])
        rest = torch.ones(len(alive), dtype=torch.bool)
        rest[picked] = False
        alive, since = alive[rest], since + len(picked)
        middle = not half.systems and 2 * len(alive) <= count
        if len(order) % every == 0 or middle or not len(alive):
            lost = sum(system.loss() for system in systems)
            sizes.append(since)
            gained.append((lost - before) / since)
            before, since = lost, 0
        if middle:
            half = _Half(tuple(system.copied() for system in systems), lost)
    return torch.cat(order), _rising(sizes, gained), half


def _rising(sizes: Sequence[int], values: Sequence[float]) -> Tensor:
    """Return values, each as often as its size, that never fall nor go below 0: those that fall become their mean."""
    blocks: list[tuple[int, float]] = []
    for size, value in zip(sizes, values, strict=True):
        blocks.append((size, value))
        while len(blocks) > 1 and blocks[-2][1] > blocks[-1][1]:
            (first, low), (second, high) = blocks[-2:]
            blocks[-2:] = [(first + second, (first * low + second * high) / (first + second))]
    return torch.cat([torch.full((size,), max(0.0, value), dtype=torch.float64) for size, value in blocks])
