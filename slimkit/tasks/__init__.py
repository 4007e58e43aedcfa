"""What networks are for: a task gives the loss, the metrics, and how outputs are read."""

from slimkit.tasks.catalogue import fitting, open
from slimkit.tasks.classification import CLASSIFICATION
from slimkit.tasks.detection import DETECTION, detects
from slimkit.tasks.measurement import Measurement
from slimkit.tasks.metric import Metric, psnr
from slimkit.tasks.segmentation import SEGMENTATION
from slimkit.tasks.task import Task, heads

__all__ = [
    "CLASSIFICATION",
    "DETECTION",
    "SEGMENTATION",
    "Measurement",
    "Metric",
    "Task",
    "detects",
    "fitting",
    "heads",
    "open",
    "psnr",
]
