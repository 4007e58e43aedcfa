"""Which channels go: scores, widths and a budget to a mask."""

from slimkit.selection.mask import Mask

__all__ = ["Mask"]
