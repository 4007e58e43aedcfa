"""Normalisation as part of a network: it then takes pixels of 0 to 255 as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import provenance
from slimkit.errors import EngineError
from slimkit.example import Example
from slimkit.modules import private
from slimkit.quantity import number_of

MeanAndStd = Mapping[str, Sequence[float]]
_WHITE = 255.0


def normalisation_of(model: nn.Module, example_input: Example) -> MeanAndStd:
    """Return `mean` and `std` of the images that a network takes, of images in [0, 1].

    Raises:
        EngineError: they are not known, or the network takes no images of as many channels.
    """
    known = provenance.of(model).normalisation
    if known is None:
        raise EngineError(
            "embed_normalisation is True: which mean and std the network was trained with is not known.\n"
            "  Run `slimkit compress` on pictures, whose file says them, or leave out `embed_normalisation`"
        )
    channels = len(known["mean"])
    if not isinstance(example_input, Tensor) or example_input.dim() < 3 or example_input.shape[1] != channels:
        raise EngineError(
            f"embed_normalisation is True: mean and std are of {number_of(channels, 'channel')}, and the network takes "
            "something else than one tensor of images of as many.\n  Leave out `embed_normalisation`"
        )
    return known


def as_pixels(images: Tensor, normalisation: MeanAndStd) -> Tensor:
    """Return normalised images [N, C, ...] as the pixels that they were, 0 to 255."""
    mean, std = _columns(normalisation, images)
    return images * std + mean


def normalising(model: nn.Module, normalisation: MeanAndStd) -> nn.Module:
    """Return a copy of a network that takes pixels [N, C, ...] of 0 to 255; its layers keep their names.

    Args:
        model: takes normalised images; untouched.
        normalisation: `mean` and `std` of images in [0, 1], C each.
    """
    twin = private(model)
    forward = twin.forward

    def from_pixels(images: Tensor) -> Any:
        mean, std = _columns(normalisation, images)
        return forward((images - mean) / std)

    twin.forward = from_pixels
    return twin


def _columns(normalisation: MeanAndStd, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and std of pixels, each [C, 1, ...] as images [N, C, ...] need it."""
    rest = [1] * (images.dim() - 2)
    mean, std = (torch.tensor(normalisation[name], dtype=images.dtype) * _WHITE for name in ("mean", "std"))
    return mean.reshape(-1, *rest), std.reshape(-1, *rest)
