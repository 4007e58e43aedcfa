"""What gives accuracy back after a cut."""

from slimkit.recovery.retrain import recipe
from slimkit.recovery.statistics import reestimate

__all__ = ["recipe", "reestimate"]
