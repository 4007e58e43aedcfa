"""Checkpoints -> networks, fresh networks by name, and the slim file."""

from slimkit.models.loading import as_network, build, load
from slimkit.models.network import Network
from slimkit.models.recognition import recognise
from slimkit.models.slim_file import load as load_slim
from slimkit.models.slim_file import save

__all__ = ["Network", "as_network", "build", "load", "load_slim", "recognise", "save"]
