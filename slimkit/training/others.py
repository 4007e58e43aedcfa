"""What a network returns beside its main output, which a teacher alone can tell: values, features, other classes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slimkit.example import comparable, tensors
from slimkit.tasks import Task

Pair = tuple[Tensor, Tensor]  # of one shape: what the teacher returns, what the student does


def others(task: Task, wanted: Any, returned: Any, labelled: bool) -> list[Pair]:
    """Return what two networks return at the same place, and their task does not treat itself.

    It treats the main output and, by labels, those of auxiliary heads; where it makes these of several things that a
    network returns, it treats all. Left out is what is not `comparable`, what only one of the networks returns, as
    auxiliary heads in training mode, and single numbers.

    Args:
        task: reads outputs.
        wanted: what the teacher returns.
        returned: what the student returns.
        labelled: there are targets.
    """
    outputs = task.outputs(returned)
    treated = {id(tensor) for tensor in tensors(outputs if labelled else outputs[:1])}
    if not treated <= {id(tensor) for tensor in tensors(returned)}:
        return []
    theirs, ours = _entries(wanted), _entries(returned)
    if isinstance(returned, (tuple, list)) and len(theirs) != len(ours):
        return []
    return [
        pair
        for place in ours
        if place in theirs
        for a, b in zip(tensors(theirs[place]), tensors(ours[place]), strict=False)
        if id(b) not in treated and a.dim()
        for pair in comparable(a, b)
    ]


def _entries(returned: Any) -> dict[Any, Any]:
    """Return tensors and nests of them by name or place, but no objects, as a cache of keys and values is."""
    if isinstance(returned, (tuple, list)):
        found = dict(enumerate(returned))
    else:
        found = dict(returned) if isinstance(returned, Mapping) else dict(getattr(returned, "__dict__", {}))
    return {place: entry for place, entry in found.items() if isinstance(entry, (Tensor, tuple, list, Mapping))}


def imitated(wanted: Tensor, found: Tensor) -> Tensor:
    """Return the mean square of the error over the variance of its channel, where that is above 1, float32 [].

    Of what varies less, it is the mean square alone: a step of SGD in the layer that gives an output grows with the
    reciprocal, and ruined networks whose values are small (from 84 to 10 % of classes right, at a deviation of 0.03).
    """
    error, variance = of_channels(wanted, found)
    return (error / variance.clamp_min(1)).mean()


def of_channels(wanted: Tensor, found: Tensor) -> Pair:
    """Return the mean square of the error and the variance of what is wanted, float32 [C] each.

    What is not finite in `wanted` counts nothing.

    Args:
        wanted: [B], of one channel, or [B, C, ...].
        found: of the same shape.
    """
    known = wanted.isfinite()
    wanted = torch.where(known, wanted.detach(), 0).float()
    error = torch.where(known, found.float() - wanted, 0).square()
    each, errors = (one.reshape(len(one), 1 if one.dim() == 1 else one.shape[1], -1) for one in (wanted, error))
    return errors.mean((0, 2)), each.var((0, 2), correction=0)
