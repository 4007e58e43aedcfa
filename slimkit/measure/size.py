"""Parameters of a network."""

from __future__ import annotations

from torch import nn


def count_params(model: nn.Module) -> int:
    """Return the number of parameters, shared ones once; BatchNorm's statistics are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def params_by_layer(model: nn.Module) -> dict[str, int]:
    """Return module path -> number of the module's own parameters, for modules that have any."""
    counts = {name: sum(p.numel() for p in m.parameters(recurse=False)) for name, m in model.named_modules()}
    return {name: count for name, count in counts.items() if count}
