"""Classification: one class an image, softmax cross-entropy, top-1 accuracy."""

from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from slimkit.example import log_probabilities
from slimkit.quantity import number_of
from slimkit.tasks.metric import Metric
from slimkit.tasks.task import Loss, Task, no_numbers


def cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy, float32 [], of logits [B, classes] and class numbers int64 [B]."""
    return F.cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing)


def divergence(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence from a teacher's classes, Hinton et al. 2015, arXiv:1503.02531.

    Args:
        outputs: logits [B, classes, ...]; the mean is over all but the classes.
        wanted: the teacher's.
        temperature: divides both; the divergence is multiplied by its square.
    """
    soft, target = (log_probabilities(x.float() / temperature) for x in (outputs, wanted))
    whole = F.kl_div(soft, target, reduction="sum", log_target=True)
    return whole / (outputs.numel() // outputs.shape[1]) * temperature**2


def right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Tell of each image whether its highest score is the right class, bool [B]."""
    return outputs.argmax(1) == targets


def _smoothed(share: float) -> Loss:
    return partial(cross_entropy, label_smoothing=share)


def _misfit(outputs: Any, targets: Any, classes: int | None) -> str | None:
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        return f"the network does not return one row of class scores per image, [N, classes], but {_named(outputs)}"
    if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.is_floating_point():
        return f"a target must be one class number per image, whole numbers [N], but these are {_named(targets)}"
    if len(targets) != len(outputs):
        return f"there are {len(targets)} targets of {len(outputs)} outputs"
    if classes is not None and outputs.shape[1] != classes:
        return f"the data has {number_of(classes, 'class')}, the network {outputs.shape[1]}"
    return _outside(outputs, targets) or no_numbers(outputs)


def _outside(outputs: Tensor, targets: Tensor) -> str | None:
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
        if int(targets.min()) < 0:
            return f"class number {int(targets.min())} is below 0, and no class: leave out what is of none"
        span = f"{int(targets.min())} to {int(targets.max())}"
        return f"class numbers reach from {span}, the network has classes 0 to {outputs.shape[1] - 1}"
    return None


def _named(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


CLASSIFICATION = Task(
    name="classification",
    loss=cross_entropy,
    metrics={"accuracy": Metric(right, unit="share")},
    better="higher",
    imitation=divergence,
    misfit=_misfit,
    outside=_outside,
    smoothed=_smoothed,
)
