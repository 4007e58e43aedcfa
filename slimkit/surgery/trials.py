"""Inputs of several kinds, on which two networks are held against each other.

One kind is not enough: a branch may be alive only for pixels in 0..255, a score saturated on all but small numbers, a
size written into the code seen only at another size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimkit.dtypes import cast
from slimkit.example import Example, larger, mapped, of_batch, own_batch, tensors
from slimkit.hardware import device_of
from slimkit.surgery.whole_numbers import is_whole, of_length, redrawn

_BATCH = 3
# Images of a wide range: as many as these numbers hold, of small ones more, since each position of a large one is a
# chance to wake a channel too. Two of a few pixels missed 2 of 631 faults planted in nearly dead networks, 32 one of
# 9,172.
_NUMBERS = 2**17
_FEWEST, _MOST = 2, 128


@dataclass(frozen=True)
class Trial:
    """One input, and what kind it is of."""

    kind: str
    example: Example


def trials(example: Example, tables: Sequence[int | None] = ()) -> tuple[Trial, ...]:
    """Return inputs like an example, of several kinds; single numbers, as a scale, stay as they are.

    Whole numbers stay beside pixels of several kinds; then there are others, of other lengths too.

    Args:
        example: the first of them.
        tables: how many rows there are for the numbers of each tensor, see `whole_numbers.rows`.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor) if _varied(tensor) else tensor

    def pixels(tensor: Tensor) -> Tensor:
        return 255 * torch.rand(tensor.shape, generator=generator).to(tensor) if _varied(tensor) else tensor

    def times(factor: float, tensor: Tensor) -> Tensor:
        return factor * tensor if _varied(tensor) else tensor

    one, images = of_batch(example, 1), own_batch(example, _BATCH)
    batch = of_batch(example, images)
    count = min(max(_NUMBERS // max(1, sum(t.numel() for t in tensors(one))), _FEWEST), _MOST)
    several = of_batch(example, own_batch(example, count))
    found = [Trial("as given", example)]
    if any(map(_varied, tensors(example))):
        found += [
            Trial(f"normal, batch of {images}", mapped(batch, normal)),
            Trial("uniform 0..255", mapped(several, pixels)),
            Trial("normal x10", mapped(mapped(several, normal), lambda t: times(10, t))),
            Trial("zeros", mapped(one, lambda t: times(0, t))),
        ]
        if any(tensor.dim() > 2 for tensor in tensors(example)):
            found.append(Trial("another size", mapped(larger(one), normal)))
    if any(map(is_whole, tensors(example))):
        found += [
            Trial(kind, mapped(redrawn(given, of, generator), normal))
            for kind, given, of in (
                ("other numbers", batch, tables),
                ("more numbers", several, tables),
                ("longer", of_length(batch, 1.5), ()),  # where others are refused, these may still be proven
                ("shorter", of_length(batch, 0.5), ()),
            )
            if given is not None
        ]
    return tuple(found)


def wilder(example: Example, seed: int) -> Trial:
    """Return an input that wakes what slept so far: four images of random scale, 0.1 to 100, and offset a channel."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** float(3 * torch.rand(1, generator=generator) - 1)

    def drawn(tensor: Tensor) -> Tensor:
        if not _varied(tensor):
            return tensor
        offsets = torch.randn(*tensor.shape[:2], *[1] * (tensor.dim() - 2), generator=generator)
        return (scale * (offsets + torch.randn(tensor.shape, generator=generator))).to(tensor)

    return Trial("scaled and shifted", mapped(of_batch(example, own_batch(example, 4)), drawn))


def _varied(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 0


def placed(example: Example, model: nn.Module, dtype: torch.dtype | None = None) -> Example:
    """Return an example on the device of a network, its floating-point numbers of a type."""
    device = device_of(model)

    def move(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device)
        return tensor if dtype is None else cast(tensor, dtype)

    return mapped(example, move)
