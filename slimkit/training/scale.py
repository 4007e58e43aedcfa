"""The scale of weights before a BatchNorm: no part of the function, but of how fast they learn."""

from collections.abc import Mapping

import torch
from torch import nn

from slimkit.training.optimizer import KeptIndices

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)  # one row of the weight an output


@torch.no_grad()
def restore_norms_(
    small: nn.Module,
    dense: nn.Module,
    means: Mapping[str, str],
    kept: KeptIndices,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Give the rows of weights before a BatchNorm the norm that they had before surgery; outputs stay as they are.

    BatchNorm divides the scale of what comes before it out again, so a norm only sets how fast the weights turn:
    the effective learning rate is rate / norm^2 (van Laarhoven 2017, arXiv:1706.05350). Without its share of the
    input channels a row is shorter, and a layer that kept a third of them would learn three times as fast as asked.

    Args:
        small: what surgery made of `dense`; changed in place.
        dense: read only.
        means: weight -> mean of the BatchNorm that alone reads it, as in `Graph.folds`.
        kept: which indices of each parameter of `dense` are left in `small`.
        optimizer: of `small`; its momentum is scaled along.
    """
    tensors = dict(small.named_parameters()) | dict(small.named_buffers())
    before = dict(dense.named_parameters())
    for name, mean in means.items():
        layer = name.rpartition(".")[0]
        if not name.endswith("weight") or not isinstance(small.get_submodule(layer), _LAYERS):
            continue
        rows = kept.get(name, {}).get(0)
        whole = before[name] if rows is None else before[name].index_select(0, rows.to(before[name].device))
        factor = float(whole.float().norm() / tensors[name].float().norm())
        if not 0 < factor < float("inf"):
            continue
        for scaled in (tensors[name], tensors.get(f"{layer}.bias"), tensors[mean]):
            if scaled is not None:
                scaled.mul_(factor)
        tensors[mean.removesuffix("mean") + "var"].mul_(factor**2)
        for parameter in small.get_submodule(layer).parameters():
            state = optimizer.state.get(parameter, {}) if optimizer else {}
            if (momentum := state.get("momentum_buffer")) is not None:
                momentum.div_(factor)
