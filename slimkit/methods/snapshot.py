"""Rewinding: weights of an earlier step under a later mask, Frankle et al. 2019, arXiv:1903.01611."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimkit.training.run import align


@dataclass(frozen=True)
class Snapshot:
    """A network after some steps, and what its optimizer remembers of each parameter; by name, tensors on the CPU.

    `weights` is all of its state dict, with whatever modules keep there beside tensors.
    """

    step: int
    weights: dict[str, Any]
    memory: dict[str, dict[str, Any]]

    def state(self) -> dict[str, Any]:
        """Return what `Snapshot(**state)` takes."""
        return {"step": self.step, "weights": self.weights, "memory": self.memory}


def take(model: nn.Module, optimizer: torch.optim.Optimizer | None, step: int) -> Snapshot:
    """Copy weights, buffers, and the memory of an optimizer: momentum, moments, counts; without one there is none."""
    memory = {}
    for name, parameter in model.named_parameters() if optimizer else ():
        assert optimizer is not None
        found = optimizer.state.get(parameter, {}).items()
        memory[name] = {what: _kept(value) for what, value in found if value is not None}
    weights = {name: _kept(value) for name, value in model.state_dict().items()}
    return Snapshot(step, weights, memory)


def _kept(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def widened(snapshot: Snapshot, dense: nn.Module, kept: dict[str, dict[int, Tensor]]) -> Snapshot:
    """Return the snapshot of a smaller network in the shapes of the one it was cut from.

    Args:
        snapshot: of the smaller network.
        dense: the other; what the smaller one lacks is as here.
        kept: which indices of each of its tensors the smaller one has, as `kept_indices` has them.
    """

    def wide(name: str, values: Any, like: Tensor) -> Any:
        if name not in kept or not isinstance(values, Tensor) or values.shape != snapshot.weights[name].shape:
            return values
        found, indices = like.detach().cpu().clone(), kept[name]
        grid = [indices.get(dim, torch.arange(size)).cpu() for dim, size in enumerate(found.shape)]
        found[torch.meshgrid(*grid, indexing="ij")] = values
        return found

    whole = dense.state_dict()
    weights = {name: wide(name, values, whole[name]) for name, values in snapshot.weights.items()}
    memory = {
        name: {what: wide(name, value, torch.zeros_like(whole[name])) for what, value in remembered.items()}
        for name, remembered in snapshot.memory.items()
    }
    return Snapshot(snapshot.step, weights, memory)


def put_(snapshot: Snapshot, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Bring a network and its optimizer back, in place, to what they were."""
    model.load_state_dict(snapshot.weights)
    names = {parameter: name for name, parameter in model.named_parameters()}
    places = enumerate(parameter for group in optimizer.param_groups for parameter in group["params"])
    memory = {place: copy.deepcopy(snapshot.memory.get(names[parameter], {})) for place, parameter in places}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": memory})
    align(optimizer)
