"""What gives accuracy back after a cut."""

from slimkit.recovery.retrain import recover
from slimkit.recovery.statistics import reestimate

__all__ = ["recover", "reestimate"]
