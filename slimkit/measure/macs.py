"""MACs: multiply-adds of convolutions and matrix products for one image.

One MAC is two FLOPs. Counted are convolutions (also transposed ones), linear layers, matrix products and those
of attention, by the formulas of `torch.utils.flop_counter`; not counted are biases, BatchNorm, activations,
pooling and interpolation, nor what it has no formula of: deformable convolutions, bilinear layers, products of a matrix
with a vector. Budgets count the same.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from slimkit import out_of_memory
from slimkit.dtypes import dtype_of
from slimkit.errors import TraceError
from slimkit.example import Example, batch_size, call, describe, of_batch, tensors
from slimkit.hardware import device_of, plain_attention
from slimkit.modules import copied, module_paths, private, unwrapped
from slimkit.multiply_adds import multiply_adds


def count_macs(model: nn.Module, inputs: tuple[int, ...] | Example) -> int:
    """Return the MACs of one forward pass of one image in evaluation mode.

    Args:
        model: the network; untouched: the pass runs on a copy.
        inputs: shape of one image, (C, H, W), or an example input of the network.

    Raises:
        TraceError: the network does not run on such an input.
    """
    return sum(macs_by_layer(model, inputs).values())


def macs_by_layer(model: nn.Module, inputs: tuple[int, ...] | Example) -> dict[str, int]:
    """Return module path -> MACs of what runs in this module itself, in the order of execution.

    A module that runs several times has the sum; "" holds what the network computes outside its modules.
    The pass runs on the meta device, which computes shapes only; a network that needs values runs for real. It is of
    one image; where the network takes none alone, that of the example is shared out among its images.

    Raises:
        TraceError: the network does not run on `inputs`, see `count_macs`.
    """
    shape = _as_shape(inputs)
    example: Example = (
        inputs if shape is None else torch.zeros(1, *shape, dtype=dtype_of(model), device=device_of(model))
    )
    for images in _numbers(example):  # where it runs on one, what is done once a batch counts whole
        try:
            counted = _counted(model, of_batch(example, 1) if images == 1 else example)
            return {name: macs // images for name, macs in counted.items() if macs}
        except Exception as error:
            out_of_memory.pass_on(error)
            failed = error
    given = f"an image of shape {shape}" if shape is not None else f"an input {describe(example)}"
    raise TraceError(
        f"{type(model).__name__} on {given}: {_first_line(failed)}.\n"
        "  Give the input shape this network was made for (`input_shape=C,H,W`)"
    ) from failed


def _numbers(example: Example) -> list[int]:
    """Return of how many images to try to count: of one, but where whole numbers, of no batch, may point at images."""
    images = batch_size(example)
    pointing = (tensor for tensor in tensors(example) if tensor.dim() and not tensor.is_floating_point())
    return [images] if any(len(tensor) != images for tensor in pointing) else sorted({1, images})


def _as_shape(inputs: Any) -> tuple[int, ...] | None:
    """Return a shape where one was given, and not an example input."""
    sizes = isinstance(inputs, (tuple, list)) and all(isinstance(size, int) for size in inputs)
    return tuple(inputs) if sizes else None


def _counted(model: nn.Module, example: Example) -> dict[str, int]:
    """Return the MACs of one forward pass of an example, by layer."""
    try:
        return _count(_on_meta(model), tree_map_only(Tensor, lambda t: t.to("meta"), example))
    except Exception:  # needs values, or holds tensors outside its parameters and buffers
        return _count(private(model), example)


def _on_meta(model: nn.Module) -> nn.Module:
    """Return a copy without values."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copied(model, memo).eval()


def _count(model: nn.Module, example: Example) -> dict[str, int]:
    """Run an example through a network that may be changed."""
    model = unwrapped(model)
    with (
        torch.no_grad(),
        plain_attention(),  # else one operator without a formula
        sdpa_kernel(SDPBackend.MATH),  # not every device has a kernel that does without
        module_paths(model) as running,
        _Counter(running) as counter,
    ):
        call(model, example)
    return dict(counter.macs)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the MACs of the operators that run, by the module that runs them."""

    def __init__(self, running: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running = running
        self.macs: defaultdict[str, int] = defaultdict(int)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        layer = self.running[-1] if self.running else ""
        self.macs[layer] += multiply_adds(func.overloadpacket, args, kwargs or {}, out)
        return out
