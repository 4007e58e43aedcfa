"""Which images come when: pure functions of (seed, epoch, batch), so that a resumed run sees the same."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def number(*parts: object) -> int:
    """Mix anything printable into a seed in [0, 2**63); the same on every machine and in every process."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """Return a fresh random generator for these parts; the global one is not touched."""
    return torch.Generator().manual_seed(number(*parts))


@contextmanager
def drawing(*parts: object) -> Iterator[None]:
    """Let somebody else's code draw random numbers by these parts: PyTorch's on the CPU, NumPy's and Python's.

    Afterwards all three go on as if nothing had been drawn.
    """
    seed, torchs, numpys, pythons = number(*parts), torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(torchs)
        np.random.set_state(numpys)
        random.setstate(pythons)


def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """Return the order of one epoch: int64 [count]."""
    return torch.randperm(count, generator=generator("order", seed, epoch))


def even(count: int, size: int) -> int:
    """Return the size, at most `size` and above half of it, by which `count` inputs part with the fewest left over."""
    size = max(1, min(size, count))
    return min(range(size, size // 2, -1), key=lambda one: count % one)


def batch_indices(count: int, batch_size: int, seed: int | None, epoch: int, start: int) -> Iterator[Tensor]:
    """Cut one epoch into batches of image indices, from batch `start` on, each as it is asked for.

    Without a seed the images come in stored order and the last batch may be short. With one they are shuffled
    and a short last batch is left out, so that every step has the same weight; a set smaller than one batch
    is one batch.
    """
    size = max(1, min(batch_size, count))
    order = torch.arange(count) if seed is None else permutation(count, seed, epoch)[: count // size * size]
    for begin in range(start * size, len(order), size):
        yield order[begin : begin + size]


def split_indices(count: int, share: float, *parts: object) -> tuple[Tensor, Tensor]:
    """Part `count` images at random into (the rest, a `share` of them), each int64 and ascending."""
    order = torch.randperm(count, generator=generator("split", *parts))
    taken = round(count * share)
    return order[taken:].sort().values, order[:taken].sort().values
