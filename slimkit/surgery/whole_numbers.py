"""Inputs of whole numbers, as token indices are: which others a network takes in their place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit.example import Example, call, mapped, on, tensors
from slimkit.hardware import device_of, seeded
from slimkit.modules import private, unwrapped

aten = torch.ops.aten
# Operators that look rows up: the places of table and indices among their arguments.
_LOOKS_UP = {aten.embedding: (0, 1), aten._embedding_bag: (0, 1), aten.index_select: (0, 2), aten.index: (0, 1)}


def is_whole(tensor: Tensor) -> bool:
    """Tell whether a tensor holds several whole numbers, as indices do; single ones, as a step, are none."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool) and tensor.dim() > 0


@torch.no_grad()
def rows(model: nn.Module, example: Example) -> list[int | None]:
    """Return for each tensor of an example how many rows the tables have in which its numbers are looked up.

    None where they are looked up in none, as those of a mask, or the network does not run on the example.
    """
    example = on(device_of(model), example)
    given = tensors(example)
    if not any(map(is_whole, given)):
        return [None] * len(given)
    with seeded(0), _LooksUp() as seen:
        try:
            call(unwrapped(private(model)), example)
        except Exception:  # whatever it raises: the proof says so of the same example
            return [None] * len(given)
    return [min((count for index, count in seen.found if _same(index, tensor)), default=None) for tensor in given]


def redrawn(example: Example, tables: Sequence[int | None], generator: torch.Generator) -> Example:
    """Return an example with other whole numbers: of the table that they are looked up in, else some of its own."""
    known = dict(zip(map(id, tensors(example)), tables, strict=False))

    def drawn(tensor: Tensor) -> Tensor:
        if not is_whole(tensor) or not tensor.numel():
            return tensor
        count = known.get(id(tensor))
        if count is not None:
            return torch.randint(count, tensor.shape, generator=generator).to(tensor)
        return tensor.flatten()[torch.randint(tensor.numel(), tensor.shape, generator=generator)]

    return mapped(example, drawn)


def of_length(example: Example, longer: float) -> Example | None:
    """Return an example whose sequences [N, L, ...] are so many times as long, repeated; None where it has none."""
    length = next((tensor.shape[1] for tensor in tensors(example) if is_whole(tensor) and tensor.dim() > 1), 0)
    wanted = round(longer * length)
    if wanted in (0, length):
        return None
    places = torch.arange(wanted) % length
    return mapped(example, lambda t: t[:, places] if t.dim() > 1 and t.shape[1] == length else t)


def _same(index: Tensor, tensor: Tensor) -> bool:
    return index.numel() == tensor.numel() and torch.equal(index.flatten().long(), tensor.flatten().long())


class _LooksUp(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes indices, and how many rows there are that they are looked up in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[Tensor, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        places = _LOOKS_UP.get(func.overloadpacket)
        if places is not None:
            table, index = (args[place] for place in places)
            dim = args[1] if func.overloadpacket is aten.index_select else 0
            dims = enumerate(index) if isinstance(index, (list, tuple)) else [(dim, index)]
            self.found += [(one, table.shape[dim]) for dim, one in dims if one is not None and is_whole(one)]
        return func(*args, **(kwargs or {}))
