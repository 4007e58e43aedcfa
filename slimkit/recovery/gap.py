"""How far the predictions of two networks are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.example import are_values, batch_size, call, comparable
from slimkit.modules import evaluating
from slimkit.recovery.calibration import Chunk

Spreads = Mapping[int, Tensor]  # by the place of a tensor among those that are comparable: variances [C]
_LOOKS = 8  # chunks by which it is told what outputs are
_SCORES: Spreads = MappingProxyType({})


def spreads(outputs: Sequence[Any]) -> Spreads:
    """Return of which tensors [N, C] among a network's outputs the numbers are values, and the variance of each column.

    All others are scores of classes, see `example.are_values`.

    Args:
        outputs: of several inputs, of the network that is imitated.
    """
    columns: dict[int, list[Tensor]] = {}
    for output in outputs:
        for place, (tensor, _) in enumerate(comparable(output, output)):
            if tensor.dim() == 2 and tensor.shape[1] > 1:
                columns.setdefault(place, []).append(tensor.double())
    found = {}
    for place, parts in columns.items():
        if len({part.shape[1] for part in parts}) == 1 and are_values(rows := torch.cat(parts)):
            found[place] = rows.var(0, correction=0)
    return found


@torch.no_grad()
def spreads_of(dense: nn.Module, chunks: Sequence[Chunk]) -> Spreads:
    """Return the `spreads` of what a network makes of some chunks of inputs."""
    with evaluating(dense):
        return spreads([call(dense, chunk.example) for chunk in chunks[:_LOOKS]])


def divergence(wanted: Any, found: Any, values: Spreads = _SCORES) -> float:
    """Return how far outputs are from those wanted, a mean over images; 0: they are the same.

    Scores [N, C] are compared as predictions, by the Kullback-Leibler divergence in nats: an error among scores near
    zero costs nothing. Other tensors are compared by half the mean square of the error over their variance, values
    [N, C] by that of their column, which is the divergence of normal distributions so wide. What is not `comparable`
    counts nothing.
    """
    total = 0.0
    for place, (a, b) in enumerate(comparable(wanted, found)):
        if (spread := values.get(place)) is not None:
            total += _of_columns(a.double(), b.double(), spread)
        else:
            total += _of_scores(a, b) if a.dim() == 2 and a.shape[1] > 1 else _of_values(a.double(), b.double())
    return total


def _of_scores(a: Tensor, b: Tensor) -> float:
    wanted, found = a.double().log_softmax(1), b.double().log_softmax(1)
    return float((wanted.exp() * (wanted - found)).sum(1).mean())


def _of_values(a: Tensor, b: Tensor) -> float:
    spread = float(a.var(correction=0))
    error = float((a - b).square().mean())
    return error / (2 * spread) if spread > 0 else error


def _of_columns(a: Tensor, b: Tensor, spread: Tensor) -> float:
    error = (a - b).square().mean(0)
    return float(torch.where(spread > 0, error / (2 * spread), error).mean())


@torch.no_grad()
def between(dense: nn.Module, slim: nn.Module, chunks: Sequence[Chunk]) -> float:
    """Return the mean divergence of a slim network's predictions from the dense one's, over all images of chunks."""
    total = images = 0.0
    values = spreads_of(dense, chunks)
    with evaluating(dense), evaluating(slim):
        for chunk in chunks:
            count = batch_size(chunk.example)
            total += count * divergence(call(dense, chunk.example), call(slim, chunk.example), values)
            images += count
    return total / images if images else 0.0
