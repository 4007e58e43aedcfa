"""Which channels of a network live and die together."""

from slimkit.channels.graph import Axis, Graph, Group, Kept, Width, Work
from slimkit.channels.trace import trace

__all__ = ["Axis", "Graph", "Group", "Kept", "Width", "Work", "trace"]
