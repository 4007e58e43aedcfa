"""Several processes that train one network: DistributedDataParallel, as `torch.distributed.run` starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    ranks: int = 1


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that `torch.distributed.run` has started; alone where there are none.

    A process group that exists already is used and left as it is.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield World()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """Return this process's own GPU of its machine, or the device as it is."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return device


def wrap(model: nn.Module, world: World) -> nn.Module:
    """Make gradients the mean over all processes; alone, the network itself."""
    return model if world.ranks == 1 else DistributedDataParallel(model, broadcast_buffers=False)


def mean(value: Tensor, world: World) -> Tensor:
    """Average a tensor over all processes."""
    if world.ranks > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= world.ranks
    return value


@contextmanager
def synchronised_batch_norm(model: nn.Module, world: World) -> Iterator[None]:
    """Let every BN in training use the statistics of the whole batch, over all processes, on any device.

    `nn.SyncBatchNorm` does so on GPUs only. The forward of each BN is replaced while the context lasts.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)] if world.ranks > 1 else []
    for norm in norms:
        norm.forward = _Synchronised(norm, world)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


class _Synchronised:
    def __init__(self, norm: _BatchNorm, world: World) -> None:
        self.norm, self.world = norm, world

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            return type(norm).forward(norm, x)
        dims = [d for d in range(x.ndim) if d != 1]
        wide = x.float()
        count = x.numel() // x.shape[1] * self.world.ranks
        mean = _Sum.apply(wide.sum(dims)) / count
        centred = wide - _across(mean, x)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        _update(norm, mean.detach(), variance.detach() * count / max(1, count - 1))
        y = centred * _across(torch.rsqrt(variance + norm.eps), x)
        if norm.weight is not None:
            y = y * _across(norm.weight.float(), x) + _across(norm.bias.float(), x)
        return y.to(x.dtype)


class _Sum(torch.autograd.Function):
    """Sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        dist.all_reduce(grad)
        return grad


def _across(values: Tensor, x: Tensor) -> Tensor:
    """View values [C] so that they go with x [N, C, ...]."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _update(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    factor = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean), factor)
    norm.running_var.lerp_(variance.to(norm.running_var), factor)
