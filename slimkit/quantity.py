"""Counts and shares in words."""


def number_of(count: float, what: str) -> str:
    """Return a count with its noun: 1 epoch, 0.25 epochs, 2 classes."""
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{count if isinstance(count, int) else f'{count:g}'} {what if count == 1 else plural}"


def share(value: float) -> str:
    """Return a share as a person writes it: 0.450, 0.00012."""
    return f"{value:.3f}" if value == 0 or value >= 0.001 else f"{value:.2g}"
