"""Statistics of BN measured anew, after something upstream has changed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimkit.data import Batches, at_once, some
from slimkit.data.fit import called
from slimkit.errors import DataError
from slimkit.hardware import on_device
from slimkit.modules import evaluating
from slimkit.settings.checks import whole


def reestimate(
    model: nn.Module,
    split: Batches,
    batches: int = 100,
    batch_size: int = 128,
    seed: int = 0,
    device: torch.device | None = None,
) -> None:
    """Replace the running mean and variance of every BN by the exact average over some batches.

    Every other module stays in eval mode, so dropout is off. Mode, momentum and batch counter of every module
    are left as found; when a batch cannot be run, or they would not be finite, so are the statistics.

    Args:
        model: changed in place: running statistics only.
        split: gives the inputs; shuffled by `seed`, not augmented, in batches of equal size, which weigh the same.
        batches: how many at most; more where `batch_size` inputs are too large to be computed at a time.
        device: where they are run; None: where the network is.

    Raises:
        SpecError: `batches` is no such number.
        DataError: the statistics are not finite, the network does not run on the inputs, or the split is none.
    """
    batches = whole(0)("batches", batches)
    if not hasattr(split, "batches"):
        raise DataError(
            f"split is {type(split).__name__}: it has no batches().\n  Give slimkit.data.as_inputs(it).split"
        )
    twin = on_device(model, device)
    norms, kept = _norms(twin), _norms(model)
    if not norms:
        return
    with evaluating(twin), _measuring(norms), torch.no_grad():
        size = at_once(split, batch_size)
        for inputs, _ in some(split, size, -(-batches * batch_size // size), seed):
            called(twin, inputs, inputs)
        if not all(bool(buffer.isfinite().all()) for norm in norms for buffer in norm.buffers()):
            raise DataError(
                "statistics would not be finite.\n  Give inputs and weights without NaN, of which no sum overflows"
            )
    for norm, found in zip(kept, norms, strict=True):
        for buffer, new in zip(norm.buffers(), found.buffers(), strict=True):
            buffer.copy_(new)


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def _measuring(norms: list[_BatchNorm]) -> Iterator[None]:
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    done = False
    try:
        yield
        done = True
    finally:
        for norm, momentum, buffers in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            reached = done and bool(norm.num_batches_tracked)
            for name in ["num_batches_tracked"] if reached else list(buffers):
                norm.get_buffer(name).copy_(buffers[name])
