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
from torch.utils.flop_counter import flop_registry

from slimkit.dtypes import dtype_of
from slimkit.errors import TraceError
from slimkit.example import Example, batch_size, call, describe
from slimkit.hardware import device_of
from slimkit.modules import copied, module_paths, private, unwrapped

aten = torch.ops.aten


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
    The pass runs on the meta device, which computes shapes only; a network that needs values runs for real.

    Raises:
        TraceError: the network does not run on `inputs`, see `count_macs`.
    """
    shape = _as_shape(inputs)
    example: Example = (
        inputs if shape is None else torch.zeros(1, *shape, dtype=dtype_of(model), device=device_of(model))
    )
    try:
        counted = _count(_on_meta(model), tree_map_only(Tensor, lambda t: t.to("meta"), example))
    except Exception:  # needs values, or holds tensors outside its parameters and buffers
        try:
            counted = _count(private(model), example)
        except Exception as error:
            given = f"an image of shape {shape}" if shape is not None else f"an input {describe(example)}"
            raise TraceError(
                f"{type(model).__name__} on {given}: {_first_line(error)}.\n"
                "  Give the input shape this network was made for (`input_shape=C,H,W`)"
            ) from error
    images = batch_size(example)
    return {name: macs // images for name, macs in counted.items() if macs}


def _as_shape(inputs: Any) -> tuple[int, ...] | None:
    """Return a shape where one was given, and not an example input."""
    sizes = isinstance(inputs, (tuple, list)) and all(isinstance(size, int) for size in inputs)
    return tuple(inputs) if sizes else None


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
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator without a formula
    try:  # attention as matrix products: not every fused kernel has a formula in every torch
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            module_paths(model) as running,
            _Counter(running) as counter,
        ):
            call(model, example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
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
        self.macs[layer] += _macs(func.overloadpacket, args, kwargs or {}, out)
        return out


def _macs(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Return the multiply-adds of one operator; 0 where it is none that counts."""
    formula = flop_registry.get(packet)
    if formula is not None:
        return int(formula(*args, **kwargs, out_val=out)) // 2
    if packet is aten.mkldnn_rnn_layer:  # [T, N, input], weights of the input and of the state
        return int(args[0].shape[0] * args[0].shape[1] * (args[1].numel() + args[2].numel()))
    return 0
