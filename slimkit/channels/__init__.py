"""Which channels of a network live and die together."""

from slimkit.channels.counts import stays
from slimkit.channels.graph import Axis, Graph, Group, Kept, Width, Work
from slimkit.channels.trace import trace
from slimkit.example import Example

__all__ = ["Axis", "Example", "Graph", "Group", "Kept", "Width", "Work", "stays", "trace"]
