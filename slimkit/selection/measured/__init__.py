"""Budgets that have to be measured: what each layer costs on an engine, and masks that meet a time."""

from pathlib import Path

from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.measure.layer_table import Table, build, load, save
from slimkit.selection.measured.file_size import SizeSolver
from slimkit.selection.measured.solver import LatencySolver, Progress
from slimkit.settings import RunSpec


def budget_solver(
    dense: nn.Module, graph: Graph, spec: RunSpec, example: Tensor, work: Path, progress: Progress
) -> LatencySolver | SizeSolver | None:
    """Return what chooses the mask where the budget has to be measured: latency, energy, bytes; else None.

    Args:
        dense: the network before removal.
        graph: its channels.
        spec: the budget, engine, threads, batch, latency table.
        example: [N, C, H, W].
        work: folder for files of a moment.
        progress: called with what is being done, and the share done.
    """
    kind = spec.budget.kind
    if kind in ("latency", "energy"):
        return LatencySolver(dense, spec, example, work, progress)
    return SizeSolver(dense, spec, example, work, progress) if kind == "bytes" else None


__all__ = ["LatencySolver", "SizeSolver", "Table", "budget_solver", "build", "load", "save"]
