"""What became of outputs beside the main one: no metric tells."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from slimkit.example import Example, call
from slimkit.hardware import on_device
from slimkit.modules import evaluating
from slimkit.runs.cut import retraining
from slimkit.runs.given import Given
from slimkit.training.others import of_channels, others

_STILL = 1e-10  # of the largest variance of an output's channels: what varies less is the same for all inputs


def are_beside(given: Given, returned: Any) -> bool:
    """Tell of what the original returned whether there is something beside its main output."""
    return bool(others(retraining.judged_by(given), returned, returned, given.dataset is not None))


def note(given: Given, before: nn.Module, after: nn.Module, inputs: Sequence[Example]) -> tuple[str, ...]:
    """Say how far such outputs are from the original's, and where there was no teacher, that they were not trained.

    Args:
        given: what the run starts from.
        before: the slim network as it was cut and fitted.
        after: the one to deliver: retrained, or the same.
        inputs: batches that nothing was trained on.
    """
    ended = None if given.judge else _off(given, after, inputs)  # somebody's own judge may look at all of them
    if ended is None:
        return ()
    who, off = "What the network returns beside its main output", f"is off by {ended:.1%} of its variance"
    if after is before or given.retrain is not None:
        return (f"{who} {off}{'' if given.dataset is None else '; no metric looks at it'}.",)
    taught = retraining.taught(given)
    what = "was retrained to be the original's" if taught else "was not retrained, for want of a teacher"
    began = _off(given, before, inputs)
    return (f"{who} {what}: it {off}, {began or 0:.1%} before retraining.",)


@torch.no_grad()
def _off(given: Given, model: nn.Module, inputs: Sequence[Example]) -> float | None:
    """Return how far outputs beside the main one are from the original's, over their variance; None: there are none."""
    task, dense, model = retraining.judged_by(given), given.at_work, on_device(model, given.device)
    found = []
    with evaluating(dense), evaluating(model):
        for one in inputs:
            pairs = others(task, call(dense, one), call(model, one), given.dataset is not None)
            if not pairs:
                return None
            for error, variance in (of_channels(*pair) for pair in pairs):
                found.append((error / variance)[variance > _STILL * variance.max()])
    shares = torch.cat(found) if found else torch.empty(0)
    return float(shares.mean()) if len(shares) else None
