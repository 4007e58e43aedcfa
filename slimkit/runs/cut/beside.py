"""What became of outputs beside the main one in retraining: no metric tells."""

from collections.abc import Sequence

import torch
from torch import nn

from slimkit.example import Example, call
from slimkit.hardware import on_device
from slimkit.modules import evaluating
from slimkit.runs.cut import retraining
from slimkit.runs.given import Given
from slimkit.training.others import of_channels, others

_STILL = 1e-10  # of the largest variance of an output's channels: what varies less is the same for all inputs


def note(given: Given, before: nn.Module, after: nn.Module, inputs: Sequence[Example]) -> tuple[str, ...]:
    """Say how far such outputs are from the original's, and where there was no teacher, that they were not trained.

    Args:
        given: what the run starts from.
        before: the slim network as it was cut and fitted.
        after: the same, retrained.
        inputs: batches that nothing was trained on.
    """
    began, ended = (_off(given, model, inputs) for model in (before, after))
    if began is None or ended is None:
        return ()
    taught = retraining.taught(given)
    what = "was retrained to be the original's" if taught else "was not retrained, for want of a teacher"
    return (
        f"What the network returns beside its main output {what}: it is off by {ended:.1%} of its variance, "
        f"{began:.1%} before retraining.",
    )


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
