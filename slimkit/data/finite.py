"""Which input or target is not finite, where that ruins what is computed of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from slimkit.data.dataset import Split
from slimkit.data.inputs import Unlabelled
from slimkit.data.tensor_split import TensorSplit
from slimkit.errors import DataError
from slimkit.example import tensors

_AT_ONCE = 256  # inputs


def wrong_row(batch: Any) -> tuple[int, str] | None:
    """Return the first row of a batch that is not finite, and what it holds; None where all are.

    Args:
        batch: a nest of tensors [B, ...].
    """
    found = []
    for tensor in tensors(batch):
        if tensor.dim() and (tensor.is_floating_point() or tensor.is_complex()):
            wrong = ~tensor.detach().isfinite().reshape(len(tensor), -1).all(1)
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0])
                found.append((row, "NaN" if bool(tensor[row].isnan().any()) else "infinite numbers"))
    return min(found, default=None)


def check_finite(split: Split, where: str, ruined: Callable[[Tensor, Tensor], str | None]) -> None:
    """Refuse a split in memory one of whose inputs or targets is not finite, if anything comes of it.

    Networks may look out for NaN themselves, and losses and metrics for labels that are not known: only what is ruined
    is refused.

    Args:
        split: any; what is read batch by batch is left to what reads it.
        where: for the message.
        ruined: (inputs [2, ...], targets) of the row beside the first that is whole -> what is not finite of them.

    Raises:
        DataError: one is; which.
    """
    split = split.split if isinstance(split, Unlabelled) else split
    if not isinstance(split, TensorSplit):
        return
    for what, rows in (("input", split.images), ("target", split.labels)):
        wrong = [one for start in range(0, len(rows), _AT_ONCE) if (one := _placed(rows, start))]
        if not wrong:
            continue
        places = {place for place, _ in wrong}
        beside = next((place for place in range(len(rows)) if place not in places and not _placed(rows, place, 1)), 0)
        place, holds = wrong[0]
        both = torch.tensor([beside, place], device=rows.device)
        if said := ruined(split.images[both], split.labels[both]):
            raise DataError(f"{where}: {what} {place} holds {holds}, so that {said}.\n  Mend it, or leave it out")


def named(split: Any) -> str:
    """Return what a split that somebody has given is called in messages."""
    while hasattr(split, "split"):  # what counts or leaves something out on the way
        split = split.split
    return str(getattr(getattr(split, "fetch", split), "name", "the split"))


def _placed(rows: Tensor, start: int, count: int = _AT_ONCE) -> tuple[int, str] | None:
    found = wrong_row(rows[start : start + count])
    return None if found is None else (start + found[0], found[1])
