"""Weight decay on what two thin layers compute together, Khodak et al. 2021, arXiv:2105.01029.

Decay on each factor of U V' acts like a penalty on its rank (the nuclear norm). The decay of the layer that they
stand for is (strength / 2) ||U V'||^2, whose gradients are strength U V'V and strength V U'U.
"""

import torch
from torch import Tensor

from slimkit.models.factors import Factors
from slimkit.training.run import Hook, Run


def gradients(thin: Factors) -> tuple[Tensor, Tensor]:
    """Return the gradients of half the squared norm of the product, for the weights of the two layers in order."""
    first, second = thin[0].get_parameter("weight").detach(), thin[1].get_parameter("weight").detach()
    groups = thin.groups
    right = first.reshape(groups, thin.rank, -1)  # [groups, rank, columns]
    left = second.reshape(groups, len(second) // groups, thin.rank, -1)  # [groups, outputs, rank, height]
    inner = torch.einsum("gorh,gosh->grs", left, left)
    outer = right @ right.transpose(1, 2)
    return (inner @ right).view(first.shape), torch.einsum("grs,gosh->gorh", outer, left).reshape(second.shape)


def frobenius_decay(strength: float) -> Hook:
    """Return a hook for `train` that decays the product of all pairs of thin layers, in place of their weights.

    The weight decay of the recipe, which the optimizer adds to their gradients, is taken off again.

    Args:
        strength: lambda, >= 0; the network's usual weight decay.
    """

    @torch.no_grad()
    def decay(run: Run) -> None:
        own = run.recipe.weight_decay
        for module in run.model.modules():
            if isinstance(module, Factors):
                for layer, gradient in zip(module, gradients(module), strict=True):
                    weight = layer.get_parameter("weight")
                    if weight.grad is not None:
                        weight.grad.add_(gradient, alpha=strength).sub_(weight, alpha=own)

    return Hook(gradients=decay)
