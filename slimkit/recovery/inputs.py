"""What the weights of a dense network read, as sums over all calibration inputs: fitted for any mask afterwards.

A reader's outputs are its inputs times its weight, so the second moments of its inputs are all that least squares
need, for every mask of the same network: those of the inputs that stay are a block of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit.example import call
from slimkit.hardware import plain_attention
from slimkit.modules import evaluating
from slimkit.progress import Progress
from slimkit.recovery.calibration import Chunk
from slimkit.recovery.equations import LARGEST, Moments
from slimkit.recovery.readers import Reader, parameters, reader
from slimkit.surgery.remove import take


@dataclass(frozen=True)
class WeightInputs:
    """What one weight reads, over all calls that have the same bias.

    Attributes:
        reader: how it reads; of several calls the first.
        fit, held: moments of x [G, F] of the inputs to fit, and of those held out; nothing of y.
    """

    reader: Reader
    fit: Moments
    held: Moments

    def restricted(self, weight: Tensor, indices: dict[int, Tensor]) -> tuple[Moments, Moments]:
        """Return the moments of what a smaller weight reads, and of what the dense one makes there.

        Args:
            weight: of the dense network.
            indices: what is kept along each of its dimensions.
        """
        kept = torch.zeros(weight.shape, dtype=torch.bool)
        grid = torch.arange(weight.numel()).reshape(weight.shape)
        kept.view(-1)[take(grid, indices).flatten()] = True
        of_matrix = self.reader.matrix(kept.to(weight.device))  # [G, F, O]
        groups = of_matrix.any(2).any(1).nonzero().flatten()
        columns = _index(of_matrix[groups].any(2))
        rows = _index(of_matrix[groups].any(1))
        matrix = self.reader.matrix(weight.detach())[groups].double()
        matrix = matrix.gather(2, rows[:, None].expand(-1, matrix.shape[1], -1))
        return _restricted(self.fit, groups, columns, matrix), _restricted(self.held, groups, columns, matrix)


def _index(kept: Tensor) -> Tensor:
    """Return where rows [G, n] are true, [G, m]: as often in every row."""
    return kept.nonzero()[:, 1].reshape(len(kept), -1)


def _restricted(dense: Moments, groups: Tensor, columns: Tensor, matrix: Tensor) -> Moments:
    x, xx = dense.x[groups], dense.xx[groups]
    made = xx @ matrix  # x y' of all that is read
    small = xx.gather(1, columns[:, :, None].expand(-1, -1, xx.shape[2]))
    small = small.gather(2, columns[:, None].expand(-1, small.shape[1], -1))
    return Moments(
        rows=dense.rows,
        x=x.gather(1, columns),
        y=(x[:, None] @ matrix)[:, 0],
        xx=small,
        xy=made.gather(1, columns[:, :, None].expand(-1, -1, made.shape[2])),
        yy=(matrix * made).sum(1),
    )


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module, only: set[str] | None, chunks: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = parameters(model)
        self.only = only
        self.held, self.chunk, self.chunks = False, 0, chunks
        self.found: dict[str, dict[str | None, WeightInputs]] = {}
        self.ways: dict[str, set[tuple[int, int]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = reader(func, args, self.names)
        if found is not None and (self.only is None or found[0].name in self.only):
            self._add(*found, out)
        return out

    def _add(self, found: Reader, x: Tensor, out: Tensor) -> None:
        uses, ways = self.found.setdefault(found.name, {}), self.ways.setdefault(found.name, set())
        ways.add(found.way)
        if len(ways) > 1:
            return
        for rows, _ in found.rows(x, out, self.chunk, self.chunks):
            if rows.shape[2] > LARGEST:
                return
            if found.bias not in uses:
                zero = [Moments.zero(rows.shape[0], rows.shape[2], 0, x.device) for _ in range(2)]
                uses[found.bias] = WeightInputs(found, *zero)
            inputs = uses[found.bias]
            (inputs.held if self.held else inputs.fit).add_(rows, rows[..., :0])


@torch.no_grad()
@plain_attention()
def gather(
    model: nn.Module, chunks: Sequence[Chunk], only: set[str] | None = None, progress: Progress | None = None
) -> dict[str, list[WeightInputs]]:
    """Run a network once over calibration inputs; return what each of its weights reads, by the weight's name.

    Args:
        only: these weights alone; those that read more than `LARGEST` values for one output are left out, and those
            that are used in several ways, as by a convolution and by its transpose: they are no one linear system.
    """
    watch = _Watch(model, only, len(chunks))
    with evaluating(model), watch:
        for number, chunk in enumerate(chunks):
            watch.held, watch.chunk = chunk.held, number
            call(model, chunk.example)
            if progress is not None:
                progress("reading calibration inputs", (number + 1) / len(chunks))
    return {name: list(uses.values()) for name, uses in watch.found.items() if uses and len(watch.ways[name]) == 1}
