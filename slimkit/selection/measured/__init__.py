"""Budgets that have to be measured: what each layer costs on an engine, and masks that meet a time."""

from slimkit.selection.measured.agree import agreed
from slimkit.selection.measured.file_size import SizeSolver
from slimkit.selection.measured.problem import Aim
from slimkit.selection.measured.remember import remembered
from slimkit.selection.measured.solve import Solve
from slimkit.selection.measured.solver import LatencySolver

__all__ = [
    "Aim",
    "LatencySolver",
    "SizeSolver",
    "Solve",
    "agreed",
    "remembered",
]
