"""SGD whose momentum follows the network through surgery."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimkit.errors import TrainingError

# Parameter name -> dimension -> indices kept along it, int64; what is not named stays whole.
KeptIndices = Mapping[str, Mapping[int, Tensor]]


def make_optimizer(model: nn.Module, learning_rate: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Build SGD with Nesterov momentum over the parameters that want gradients.

    Two groups: weights that decay, and biases, gammas and betas, which don't, so that a penalty on gamma is
    all that shrinks it.
    """
    exempt = {id(p) for m in model.modules() if isinstance(m, _BatchNorm) for p in m.parameters(recurse=False)}
    wanted = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in wanted if p.ndim > 1 and id(p) not in exempt]
    chosen = {id(p) for p in decayed}
    rest = [p for p in wanted if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        momentum=momentum,
        nesterov=momentum > 0,
        fused=all(p.device.type in ("cpu", "cuda") for p in wanted),
    )


def follow(optimizer: torch.optim.SGD, old: nn.Module, new: nn.Module, kept: KeptIndices) -> torch.optim.SGD:
    """Return an optimizer for the network after surgery, with the momentum of the channels that were kept.

    Args:
        optimizer: of `old`; read, not changed.
        old: the network before surgery.
        new: the network after it, with the parameters of the same names on the same device.
        kept: which indices of each parameter of `old` are left in `new`.

    Parameters that only `new` has (a bias that took up folded constants) start without momentum.

    Raises:
        TrainingError: another optimizer than SGD; what it remembers is not momentum alone.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        raise TrainingError(
            f"the optimizer is {type(optimizer).__name__}: only the momentum of torch.optim.SGD can follow.\n"
            "  Make a new optimizer for the small network"
        )
    before = dict(old.named_parameters())
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    groups: dict[int, list[nn.Parameter]] = {id(group): [] for group in optimizer.param_groups}
    last = optimizer.param_groups[-1]  # new parameters are biases; these don't decay
    for name, parameter in new.named_parameters():
        if parameter.requires_grad:
            home = settings.get(id(before[name]), last) if name in before else last
            groups[id(home)].append(parameter)
    made = torch.optim.SGD(
        [
            {**{k: v for k, v in group.items() if k != "params"}, "params": groups[id(group)]}
            for group in optimizer.param_groups
            if groups[id(group)]
        ]
    )
    for name, parameter in new.named_parameters():
        state = optimizer.state.get(before[name], {}) if name in before else {}
        buffer = state.get("momentum_buffer")
        if buffer is not None and parameter.requires_grad:
            for dimension, indices in kept.get(name, {}).items():
                buffer = buffer.index_select(dimension, indices.to(buffer.device))
            aligned = torch.empty_like(parameter, memory_format=torch.preserve_format)
            made.state[parameter]["momentum_buffer"] = aligned.copy_(buffer).detach()
    return made
