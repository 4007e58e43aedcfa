"""Group lasso on everything coupled to a channel: sparse group training, after DepGraph, Fang et al. 2023, 3.3.

With w_u all slices of parameters that belong to unit u (the filters that make it, gamma and beta, the weights
that read it), T_u of them, the penalty is

    R = strength * sum over u of sqrt(T_u) * |w_u|,   |w_u| the Euclidean norm,

Yuan and Lin's group lasso, 2006. Its pull on |w_u| is the same however small that has become, so that units the
loss does not defend reach zero together with all that is coupled to them. Slices begin with norms near 1 (so
does a gamma), hence |w_u| near sqrt(T_u): the share of it that goes is S = strength * sum(learning rates) /
(1 - momentum), as for the penalty on gamma, and `solve_strength` serves both. Where gamma is all that there is
of a unit, the two penalties are one. The ranking that goes with it is `slimkit.selection.ranking.group_norm`.

DepGraph itself adds gradients g_u * w_u, a ridge with g_u from 1 to 16, the larger the smaller |w_u| is beside
its group: it shrinks by factors and never ends.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from slimkit.channels import Graph
from slimkit.modules import unwrapped
from slimkit.training.penalty import check_strength
from slimkit.training.run import Hook, Run


@torch.no_grad()
def unit_norms(model: nn.Module, graph: Graph) -> Tensor:
    """Return |w_u|, the norm of all parameters coupled to each unit; float [U], on the network's device."""
    return _squares(model, graph).sqrt()[:-1]


@torch.no_grad()
def penalise_groups_(model: nn.Module, graph: Graph, strength: float) -> None:
    """Add the gradient of strength * sum of sqrt(T_u) |w_u|; call it after backward(), before step().

    Units whose norm is zero, or has no square, are left there (0 is a subgradient). Parameters without a gradient get
    none. Under mixed precision with a gradient scaler call it after `scaler.unscale_`.

    Args:
        model: the network that `graph` was traced from, also compiled or wrapped.
        graph: its channels, U units.
        strength: weight of the penalty in the loss, >= 0.

    Raises:
        MaskError: the graph is of another network. TrainingError: the strength is negative, infinite or NaN.
    """
    check_strength(strength)
    graph.check_of(model)
    if not strength:
        return
    parameters = _parameters(model)
    squares = _squares(model, graph)
    coupled = graph.coupled.to(squares.device)
    seen = squares > torch.finfo(squares.dtype).tiny * coupled.tensors  # of a smaller one the pull is infinite
    pull = torch.where(seen, strength * (coupled.tensors / squares).sqrt(), 0.0)
    factors: dict[str, Tensor] = {}
    for (name, dim), factor in zip(coupled.places, torch.split(pull[coupled.unit_of], coupled.sizes), strict=True):
        shape = [-1 if d == dim else 1 for d in range(parameters[name].dim())]
        known = factors.get(name)
        factors[name] = factor.view(shape) if known is None else known + factor.view(shape)
    for name, factor in factors.items():
        p = parameters[name]
        if p.grad is not None:
            p.grad.addcmul_(p, factor) if factor.dtype == p.dtype else p.grad.add_(p * factor)


def group_penalty(graph: Graph, strength: Callable[[int], float]) -> Hook:
    """Return a hook for `train` that penalises all groups; the strength is a pure function of the step."""

    def add(run: Run) -> None:
        penalise_groups_(run.model, graph, strength(run.step))

    return Hook(gradients=add)


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(unwrapped(model).named_parameters())


def _squares(model: nn.Module, graph: Graph) -> Tensor:
    """Return |w_u|^2 of each unit, [U + 1]; the last entry is of no unit."""
    parameters = _parameters(model)
    device = next(iter(parameters.values())).device
    coupled = graph.coupled.to(device)
    found = []
    for name, dim in coupled.places:
        p = parameters[name].detach()
        p = p.to(torch.promote_types(p.dtype, torch.float32))  # squares of 16 bits go over, or under
        others = [d for d in range(p.dim()) if d != dim]
        found.append((torch.linalg.vector_norm(p, dim=others) if others else p.abs()).square())
    return coupled.sums(torch.cat([*found, torch.zeros(0, device=device)]))
