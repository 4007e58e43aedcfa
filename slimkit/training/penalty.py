"""L1 penalty on BN's gamma, network slimming, Liu et al. 2017, arXiv:1708.06519.

The sub-gradient strength * sign(gamma) is added to the gradient, so the loss that is printed doesn't contain
it. How far it can shrink a gamma depends on the whole schedule: its total pull is

    S = strength * sum(learning rates) / (1 - momentum),

to be compared with the gamma a network starts from (0.5 or 1). So choose S, and the strength follows.
"""

import math
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimkit.errors import TrainingError
from slimkit.modules import unwrapped
from slimkit.training.run import Hook


def gammas(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Give the path of every BN that has a scale, and that scale, float [C]."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.weight is not None:
            yield name, module.weight


def penalise_gamma_(model: nn.Module, strength: float, only: Collection[str] | None = None) -> None:
    """Add strength * sign(gamma) to the gradient of every gamma; call it after backward(), before step().

    Under mixed precision with a gradient scaler call it after `scaler.unscale_`, or its size would depend on
    the loss scale.

    Args:
        model: a network whose gradients have just been computed; only gradients of gammas change.
        strength: weight of sum |gamma| in the loss, >= 0.
        only: paths of the BNs to penalise; all of them unless given.

    Raises:
        TrainingError: the strength is negative, infinite or NaN, there is no such BN, or it is above 0 and no gamma has
            a gradient to add it to.
    """
    check_strength(strength)
    found = dict(gammas(unwrapped(model)))
    if only is not None and (unknown := sorted(set(only) - found.keys())):
        raise TrainingError(
            f"only has {unknown[0]!r}: no BatchNorm with a scale is called so.\n  They are {', '.join(found) or 'none'}"
        )
    moved = [gamma for name, gamma in found.items() if gamma.grad is not None and (only is None or name in only)]
    if strength and not moved:
        raise TrainingError(
            f"no gamma is penalised: {'none of them has a gradient' if found else 'no BatchNorm has one to train'}.\n"
            "  Call it after backward(), of a network whose BatchNorms train; or penalise all weights of a channel, "
            "slimkit.training.penalise_groups_"
        )
    for gamma in moved:
        assert gamma.grad is not None
        gamma.grad.add_(torch.sign(gamma.detach()), alpha=strength)


def check_strength(strength: float) -> None:
    """Refuse a strength of a penalty that is none."""
    if not isinstance(strength, (int, float)) or not 0 <= strength < math.inf:
        raise TrainingError(f"the strength of the penalty is {strength!r}: it must be a number of 0 or more.")


def gamma_penalty(strength: Callable[[int], float]) -> Hook:
    """Return a hook for `train` that penalises gamma; the strength is a pure function of the step."""
    return Hook(gradients=lambda run: penalise_gamma_(run.model, strength(run.step)))


def pull(strength: float, sum_of_rates: float, momentum: float) -> float:
    """Return S, the total pull of the penalty on a gamma that the loss does not defend."""
    return strength * sum_of_rates / (1 - momentum)


def solve_strength(target: float, sum_of_rates: float, momentum: float) -> float:
    """Return the strength whose total pull is `target`.

    Args:
        target: S, >= 0; the papers' settings give 0.66 to 6.6.
        sum_of_rates: learning rates summed over the steps on which the penalty acts.
        momentum: of SGD, in [0, 1).
    """
    if sum_of_rates <= 0:
        raise TrainingError(
            f"a penalty with S = {target} was asked for, but the learning rates sum to {sum_of_rates}: "
            "nothing would move.\n  Give a learning rate above 0, or S = 0"
        )
    return target * (1 - momentum) / sum_of_rates


def share_near_zero(values: Tensor) -> float:
    """Return the share of |gamma| (float [C]) below a tenth of the median."""
    sizes = values.detach().abs()
    return float((sizes < sizes.median() / 10).double().mean())


def has_gap(values: Tensor, ratio: float) -> bool:
    """Tell whether gammas (float [C]) part into a `ratio` of small and the rest of large ones.

    They do where the largest of the small ones is below a tenth of the mean of the large ones: on trained
    networks of the zoo, cutting there cost at most a point of accuracy before any retraining.
    """
    sizes = values.detach().abs().double().sort().values
    cut = round(len(sizes) * ratio)
    return 0 < cut < len(sizes) and bool(sizes[cut - 1] < sizes[cut:].mean() / 10)
