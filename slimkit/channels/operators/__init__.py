"""How each operator passes the names of channels on."""

from slimkit.channels.operators.dispatch import OPERATORS, apply

__all__ = ["OPERATORS", "apply"]
