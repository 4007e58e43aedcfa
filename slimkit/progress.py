"""How long work tells what it is doing."""

from collections.abc import Callable

Progress = Callable[[str, float | None], None]  # what is being done, and the share of it that is, where that is known


def quiet(message: str, share: float | None) -> None:
    """Show no progress."""
