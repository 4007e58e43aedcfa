"""How far the predictions of two networks are apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimkit import provenance
from slimkit.example import (
    Example,
    are_labels,
    are_mostly_no,
    are_values,
    batch_size,
    call,
    comparable,
    first,
    log_probabilities,
    tensors,
)  # fmt: skip
from slimkit.modules import evaluating
from slimkit.recovery.calibration import Chunk
from slimkit.tasks import CLASSIFICATION, DETECTION, SEGMENTATION, heads

Spreads = Mapping[int, Tensor]  # by the place of a tensor among those that are comparable: variances, to lie along it
_LOOKS = 8  # chunks by which it is told what outputs are
_KEPT = 2**24  # numbers of outputs that are kept for a second use
_ROWS = 16384  # positions of the maps of a chunk
_ROUNDING = 1e-5  # of the largest number: what a constant varies by, in float32 with room to spare
_OF_CLASSES = (CLASSIFICATION.name, SEGMENTATION.name)


def spreads(outputs: Iterable[Any], task: str | None = None, inputs: Sequence[Example] = ()) -> Spreads:
    """Return of which tensors among a network's outputs the numbers are values, and the variances of each quantity.

    Quantities are told apart along dimension 1, [N, C, ...]; of [N, T, C] along the last one, where that is where they
    differ. All other tensors are scores of classes, [N, C] and maps of them, see `example.are_values`, `are_labels`,
    `are_mostly_no`.

    Of an output of the shape of an input, or of one brought to its size, the variance is what a multiple of that input
    leaves over: what a denoiser takes away, not the picture that it passes on.

    Args:
        outputs: of several inputs, of the network that is imitated.
        task: what the main output is for, where that is known.
        inputs: those; none: outputs are not held against them.
    """
    seen: dict[int, list[Tensor]] = {}
    main = None
    beside: dict[int, list[list[Tensor | None]]] = {}
    for output, example in zip(outputs, inputs or repeat(()), strict=False):
        head = first(heads(output)[0])
        for place, (tensor, _) in enumerate(comparable(output, output)):
            main = place if tensor is head else main
            seen.setdefault(place, []).append(_some(tensor))
            beside.setdefault(place, []).append([_brought(one, tensor.shape) for one in tensors(example)])
    found = {}
    for place, parts in seen.items():
        if task in _OF_CLASSES and place == main and may_be_scores(parts[0]):
            continue
        if task == DETECTION.name or not _are_of_classes(parts):
            found[place] = _left_over(parts, beside[place], _variances(parts))
    return found


def may_be_scores(tensor: Tensor) -> bool:
    """Tell whether a tensor has the shape of scores of classes, [N, C], or of maps of them, [N, C, H, W]."""
    return tensor.dim() in (2, 4, 5) and tensor.shape[1] > 1


@torch.no_grad()
def returns_values(network: nn.Module, inputs: Iterable[Example]) -> bool:
    """Tell whether the main output of a network, on these inputs, is numbers for each of them, but no class scores."""
    parts: list[Tensor] = []
    with evaluating(network):
        for one in inputs:
            main = first(heads(call(network, one))[0])
            if main is None or main.is_nested or not main.is_floating_point():
                return False
            if not main.dim() or len(main) != batch_size(one):
                return False
            parts.append(_some(main))
    return not _are_of_classes(parts)


def _some(tensor: Tensor) -> Tensor:
    """Return some positions of maps [N, C, ...], in the shape of these; others as they are. In double precision."""
    if tensor.dim() > 3:
        flat = tensor.flatten(2)
        most = max(1, _ROWS // len(flat))
        if flat.shape[2] > most:
            places = torch.randperm(flat.shape[2], generator=torch.Generator().manual_seed(0))[:most]
            flat = flat[:, :, places.to(flat.device)]
        tensor = flat.reshape(*flat.shape, *[1] * (tensor.dim() - 3))
    return tensor.double()


def _are_of_classes(parts: Sequence[Tensor]) -> bool:
    if not all(may_be_scores(part) and part.shape[1] == parts[0].shape[1] for part in parts):
        return False
    rows = torch.cat([part.movedim(1, -1).flatten(0, -2) for part in parts])
    return not (are_values(rows) or are_labels(rows) or are_mostly_no(rows))


def _variances(parts: Sequence[Tensor]) -> Tensor:
    """Return the variance of each quantity, to lie along the dimension that has them; of a constant its square."""
    dims = [1, 2] if parts[0].dim() == 3 else [1] if parts[0].dim() > 1 else []
    found = [_along(parts, dim) for dim in dims if len({part.shape[dim] for part in parts}) == 1]
    if not found:
        return _spread(torch.cat([part.flatten() for part in parts])[None])[0]
    return min(found, key=lambda variances: float(variances.log().mean()))  # told apart, quantities vary least


def _left_over(parts: Sequence[Tensor], beside: Sequence[Sequence[Tensor | None]], variances: Tensor) -> Tensor:
    """Return of the variances of outputs what no multiple of an input of their shape explains.

    Args:
        beside: for each of the parts, inputs that were brought to its shape.
    """
    dim = max(range(variances.dim()), key=lambda d: variances.shape[d], default=0)

    def rows(tensors: Iterable[Tensor]) -> Tensor:
        told_apart = variances.numel() > 1
        found = torch.cat([t.movedim(dim, 0).flatten(1) if told_apart else t.flatten()[None] for t in tensors], 1)
        return found - found.mean(1, keepdim=True)

    least = variances
    for given in zip(*beside, strict=False):
        brought = [one for one in given if one is not None]
        if len(brought) < len(parts):
            continue
        x, y = rows(brought), rows(parts)
        explained = (x * y).sum(1).square() / (x.square().sum(1) * y.square().sum(1)).clamp(min=1e-300)
        left = (1 - explained).reshape(variances.shape)
        least = torch.minimum(least, torch.where(left > _ROUNDING, variances * left, variances))
    return least


def _brought(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """Return some positions of a tensor that was brought to a shape; None where only other channels would do."""
    if tensor.shape == shape:
        return _some(tensor)
    if tensor.dim() != 4 or len(shape) != 4 or tensor.shape[:2] != shape[:2] or not tensor.is_floating_point():
        return None
    return _some(F.interpolate(tensor, size=shape[2:], mode="bilinear"))


def _along(parts: Sequence[Tensor], dim: int) -> Tensor:
    variances = _spread(torch.cat([part.movedim(dim, 0).flatten(1) for part in parts], 1))
    return variances.reshape([-1 if d == dim else 1 for d in range(parts[0].dim())])


def _spread(rows: Tensor) -> Tensor:
    """Return the variances of rows, [R]: above 0, so that errors can be told by them."""
    largest = rows.abs().amax(1)
    size = torch.where(largest > 0, largest, 1.0).square()
    variances = rows.var(1, correction=0)
    return torch.where(variances > _ROUNDING**2 * size, variances, size)


@torch.no_grad()
def spreads_of(dense: nn.Module, chunks: Sequence[Chunk]) -> Spreads:
    """Return the `spreads` of what a network makes of some chunks of inputs."""
    with evaluating(dense):
        return _spreads_of(dense, (call(dense, chunk.example) for chunk in chunks[:_LOOKS]), chunks)


def _spreads_of(dense: nn.Module, outputs: Iterable[Any], chunks: Sequence[Chunk]) -> Spreads:
    return spreads(outputs, provenance.of(dense).use.task, [chunk.example for chunk in chunks[:_LOOKS]])


def divergence(wanted: Any, found: Any, values: Spreads | None = None) -> float:
    """Return how far outputs are from those wanted, a mean over images; 0: they are the same.

    Scores are compared as predictions, by the Kullback-Leibler divergence in nats, of maps a mean over positions: an
    error among scores near zero costs nothing. Other tensors are compared by half the mean square of the error over the
    variance of the quantity, which is the divergence of normal distributions so wide. What is not `comparable` counts
    nothing.

    Args:
        values: the `spreads` of many outputs; None: of those wanted.
    """
    total = 0.0
    values = spreads([wanted]) if values is None else values
    for place, (a, b) in enumerate(comparable(wanted, found)):
        if (spread := spread_of(a, values.get(place))) is not None:
            total += float(((a.double() - b.double()).square() / (2 * spread)).mean())
        else:
            total += _of_scores(a.double(), b.double())
    return total


def spread_of(tensor: Tensor, variances: Tensor | None) -> Tensor | None:
    """Return the variances that errors of a tensor are told by; None: it is scores. Without any, those of its own."""
    if variances is not None or may_be_scores(tensor):
        return variances
    return _variances([_some(tensor.detach())])


def _of_scores(a: Tensor, b: Tensor) -> float:
    wanted, found = log_probabilities(a), log_probabilities(b)
    return float((wanted.exp() * (wanted - found)).sum(1).mean())


@torch.no_grad()
def gaps(dense: nn.Module, networks: Sequence[nn.Module], chunks: Sequence[Chunk]) -> list[float]:
    """Return the mean divergence of the predictions of each of some networks from the dense one's, over all images."""
    kept: dict[int, Any] = {}  # outputs of the chunks looked at, where there is room

    def looked() -> Iterable[Any]:
        room = _KEPT
        for number, chunk in enumerate(chunks[:_LOOKS]):
            output = call(dense, chunk.example)
            room -= sum(tensor.numel() for tensor in tensors(output))
            if room >= 0:
                kept[number] = output
            yield output

    totals, images = [0.0] * len(networks), 0
    with ExitStack() as modes:
        for network in (dense, *networks):
            modes.enter_context(evaluating(network))
        values = _spreads_of(dense, looked(), chunks)
        for number, chunk in enumerate(chunks):
            count = batch_size(chunk.example)
            wanted = kept.pop(number) if number in kept else call(dense, chunk.example)
            for place, network in enumerate(networks):
                totals[place] += count * divergence(wanted, call(network, chunk.example), values)
            images += count
    return [total / images if images else 0.0 for total in totals]


@torch.no_grad()
def off(dense: nn.Module, slim: nn.Module, chunks: Sequence[Chunk]) -> float | None:
    """Return by how much the values that a slim network returns are off: root mean square, over their `spreads`.

    None where not all that it returns is values, or finite.
    """
    values = spreads_of(dense, chunks)
    with evaluating(dense):
        output = call(dense, chunks[0].example)
    places = len(comparable(output, output))
    if not 0 < places == len(values):
        return None
    [gap] = gaps(dense, [slim], chunks)
    found = math.sqrt(2 * gap / places)
    return found if math.isfinite(found) else None
