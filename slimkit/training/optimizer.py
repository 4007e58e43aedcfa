"""What a network is trained by, and how an optimizer's memory follows the network through surgery."""

import copy
from collections import defaultdict
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from slimkit.channels.graph import check_left
from slimkit.errors import TrainingError
from slimkit.modules import unwrapped
from slimkit.training.recipe import Recipe

# Parameter name -> dimension -> indices kept along it, int64; what is not named stays whole.
KeptIndices = Mapping[str, Mapping[int, Tensor]]
Some = TypeVar("Some", bound=Optimizer)
_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    FunctionType,
    BuiltinFunctionType,
)


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Build the optimizer of a recipe over the parameters that want gradients.

    Two groups: weights that decay, and biases, gammas and betas, which don't, so that a penalty on gamma is
    all that shrinks it.
    """
    exempt = {id(p) for m in model.modules() if isinstance(m, _BatchNorm) for p in m.parameters(recurse=False)}
    wanted = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in wanted if p.ndim > 1 and id(p) not in exempt]
    chosen = {id(p) for p in decayed}
    rest = [p for p in wanted if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in wanted)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=fused)
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=fused
    )


def follow(optimizer: Some, old: nn.Module, new: nn.Module, kept: KeptIndices) -> Some:
    """Return an optimizer for the network after surgery, that remembers of the channels that were kept what it did.

    It is of the same class, with the settings of every group of parameters: SGD, Adam, AdamW, RMSprop, and any other
    that remembers, for each parameter, tensors of its shape and single numbers.

    Args:
        optimizer: of `old`; read, not changed.
        old: the network before surgery, also compiled or wrapped.
        new: the network after it, with the parameters of the same names on the same device; the same.
        kept: which indices of each parameter of `old` are left in `new`.

    Parameters that only `new` has (a bias that took up folded constants) begin with nothing remembered, in the last
    group; those of `old` that the optimizer did not have stay out of it. Those of neither, as a temperature that is
    learnt beside the network, go along. A scheduler of learning rates holds on to the
    optimizer that it was made for: make it anew.

    Raises:
        TrainingError: what it remembers is of another shape, so that it is not known which channel it belongs to; it
            holds more than numbers and functions beside that; it is the optimizer of another network. MaskError: `new`
            is not what `kept` leaves of `old`.
    """
    old, new = unwrapped(old), unwrapped(new)
    before = dict(old.named_parameters())
    known = {id(p) for p in before.values()}
    if before and known.isdisjoint(id(p) for group in optimizer.param_groups for p in group["params"]):
        raise TrainingError(
            "the optimizer has no parameter of `old`: it is of another network.\n  Give the optimizer that trains it"
        )
    check_left(old, new, kept)
    homes = _by_group(optimizer, before, new)
    own = [member for members in homes for member in members]
    for group, members in zip(optimizer.param_groups, homes, strict=True):
        names = group.get("param_names", [""] * len(group["params"]))
        members += [(name, p) for name, p in zip(names, group["params"], strict=True) if id(p) not in known]
    made = copy.copy(optimizer)  # as from a pickle: without the functions that a scheduler put in its place
    vars(made).update(_own(optimizer, {*vars(made), *dir(type(optimizer))}))
    clones: dict[int, Tensor] = {}
    made.state, made.param_groups, made.defaults = defaultdict(dict), [], _copied(optimizer.defaults, clones)
    for group, members in zip(optimizer.param_groups, homes, strict=True):
        if members:
            said = {key: value for key, value in group.items() if key not in ("params", "param_names")}
            settings = _copied(said, clones)
            given = members if "param_names" in group else [parameter for _, parameter in members]
            made.add_param_group({**settings, "params": given})
    made.state.update({p: copy.deepcopy(memory) for p, memory in optimizer.state.items() if id(p) not in known})
    for name, parameter in own:
        memory = optimizer.state.get(before[name], {}) if name in before else {}
        for what, value in memory.items():
            made.state[parameter][what] = _taken(value, before[name], parameter, kept.get(name, {}), (optimizer, what))
    return made


def _copied(settings: dict[str, Any], clones: dict[int, Tensor]) -> dict[str, Any]:
    """Return settings of which none is shared: a learning rate may be a tensor that a schedule changes in place.

    Args:
        clones: of each tensor by its id: what groups share they share in the copy.
    """
    found: dict[str, Any] = tree_map_only(Tensor, lambda one: clones.setdefault(id(one), one.clone()), settings)
    return found


def _by_group(
    optimizer: Optimizer, before: Mapping[str, nn.Parameter], new: nn.Module
) -> list[list[tuple[str, nn.Parameter]]]:
    """Return the parameters of the small network that are trained, by the group that each belongs to."""
    home = {id(p): place for place, group in enumerate(optimizer.param_groups) for p in group["params"]}
    last = len(optimizer.param_groups) - 1  # new parameters are biases; in the last group of ours these don't decay
    found: list[list[tuple[str, nn.Parameter]]] = [[] for _ in optimizer.param_groups]
    for name, parameter in new.named_parameters():
        place = home.get(id(before[name])) if name in before else last
        if parameter.requires_grad and place is not None:
            found[place].append((name, parameter))
    return found


def _own(optimizer: Optimizer, known: set[str]) -> dict[str, Any]:
    """Return copies of the attributes that a class of somebody's own keeps on its optimizers beside those `known`.

    Raises:
        TrainingError: one may hold what is of the old network, as an optimizer within does.
    """
    found = {name: value for name, value in vars(optimizer).items() if name not in known}
    for name, value in found.items():
        if not all(isinstance(one, _PLAIN) for one in tree_leaves(value)):
            raise TrainingError(
                f"the optimizer is {type(optimizer).__name__}: what its {name!r} holds may be of the old network, and "
                "cannot follow the channels.\n  Make a new optimizer for the small network"
            )
    return {name: tree_map(lambda one: one, value) for name, value in found.items()}


def _taken(
    value: Any, old: nn.Parameter, new: nn.Parameter, kept: Mapping[int, Tensor], whose: tuple[Optimizer, str]
) -> Any:
    """Return what an optimizer remembers of a parameter, of the channels that are left of it."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if not isinstance(value, Tensor) or (value.dim() and value.shape != old.shape):
        raise TrainingError(
            f"the optimizer is {type(whose[0]).__name__}: its {whose[1]!r} is not of the shape of the parameter, and "
            "cannot follow the channels.\n  Make a new optimizer for the small network"
        )
    if not value.dim():
        return value.clone()
    for dimension, indices in kept.items():
        value = value.index_select(dimension, indices.to(value.device))
    aligned = torch.empty_like(new, dtype=value.dtype, memory_format=torch.preserve_format)
    return aligned.copy_(value).detach()
