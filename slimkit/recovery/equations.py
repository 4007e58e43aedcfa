"""Ridge regression from accumulated normal equations, the ridge chosen by rows that are held out.

G groups, F values read, O values made, as in `readers`. The ridge pulls towards a given weight, not towards zero:
with few rows the answer is what was there before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 5_000  # values read, for which second moments are kept: 0.2 GB a system in double precision
MOST_ROWS = 4_096  # rows kept themselves, where more values than that are read
# Ridges below _SMALL have to show for it by this factor on the error. Weights that are large and take each other back
# gain little on inputs like these, and lose everything when training moves what they read: ResNet-8 on digits, 0.7 of
# its channels, had weights of 13 times the norm and fell from 99 to 58 % in an epoch of retraining.
_SMALL, _BETTER = 1e-3, 0.9
RIDGES = (float("inf"), 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # shares of the mean square of what is read


@dataclass
class Moments:
    """Sums over rows, in double precision: of x [G, F], y [G, O], x x' [G, F, F], x y' [G, F, O], y y [G, O]."""

    rows: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def zero(cls, groups: int, read: int, made: int, device: torch.device) -> Moments:
        """Return the sums of no rows."""
        shapes = ((read,), (made,), (read, read), (read, made), (made,))
        return cls(0, *(torch.zeros(groups, *shape, dtype=torch.float64, device=device) for shape in shapes))

    def add_(self, x: Tensor, y: Tensor) -> None:
        """Add rows: x [G, n, F], y [G, n, O].

        Products of many rows are made in single precision, of what is left without the mean of the rows: where that is
        large beside the spread, products of the rows themselves would say nothing of how they vary.
        """
        if x.dtype in (torch.float16, torch.bfloat16):
            x, y = x.float(), y.float()
        rows = x.shape[1]
        self.rows += rows
        if not rows:
            return
        if rows < x.shape[2]:  # a product in single precision would be turned into one in double, in new memory
            x, y = x.double(), y.double()
            self.xx.baddbmm_(x.mT, x)
            self.xy.baddbmm_(x.mT, y)
            self.x += x.sum(1)
            self.y += y.sum(1)
            self.yy += y.square().sum(1)
            return
        at, to = (one.mean(1, keepdim=True) for one in (x, y))
        x, y = x - at, y - to
        self.xx += x.mT @ x
        self.xy += x.mT @ y
        left, over = (one.sum(1, keepdim=True).double() for one in (x, y))  # of rounding the means
        at, to = at.double(), to.double()
        whole = left + rows * at
        self.xx.baddbmm_(whole.mT, at).baddbmm_(at.mT, left)
        self.xy.baddbmm_(whole.mT, to).baddbmm_(at.mT, over)
        self.x += whole[:, 0]
        self.y += (over + rows * to)[:, 0]
        self.yy += y.square().sum(1) + (to * (2 * over + rows * to))[:, 0]

    def error(self, matrix: Tensor, bias: Tensor) -> Tensor:
        """Return the sum of squares of y - x W - b over these rows, [G, O]; W [G, F, O], b [G, O]."""
        of_matrix = (matrix * (self.xx @ matrix - 2 * self.xy)).sum(1) + self.yy
        of_bias = bias * (self.rows * bias - 2 * self.y + 2 * (self.x[:, None] @ matrix)[:, 0])
        return (of_matrix + of_bias).clamp(min=0)


@dataclass(frozen=True)
class WeightUse:
    """One use of a weight: rows to fit, rows held out, and whether a constant may be added to what it makes."""

    fit: Moments
    held: Moments
    constant: bool


@dataclass(frozen=True)
class Solution:
    """A weight that was fitted.

    Attributes:
        matrix: W [G, F, O].
        constants: of each use b [G, O], zero where none was allowed.
        ridge: the share chosen; inf: the weight is as it was, and only the constants are fitted.
        before, after: error on the rows held out, of the weight as it was (with its best constants) and fitted,
            over the variance of what was to be made.
    """

    matrix: Tensor
    constants: tuple[Tensor, ...]
    ridge: float
    before: float
    after: float


@torch.no_grad()
def solve(uses: Sequence[WeightUse], start: Tensor, ridges: Sequence[float] = RIDGES) -> Solution:
    """Return the weight nearest to `start` that makes y of x in all its uses.

    Its ridge is the one that does best on the rows held out. These stay out, so that they are an honest check of the
    whole network afterwards.

    Args:
        uses: sums over rows.
        start: [G, F, O], the weight as it is.
        ridges: from the largest on.
    """
    start = start.double()
    spread = sum(float((u.held.yy - u.held.y.square() / u.held.rows).sum()) for u in uses)
    system = _System(uses)
    best: Solution | None = None
    for ridge in ridges:
        matrix, constants = system.solve(start, ridge)
        error = sum(float(u.held.error(matrix, b).sum()) for u, b in zip(uses, constants, strict=True))
        error /= max(spread, torch.finfo(torch.float64).tiny)
        if best is None or error < _worth(ridge) * best.after:
            best = Solution(matrix, constants, ridge, best.before if best else error, error)
        elif error > 1.5 * best.after:
            break  # smaller ones only get worse
    assert best is not None
    return best


def _worth(ridge: float) -> float:
    return 1.0 if ridge >= _SMALL else _BETTER


class _System:
    """Normal equations of all uses together, each centred by its own means where it may have a constant."""

    def __init__(self, uses: Sequence[WeightUse]) -> None:
        self.means = [(u.fit.x / u.fit.rows * u.constant, u.fit.y / u.fit.rows * u.constant) for u in uses]
        self.xx, self.xy = uses[0].fit.xx.clone(), uses[0].fit.xy.clone()
        for use in uses[1:]:
            self.xx += use.fit.xx
            self.xy += use.fit.xy
        for use, (x, y) in zip(uses, self.means, strict=True):  # in place: a large system takes 0.2 GB
            self.xx.baddbmm_(x[:, :, None], x[:, None], alpha=-use.fit.rows)
            self.xy.baddbmm_(x[:, :, None], y[:, None], alpha=-use.fit.rows)

    def solve(self, start: Tensor, ridge: float) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return W and b of each use; W is `start` where the ridge is infinite or the system cannot be solved."""
        matrix = start
        if ridge < float("inf"):
            damped = self.xx.clone()
            diagonal = damped.diagonal(dim1=1, dim2=2)
            diagonal += ridge * diagonal.mean(1, keepdim=True) + torch.finfo(torch.float64).tiny
            factor, failed = torch.linalg.cholesky_ex(damped)
            del damped
            step = torch.cholesky_solve(self.xy - self.xx @ start, factor)
            usable = (failed == 0) & step.flatten(1).isfinite().all(1)
            matrix = start + torch.where(usable[:, None, None], step, 0.0)
        return matrix, tuple(y - (x[:, None] @ matrix)[:, 0] for x, y in self.means)


@torch.no_grad()
def solve_rows(
    fit: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    start: Tensor,
    constant: bool,
    ridges: Sequence[float] = RIDGES,
) -> Solution:
    """Return what `solve` does for one use, from the rows themselves: where more values are read than there are rows.

    The weight moves by a combination of the rows, so the system is as large as their number.

    Args:
        fit, held: x [G, n, F] and y [G, n, O].
        start: [G, F, O].
        constant: a constant may be added to what is made.
        ridges: as for `solve`.
    """
    start = start.double()
    (x, y), (held_x, held_y) = ((a.double(), b.double()) for a, b in (fit, held))
    mean_x = x.mean(1, keepdim=True) * constant
    mean_y = y.mean(1, keepdim=True) * constant
    centred = x - mean_x
    left = y - mean_y - centred @ start
    products = centred @ centred.mT
    scale = products.diagonal(dim1=1, dim2=2).sum(1) / x.shape[2]
    across = (held_x - mean_x) @ centred.mT
    held_left = held_y - mean_y - (held_x - mean_x) @ start
    spread = max(float((held_y - held_y.mean(1, keepdim=True)).square().sum()), torch.finfo(torch.float64).tiny)
    before = float(held_left.square().sum()) / spread
    best = before if ridges[0] == float("inf") else float("inf")
    ridge, weights = float("inf"), torch.zeros_like(left)
    for candidate in ridges:
        if candidate == float("inf"):
            continue
        damping = (candidate * scale + torch.finfo(torch.float64).tiny)[:, None].expand(-1, x.shape[1])
        factor, failed = torch.linalg.cholesky_ex(products + torch.diag_embed(damping))
        found = torch.cholesky_solve(left, factor)
        error = float((held_left - across @ found).square().sum()) / spread
        if bool((failed == 0).all()) and error < _worth(candidate) * best:
            best, ridge, weights = error, candidate, found
        elif error > 1.5 * best:
            break
    matrix = start + centred.mT @ weights
    return Solution(matrix, ((mean_y - mean_x @ matrix)[:, 0],), ridge, before, best)
