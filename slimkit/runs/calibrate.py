"""The unlabelled inputs of a run: what is left of a network is fitted to what the original computes on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimkit import data
from slimkit.example import Example, batch_size, tensors
from slimkit.progress import Progress
from slimkit.recovery.made_images import made_images
from slimkit.settings import CompressSpec

_BATCH = 128  # inputs at a time
_FEWEST, _MOST = 256, 2048  # inputs
_NUMBERS = 256 * 3 * 224 * 224  # held in memory at once: 154 MB; more inputs where they are small
_MADE, _MADE_SIDE = 256, 112  # images made from noise, and the largest side of one
_HELD = 64  # inputs that nothing is fitted to: agreement is counted on them


@dataclass(frozen=True)
class Calibration:
    """Unlabelled inputs.

    Attributes:
        name: what they are, for the report: `1,024 inputs of digits`.
        batches: what is fitted to.
        held: what is not: on them the small network is compared with the original.
        made: they were made from noise, with the statistics that BatchNorm keeps.
        source: what they came from, to train on; None where they were made.
    """

    name: str
    batches: Sequence[Example]
    held: Sequence[Example]
    made: bool = False
    source: data.Inputs | None = None


def calibrate(
    dense: nn.Module,
    example: Example,
    dataset: data.Dataset | None,
    given: data.Inputs | None,
    spec: CompressSpec,
    progress: Progress,
) -> Calibration | None:
    """Return inputs to recover on: those given, else the training inputs, else images made from noise.

    Between 256 and 2,048 of them, as memory allows. None where there is nothing to make images from: no BatchNorm with
    learned statistics, a network that takes no single tensor, or no wish to recover.
    """
    if (source := given or (data.as_inputs(dataset) if dataset else None)) is not None:
        each = sum(prod(tensor.shape[1:]) for tensor in tensors(next(iter(source.batches(1)))))
        count = min(_MOST, max(_FEWEST, _NUMBERS // max(1, each)))
        held_of = data.Inputs(dataset.validation) if dataset and given is None else source
        batches = list(source.batches(_BATCH, at_most=count))
        held = list(held_of.batches(_BATCH, at_most=4 * _BATCH, seed=spec.seed + 1))
        name = f"{sum(map(batch_size, batches)):,} inputs of {source.name}"
        return Calibration(name, batches, held, source=source)
    if not spec.fits or not isinstance(example, Tensor) or not any(map(_learned, dense.modules())):
        return None
    images = made_images(dense, _smaller(dense, example), _MADE + _HELD, seed=spec.seed, progress=progress)
    batches = [images[start : start + _BATCH] for start in range(0, _MADE, _BATCH)]
    return Calibration(f"{_MADE} images made from noise", batches, [images[_MADE:]], made=True)


def _learned(module: nn.Module) -> bool:
    if not isinstance(module, _BatchNorm) or module.running_mean is None:
        return False
    return bool(module.running_mean.any())


def _smaller(dense: nn.Module, example: Tensor) -> tuple[int, ...]:
    """Return the shape of one image, of half the side or less where it is large and the network takes it."""
    shape = tuple(example.shape[1:])
    if len(shape) != 3 or max(shape[1:]) <= _MADE_SIDE:
        return shape
    factor = _MADE_SIDE / max(shape[1:])
    small = (shape[0], *(max(32, round(side * factor / 32) * 32) for side in shape[1:]))
    try:
        with torch.no_grad():
            dense(torch.zeros(2, *small))
    except RuntimeError:  # a layer that wants the full size
        return shape
    return small
