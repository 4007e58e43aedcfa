"""How each operator passes the names of channels on."""

from slimkit.channels.operators.dispatch import OPERATORS, apply
from slimkit.channels.operators.statistics import over_kept

__all__ = ["OPERATORS", "apply", "over_kept"]
