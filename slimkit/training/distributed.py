"""Several processes that train one network, as `torch.distributed.run` starts them."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from slimkit import launcher
from slimkit.errors import LostProcessError, SlimkitError
from slimkit.training import meeting

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    ranks: int = 1


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that `torch.distributed.run` has started; alone where there are none.

    A process group that exists already is used and left as it is.

    Raises:
        LostProcessError: another process does not come, or dies meanwhile.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield World()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    with _others():
        store = meeting.place()
        if store is None:
            dist.init_process_group(backend)
        else:
            rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextmanager
def _others() -> Iterator[None]:
    """Say that another process is gone, where that ends an exchange with it."""
    try:
        yield
    except (RuntimeError, TimeoutError) as error:
        reason = (str(error).splitlines() or [""])[0]
        gone = isinstance(error, (dist.DistError, TimeoutError)) or "gloo" in reason.lower()
        if not gone or "enforce fail" in reason:  # which is about what is exchanged
            raise
        reason = re.sub(r"^\[\S+\] |\. This is typically.*", "", reason)
        raise LostProcessError(
            f"another process of this run has died, or cannot be reached ({reason}).\n  {launcher.advice()}"
        ) from error


def restarted() -> bool:
    """Tell whether the launcher (`torch.distributed.run --max-restarts`) started this process again after a failure."""
    return launcher.restarts() > 0


def local_device(device: torch.device) -> torch.device:
    """Return this process's own GPU of its machine, where a launcher has started several and none is named."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ
    if device.type == "cuda" and device.index is None and several:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return device


def from_first(make: Callable[[], T], device: torch.device) -> T:
    """Return in all processes what the first one makes, which another would measure otherwise.

    Raises:
        SlimkitError: in every process, where the first one is refused.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return make()
    answer: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            answer = [make()]
        except SlimkitError as error:
            answer = [error]
    with _others():
        dist.broadcast_object_list(answer, src=0, device=device)
    if isinstance(answer[0], SlimkitError):
        raise answer[0]
    found: T = answer[0]
    return found


def share_weights_(model: nn.Module, world: World) -> None:
    """Give all processes the weights and buffers of the first one."""
    if world.ranks > 1:
        _together([*model.parameters(), *model.buffers()], lambda flat: dist.broadcast(flat, 0))


def share_gradients_(model: nn.Module, world: World) -> None:
    """Make gradients the mean over all processes.

    What no process used in a step has none after it, as in one process, and the optimizer leaves it alone.
    `DistributedDataParallel` wants to be told beforehand whether all is used, and fails where an output has no loss.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if world.ranks == 1 or not parameters:
        return
    here = [parameter.grad is not None for parameter in parameters]
    grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    used = grads[0].new_tensor(here, dtype=torch.float32)
    _together([used, *grads], lambda flat: dist.all_reduce(flat.div_(world.ranks)))
    anywhere = here if all(here) else used.tolist()  # else a GPU is waited for
    for parameter, grad, one in zip(parameters, grads, anywhere, strict=True):
        parameter.grad = grad if one else None


def _together(tensors: list[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """Exchange tensors between processes in one piece, or one of each type; in place, whatever their layout."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        some = [tensor.detach() for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in some])
        with _others():
            exchange(flat)
        for tensor, part in zip(some, torch.split(flat, [tensor.numel() for tensor in some]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def mean(value: Tensor, world: World) -> Tensor:
    """Average a tensor over all processes."""
    if world.ranks > 1:
        value = value.clone()
        with _others():
            dist.all_reduce(value)
        value /= world.ranks
    return value


def share(count: Tensor, world: World) -> Tensor:
    """Return what to multiply this process's mean by, so that the mean over processes is the one over all that counts.

    Args:
        count: how many this process's mean is over, []; of none its mean is worth nothing.
        world: this process, and how many there are.
    """
    average = mean(count.float(), world)
    return torch.where(average > 0, count / average, 0)


def whole_batch_statistics(world: World) -> AbstractContextManager[object]:
    """Let batch norm in training use the statistics of the batch of all processes together, on any device.

    `nn.SyncBatchNorm` does so on GPUs only. Put it around the forward pass.
    """
    return _WholeBatch(world) if world.ranks > 1 else nullcontext()


class _WholeBatch(TorchFunctionMode):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.batch_norm:
            return _batch_norm(self.world, *args, **kwargs)
        return function(*args, **kwargs)


class _Sum(torch.autograd.Function):
    """Sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        with _others():
            dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        with _others():
            dist.all_reduce(grad)
        return grad


def _batch_norm(
    world: World,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do what `torch.nn.functional.batch_norm` does, input [N, C, ...], over all processes."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = [d for d in range(input.ndim) if d != 1]
    across = (1, -1, *[1] * (input.ndim - 2))
    wide = input.float()
    count = input.numel() // input.shape[1] * world.ranks
    mean = _Sum.apply(wide.sum(dims)) / count
    centred = wide - mean.view(across)
    variance = _Sum.apply(centred.square().sum(dims)) / count
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.detach().to(running_mean), momentum)
        running_var.lerp_(variance.detach().to(running_var) * count / max(1, count - 1), momentum)
    y: Tensor = centred * torch.rsqrt(variance + eps).view(across)
    if weight is not None:
        y = y * weight.float().view(across)
    if bias is not None:
        y = y + bias.float().view(across)
    return y.to(input.dtype)
