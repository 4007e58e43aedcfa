"""Network and mask to a smaller network, and the proof that the two compute the same."""

from slimkit.surgery.remove import kept_indices, remove

__all__ = ["kept_indices", "remove"]
