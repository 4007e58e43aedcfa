"""The memory layout in which a network is trained."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit import out_of_memory
from slimkit.example import Example
from slimkit.hardware import own_random
from slimkit.modules import private

# The backward pass of strided 1x1 convolutions in channels-last layout that read fewer channels than one vector of
# AVX-512 holds writes where it must not: torch 2.14 with its oneDNN dies, or goes on with other memory changed (7 of 7
# such layers at 112 and 224 pixels, none of 16 channels or more, none of other kernels).
_VECTOR = 16


def layout(model: nn.Module, inputs: Example) -> torch.memory_format:
    """Try images [B, C, H, W] in channels-last layout; a network that views tensors as rows may refuse them.

    A run that is resumed tries again, so that no trace must be left: no buffer changed, no random number drawn.
    """
    if not isinstance(inputs, Tensor) or inputs.dim() != 4:
        return torch.contiguous_format
    try:
        model.to(memory_format=torch.channels_last)
        with own_random(inputs.device), torch.no_grad(), _Narrow() as narrow:
            private(model)(inputs.contiguous(memory_format=torch.channels_last))
    except RuntimeError as error:
        out_of_memory.pass_on(error)
        return torch.contiguous_format
    return torch.contiguous_format if narrow.seen else torch.channels_last


class _Narrow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes strided 1x1 convolutions of few input channels on the CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten.convolution:
            weight, strides = args[1], args[3]
            one = weight.shape[2:].numel() == 1 and max(strides) > 1
            self.seen |= one and weight.shape[1] < _VECTOR and weight.device.type == "cpu"
        return func(*args, **(kwargs or {}))
