"""What `torch.distributed.run` says to the processes that it starts; no torch."""

import os


def _number(name: str) -> int:
    return int(os.environ.get(name) or 0)


def restarts() -> int:
    """Return how often the launcher has started the processes again after a failure."""
    return _number("TORCHELASTIC_RESTART_COUNT")


def advice() -> str:
    """Say how a run goes on of which a process has died, as a Python call does; without a full stop."""
    if restarts() < _number("TORCHELASTIC_MAX_RESTARTS"):
        return "The launcher starts all of them again"
    return "Start all of them again, with `resume=True`"


def why_terminated() -> str:
    """Return what the first of several processes adds when it is terminated; empty of others, and of one alone."""
    if _number("WORLD_SIZE") < 2 or _number("RANK"):
        return ""
    return f", as a launcher does where another process of the run has died.\n  {advice()}"
