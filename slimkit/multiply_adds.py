"""How many multiply-adds one operator takes, by the shapes of what it is called with and gives."""

from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
ATTENTION_KERNELS = tuple(
    getattr(aten, f"_scaled_dot_product_{kind}")
    for kind in (
        "flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention",
        "fused_attention_overrideable",
    )
    if hasattr(aten, f"_scaled_dot_product_{kind}")
)  # fmt: skip


def multiply_adds(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Return the multiply-adds of one call of an operator; 0 where it is none that counts."""
    if packet in ATTENTION_KERNELS:  # not every one has a formula in every torch, and heads may share keys
        queries, keys = args[:2]
        return int(keys.shape[2] * (queries.numel() + out[0].numel()))
    formula = flop_registry.get(packet)
    if formula is not None:
        return int(formula(*args, **kwargs, out_val=out)) // 2
    if packet is aten.mkldnn_rnn_layer:  # [T, N, input], weights of the input and of the state
        return int(args[0].shape[0] * args[0].shape[1] * (args[1].numel() + args[2].numel()))
    return 0
