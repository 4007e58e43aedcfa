"""How far the outputs of two networks are apart, each output channel against its own spread."""

from typing import Any

import torch
from torch import Tensor

from slimkit.example import tensors

_SAMPLES = 3  # values of a channel from which it has a spread of its own
# Rounding is a share of a number's size, not of its spread: below this share of its size a spread says nothing.
_FLOOR = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float32: 2e-2, torch.complex64: 2e-2}
_ROUNDING = 1e-6  # share of its size by which a number that never changes may be off
_NEVER = float("inf")


def relative_error(expected: Any, found: Any) -> float:
    """Return the largest difference over the tensors of two outputs, as a share of the spread of the expected ones.

    Taken per tensor, max|a - b| / std(a), and per channel and column (dimension 1 and the last) with their own
    deviation. It is inf where the two differ in form, in a whole number, or hold what is not finite.
    """
    a, b = tensors(expected), tensors(found)
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return _NEVER
    return max((_error(x, y) for x, y in zip(a, b, strict=True)), default=_NEVER)


def _error(x: Tensor, y: Tensor) -> float:
    if x.numel() == 0:
        return 0.0
    if not (x.is_floating_point() or x.is_complex()):
        return 0.0 if torch.equal(x, y) else _NEVER  # counts and indices are right or wrong
    floor = _FLOOR.get(x.dtype, 1.0)
    wide = torch.complex128 if x.is_complex() else torch.float64
    x, y = x.detach().to(wide), y.detach().to(wide)
    gaps = (x - y).abs()
    gap = float(gaps.max())
    if gap == 0 or not gap < _NEVER:
        return 0.0 if gap == 0 else _NEVER
    size = float(x.abs().max())
    spread = float(x.std()) if x.numel() > 1 else size
    if spread == 0:
        return gap / size if gap <= _ROUNDING * size else _NEVER
    worst = gap / spread
    for dim in {1, x.dim() - 1} if x.dim() > 1 else ():
        if x.numel() >= _SAMPLES * x.shape[dim]:
            others = [d for d in range(x.dim()) if d != dim]
            sizes = x.abs().amax(others)
            scale = torch.maximum(x.std(others), floor * torch.where(sizes > 0, sizes, spread))
            worst = max(worst, float((gaps.amax(others) / scale).max()))
    return worst


def without_gaps(expected: Any, found: Any) -> tuple[list[Tensor], list[Tensor], int]:
    """Return the tensors of two outputs with 0 where both are the same infinity or no number, and how many are."""
    a, b = tensors(expected), tensors(found)
    cleaned: tuple[list[Tensor], list[Tensor]] = ([], [])
    count = 0
    for number, x in enumerate(a):
        y = b[number] if number < len(b) else x.new_zeros(0)
        if x.is_floating_point() and x.shape == y.shape and not bool(x.isfinite().all()):
            same = (x.isnan() & y.isnan()) | (x.isinf() & (x == y))
            count += int((~x.isfinite()).sum())
            x, y = x.masked_fill(same, 0), y.masked_fill(same, 0)
        cleaned[0].append(x)
        cleaned[1].append(y)
    return cleaned[0], cleaned[1] + b[len(a) :], count


def varies(tensor: Tensor) -> bool:
    """Tell whether a tensor holds more than one value, so that being equal to it means something."""
    if tensor.numel() < 2:
        return tensor.numel() == 1 and bool(tensor.abs().max() > 0)
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return bool(tensor.max() != tensor.min())
