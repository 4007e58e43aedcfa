"""Tickets: which small network to train, and when to know. One published method a file."""

from slimkit.tickets.early_bird import Draw, EarlyBird
from slimkit.tickets.rules import Rule

__all__ = ["Draw", "EarlyBird", "Rule"]
