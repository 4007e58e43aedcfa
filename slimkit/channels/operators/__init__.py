"""How each operator passes the names of channels on."""

from slimkit.channels.operators.attention import Scaled
from slimkit.channels.operators.dispatch import OPERATORS, apply
from slimkit.channels.operators.statistics import over_kept, width_of_kept

__all__ = ["OPERATORS", "Scaled", "apply", "over_kept", "width_of_kept"]
