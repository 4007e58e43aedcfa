"""What training minimises."""

import torch
from torch import Tensor
from torch.nn import functional as F

from slimkit.training.recipe import Recipe

AUXILIARY = 0.3  # weight of each auxiliary head, Szegedy et al. 2014, arXiv:1409.4842


def loss(outputs: Tensor | tuple[Tensor | None, ...], labels: Tensor, target: Tensor | None, recipe: Recipe) -> Tensor:
    """Return the mean loss of a batch, float32 [].

    Args:
        outputs: logits [B, classes], followed by those of auxiliary heads where the network returns a tuple.
        labels: int64 [B].
        target: the teacher's logits [B, classes], or None.
        recipe: label smoothing, and share and temperature of distillation (Hinton et al. 2015,
            arXiv:1503.02531: Kullback-Leibler divergence times temperature squared).
    """
    logits, *auxiliary = (outputs,) if isinstance(outputs, Tensor) else outputs
    assert logits is not None
    value = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
    if target is not None and recipe.distillation:
        soft, wanted = (F.log_softmax(x.float() / recipe.temperature, 1) for x in (logits, target))
        divergence = F.kl_div(soft, wanted, reduction="batchmean", log_target=True) * recipe.temperature**2
        value = torch.lerp(value, divergence, recipe.distillation)
    for head in auxiliary:
        if head is not None:
            value = value + AUXILIARY * F.cross_entropy(head.float(), labels)
    return value
