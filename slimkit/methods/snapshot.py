"""Rewinding: weights of an earlier step under a later mask, Frankle et al. 2019, arXiv:1903.01611."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Snapshot:
    """A network and its momentum after some steps; tensors by name, on the CPU."""

    step: int
    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]

    def state(self) -> dict[str, Any]:
        """Return what `Snapshot(**state)` takes."""
        return {"step": self.step, "weights": self.weights, "momentum": self.momentum}


def take(model: nn.Module, optimizer: torch.optim.Optimizer | None, step: int) -> Snapshot:
    """Copy weights, buffers and momentum; without an optimizer there is no momentum yet."""
    momentum = {}
    for name, parameter in model.named_parameters() if optimizer else ():
        assert optimizer is not None
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            momentum[name] = buffer.detach().cpu().clone()
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    return Snapshot(step, weights, momentum)


@torch.no_grad()
def put_(snapshot: Snapshot, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Bring a network and its optimizer back, in place, to what they were."""
    model.load_state_dict(snapshot.weights)
    for name, parameter in model.named_parameters():
        optimizer.state[parameter].clear()
        if name in snapshot.momentum:
            buffer = torch.empty_like(parameter).copy_(snapshot.momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer
