"""slimkit: make convolutional networks narrower for real, with proof and measurements.

Names are imported when they are first used, so that `import slimkit` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from slimkit._version import __version__ as __version__

if TYPE_CHECKING:
    from slimkit.channels import Graph, trace
    from slimkit.export import export_onnx
    from slimkit.methods import EarlyBird
    from slimkit.models import load_slim as load
    from slimkit.models import save
    from slimkit.runs.compress import compress
    from slimkit.runs.train import train
    from slimkit.selection.mask import Mask
    from slimkit.surgery.remove import remove
    from slimkit.training import penalise_gamma_, penalise_groups_

_HOME = {
    "EarlyBird": "slimkit.methods",
    "Graph": "slimkit.channels",
    "Mask": "slimkit.selection.mask",
    "compress": "slimkit.runs.compress",
    "export_onnx": "slimkit.export",
    "load": "slimkit.models",
    "penalise_gamma_": "slimkit.training",
    "penalise_groups_": "slimkit.training",
    "remove": "slimkit.surgery.remove",
    "save": "slimkit.models",
    "trace": "slimkit.channels",
    "train": "slimkit.runs.train",
}

_RENAMED = {"load": "load_slim"}  # `slimkit.models.load` reads every kind of checkpoint

__all__ = [
    "EarlyBird",
    "Graph",
    "Mask",
    "compress",
    "export_onnx",
    "load",
    "penalise_gamma_",
    "penalise_groups_",
    "remove",
    "save",
    "trace",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), _RENAMED.get(name, name))
    raise AttributeError(f"module 'slimkit' has no attribute {name!r}")
