"""MACs: multiply-adds of convolutions and matrix products for one image.

One MAC is two FLOPs. Counted are convolutions (also transposed ones), linear layers, matrix products and those
of attention, by the formulas of `torch.utils.flop_counter`; not counted are biases, BatchNorm, activations,
pooling and interpolation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from slimkit.errors import TraceError
from slimkit.modules import evaluating, module_paths

aten = torch.ops.aten
_ATTENTION = re.compile(r"_scaled_dot_product_(?!.*backward).+")


def count_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the MACs of one forward pass in evaluation mode.

    Args:
        model: the network; left as it was found.
        input_shape: shape of one image, (C, H, W).

    Raises:
        TraceError: the network does not run on such an image.
    """
    return sum(macs_by_layer(model, input_shape).values())


def macs_by_layer(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Return module path -> MACs of what runs in this module itself, in the order of execution.

    A module that runs several times has the sum; "" holds what the network computes outside its modules.
    The pass runs on the meta device, which computes shapes only; a network that needs values runs on zeros.

    Raises:
        TraceError: the network does not run on an image of `input_shape`.
    """
    with evaluating(model), torch.no_grad():
        try:
            return _count(model, torch.empty(1, *input_shape, device="meta"))
        except Exception:  # needs values, or holds tensors outside its parameters and buffers
            pass
        try:
            return _count(model, torch.zeros(1, *input_shape))
        except Exception as error:
            raise TraceError(
                f"{type(model).__name__} on an image of shape {input_shape}: {_first_line(error)}.\n"
                "  Give the input shape this network was made for (--input-shape C,H,W)"
            ) from error


def _count(model: nn.Module, image: Tensor) -> dict[str, int]:
    """Run one image [1, C, H, W] through the network, on the image's device."""
    tensors = {name: t for name, t in [*model.named_parameters(), *model.named_buffers()]}
    if image.is_meta:
        tensors = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator without a formula
    try:  # attention as matrix products: not every fused kernel has a formula in every torch
        with sdpa_kernel(SDPBackend.MATH), module_paths(model) as running, _Counter(running) as counter:
            if image.is_meta:
                torch.func.functional_call(model, tensors, (image,))
            else:
                model(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    return {name: macs for name, macs in counter.macs.items() if macs}


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
    if _ATTENTION.fullmatch(packet.__name__):  # the kernels of the CPU and of other devices: torch has no formula
        query, key, value = (t.shape for t in args[:3])
        return int(sdpa_flop_count(query, key, value)) // 2  # type: ignore[no-untyped-call]
    if packet is aten.mkldnn_rnn_layer:  # [T, N, input], weights of the input and of the state
        return int(args[0].shape[0] * args[0].shape[1] * (args[1].numel() + args[2].numel()))
    return 0
