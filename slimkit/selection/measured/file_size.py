"""A mask for the size of the ONNX file: solved by parameters, checked on the real file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.errors import BudgetError
from slimkit.example import Example
from slimkit.export import export_onnx
from slimkit.measure.onnx_bytes import bytes_of_onnx
from slimkit.progress import Progress, quiet
from slimkit.results import MeasuredBudget
from slimkit.selection.budget import Widths, amount, to_limit
from slimkit.selection.mask import Mask
from slimkit.selection.measured.solve import Remove
from slimkit.settings import Budget

_ROUNDS = 4
_PARAMETER = 4  # bytes


@dataclass
class SizeSolver:
    """Chooses masks for a budget of bytes: a `slimkit.selection.choose.Chooser`.

    Bytes follow the parameters but for what export folds and names; that difference is taken from real files,
    the dense one first.

    Attributes:
        dense: the network before removal.
        remove: (network, graph, mask) -> the smaller network: `slimkit.surgery.remove`.
        budget: of kind `bytes`.
        example: what it is called with.
        progress: called with what is being done, and the share done.
        write: (network, path, example) -> the ONNX file that a run delivers, metadata and all.
        original, target, reached: of the last mask, bytes.
    """

    dense: nn.Module
    remove: Remove
    budget: Budget
    example: Example
    progress: Progress = quiet
    write: Callable[[nn.Module, Path, Example], object] = export_onnx
    original: float = 0.0
    target: float = 0.0
    reached: float = 0.0

    def __call__(self, graph: Graph, scores: Tensor, widths: Widths, fixed: Tensor) -> Mask:
        """Return the mask that removes the lowest scores until the file is small enough.

        Raises:
            BudgetError: out of reach; the message has the best value.
        """
        budget = self.budget
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "network.onnx")
            self.progress("exporting the network to weigh it", None)
            more: float = self._bytes(self.dense, path) - _PARAMETER * graph.params(Mask.full(graph).keep)
            self.original = bytes_of_onnx(path)
            self.target = limit = budget.value if budget.absolute else budget.value * self.original
            for _ in range(_ROUNDS):
                extra = more

                def weigh(keep: Tensor, extra: float = extra) -> float:
                    return _PARAMETER * graph.params(keep) + extra

                mask = to_limit(graph, scores, weigh, limit, widths, "bytes", fixed)
                self.reached = real = self._bytes(self.remove(self.dense, graph, mask), path)
                if real <= limit:
                    return mask
                more = extra + real - weigh(mask.keep)
        raise BudgetError(
            f"max_bytes is {amount(limit, 'bytes')}: the nearest that was reached is {amount(real, 'bytes')}.\n"
            "  Raise the budget a little"
        )

    def record(self) -> MeasuredBudget:
        """Return how the last mask meets the budget, bytes."""
        return MeasuredBudget(
            kind="bytes",
            asked=self.budget.asked,
            original=self.original,
            target=self.target,
            reached=self.reached,
        )

    def _bytes(self, model: nn.Module, path: Path) -> int:
        self.write(model, path, self.example)
        return bytes_of_onnx(path)
