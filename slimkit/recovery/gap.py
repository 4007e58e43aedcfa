"""How far the predictions of two networks are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.example import batch_size, call, tensors
from slimkit.modules import evaluating
from slimkit.recovery.calibration import Chunk


def comparable(wanted: Any, found: Any) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of the tensors of two outputs by which it can be told how far apart they are.

    Classes, masks and tensors of a size that depends on the data are left out; a complex number is two real ones.
    """
    pairs = zip(tensors(wanted), tensors(found), strict=False)
    same = [(a, b) for a, b in pairs if a.shape == b.shape and a.numel()]
    same = [(torch.view_as_real(a), torch.view_as_real(b)) if a.is_complex() else (a, b) for a, b in same]
    return [(a, b) for a, b in same if a.is_floating_point()]


def divergence(wanted: Any, found: Any) -> float:
    """Return how far outputs are from those wanted, a mean over images; 0: they are the same.

    Scores [N, C] are compared as predictions, by the Kullback-Leibler divergence in nats: an error among scores near
    zero costs nothing. Tensors of other shapes are compared by half the mean square of the error over their variance,
    which is the divergence of normal distributions so wide. What is not `comparable` counts nothing.
    """
    total = 0.0
    for a, b in comparable(wanted, found):
        total += _of_scores(a, b) if a.dim() == 2 and a.shape[1] > 1 else _of_values(a.double(), b.double())
    return total


def _of_scores(a: Tensor, b: Tensor) -> float:
    wanted, found = a.double().log_softmax(1), b.double().log_softmax(1)
    return float((wanted.exp() * (wanted - found)).sum(1).mean())


def _of_values(a: Tensor, b: Tensor) -> float:
    spread = float(a.var(correction=0))
    error = float((a - b).square().mean())
    return error / (2 * spread) if spread > 0 else error


@torch.no_grad()
def between(dense: nn.Module, slim: nn.Module, chunks: Sequence[Chunk]) -> float:
    """Return the mean divergence of a slim network's predictions from the dense one's, over all images of chunks."""
    total = images = 0.0
    with evaluating(dense), evaluating(slim):
        for chunk in chunks:
            count = batch_size(chunk.example)
            total += count * divergence(call(dense, chunk.example), call(slim, chunk.example))
            images += count
    return total / images if images else 0.0
