"""slimkit: make convolutional networks narrower for real, with proof and measurements.

Names are imported when they are first used, so that `import slimkit` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from slimkit.channels import Graph, trace
    from slimkit.export import export_onnx
    from slimkit.mask import Mask
    from slimkit.models import load_slim as load
    from slimkit.models import save
    from slimkit.pipeline import compress, train
    from slimkit.surgery import remove
    from slimkit.tickets import EarlyBird
    from slimkit.training import penalise_gamma_, penalise_groups_

_HOME = {
    "EarlyBird": "slimkit.tickets",
    "Graph": "slimkit.channels",
    "Mask": "slimkit.mask",
    "compress": "slimkit.pipeline",
    "export_onnx": "slimkit.export",
    "load": "slimkit.models",
    "penalise_gamma_": "slimkit.training",
    "penalise_groups_": "slimkit.training",
    "remove": "slimkit.surgery",
    "save": "slimkit.models",
    "trace": "slimkit.channels",
    "train": "slimkit.pipeline",
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
