"""Faults as surgery makes them, planted on purpose: the proof has to see every one that changes the function."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

Fault = Callable[[nn.Module, Generator], bool]
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def _one(items: list[nn.Module], generator: Generator) -> nn.Module | None:
    return items[int(torch.randint(len(items), (1,), generator=generator))] if items else None


def _norm(net: nn.Module, generator: Generator) -> nn.BatchNorm2d | None:
    found = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d) and m.num_features > 1]
    return _one(found, generator)  # type: ignore[return-value]


def _layer(net: nn.Module, generator: Generator, dim: int = 0) -> nn.Module | None:
    return _one([m for m in net.modules() if isinstance(m, CONVOLUTIONS) and m.weight.shape[dim] > 1], generator)


def _shift(tensor: Tensor, dim: int = 0) -> bool:
    """Let every index hold what belongs to the one before it."""
    tensor.copy_(tensor.roll(1, dim))
    return True


def statistics_of_other_channels(net: nn.Module, generator: Generator) -> bool:
    norm = _norm(net, generator)
    return norm is not None and norm.running_mean is not None and _shift(norm.running_mean)


def variances_of_other_channels(net: nn.Module, generator: Generator) -> bool:
    norm = _norm(net, generator)
    return norm is not None and norm.running_var is not None and _shift(norm.running_var)


def scales_of_other_channels(net: nn.Module, generator: Generator) -> bool:
    norm = _norm(net, generator)
    return norm is not None and _shift(norm.weight)


def shifts_of_other_channels(net: nn.Module, generator: Generator) -> bool:
    norm = _norm(net, generator)
    return norm is not None and _shift(norm.bias)


def one_shift_lost(net: nn.Module, generator: Generator) -> bool:
    norm = _norm(net, generator)
    if norm is not None:
        norm.bias[0] = 0
    return norm is not None


def filters_in_another_order(net: nn.Module, generator: Generator) -> bool:
    layer = _layer(net, generator, 0)
    return layer is not None and _shift(layer.weight, 0)


def inputs_in_another_order(net: nn.Module, generator: Generator) -> bool:
    layer = _layer(net, generator, 1)
    return layer is not None and _shift(layer.weight, 1)


def one_filter_of_a_removed_channel(net: nn.Module, generator: Generator) -> bool:
    layer = _layer(net, generator, 0)
    if layer is not None:
        last = layer.weight[-1]
        layer.weight[-1] = last.abs().mean() * torch.randn(last.shape, generator=generator).to(last)
    return layer is not None


def one_bias_lost(net: nn.Module, generator: Generator) -> bool:
    layers = [m for m in net.modules() if isinstance(m, CONVOLUTIONS) and m.bias is not None]
    layer = _one(layers, generator)
    if layer is not None:
        layer.bias[-1] = 0
    return layer is not None


def a_layer_scaled_by_its_width(net: nn.Module, generator: Generator) -> bool:
    layer = _layer(net, generator, 0)
    if layer is not None:
        layer.weight.mul_(1 - 1 / (layer.weight.shape[0] + 1))
    return layer is not None


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        statistics_of_other_channels, variances_of_other_channels, scales_of_other_channels,
        shifts_of_other_channels, one_shift_lost, filters_in_another_order, inputs_in_another_order,
        one_filter_of_a_removed_channel, one_bias_lost, a_layer_scaled_by_its_width,
    )
}  # fmt: skip
