"""How much of a network is in its wiring, not its weights: weight-agnostic networks, Gaier & Ha 2019, arXiv:1906.04358.

The paper gives all connections one weight. In a network of layers that says nothing: all channels of a layer become
the same, and so do all logits (`identical`). What can be asked of one: how well it does with the signs and zeros of
its weights and one size for each layer (`by_sign`). A search for topologies that do work with one weight is in
`topology_search`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimkit.data import Batches, at_once
from slimkit.errors import DataError, SpecError
from slimkit.example import call
from slimkit.measure.quality import quality
from slimkit.methods.cut import named
from slimkit.methods.job import Job
from slimkit.methods.method import Found, Method, leg
from slimkit.methods.train import train
from slimkit.modules import copied, evaluating
from slimkit.recovery.statistics import reestimate
from slimkit.results import Search
from slimkit.selection.weight_mask import prunable
from slimkit.settings import Settings, setting
from slimkit.settings.checks import number, several
from slimkit.tasks import CLASSIFICATION, Task

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
_TIE = 1e-4  # logits closer than this share of the largest are one


@dataclass(frozen=True)
class Identical:
    """A network whose weights are all the same number.

    Attributes:
        accuracy: expected where ties are broken by lot, in [0, 1].
        chance: one over the number of classes.
        tied: share of images whose logits are all the same.
        reason: why, for people.
    """

    accuracy: float
    chance: float
    tied: float
    reason: str


def identical(model: nn.Module, split: Batches, value: float = 0.1, task: Task = CLASSIFICATION) -> Identical:
    """Give all weights of a network one value, and measure what is left.

    Biases and betas are 0, gammas 1, BatchNorm's statistics measured anew.

    Args:
        model: a classifier; not changed.
        split: labelled images.
        task: says which of its outputs are the logits.
    """
    same = copied(model)
    with torch.no_grad():
        for parameter in same.parameters():
            parameter.zero_()
        for weight in prunable(same).values():
            weight.fill_(value)
        for module in same.modules():
            if isinstance(module, _BatchNorm) and module.weight is not None:
                module.weight.fill_(1.0)
    reestimate(same, split)
    right = tied = 0.0
    images_seen, classes = 0, 1
    with evaluating(same), torch.no_grad():
        for images, labels in split.batches(at_once(split)):
            logits, *_ = task.outputs(call(same, task.called(images, labels)))
            size = logits.abs().amax(1, keepdim=True)
            best = logits >= logits.amax(1, keepdim=True) - _TIE * size
            right += float((best.gather(1, labels[:, None])[:, 0].double() / best.sum(1)).sum())
            tied += float(best.all(1).sum())
            images_seen, classes = images_seen + len(logits), logits.shape[1]
    share = tied / images_seen
    reason = (
        f"{100 * share:.4g} % of the images have the same logit for all {classes} classes: with one weight everywhere "
        "all channels of a layer compute the same, and so do all outputs; only which inputs a unit reads could tell "
        "them apart, and in a layer all read the same"
    )
    return Identical(right / images_seen, 1 / classes, share, reason)


def by_sign(model: nn.Module, scale: float) -> nn.Module:
    """Return a copy whose weights have the sign they had, 0 stays 0, and one size a layer.

    Args:
        model: not changed.
        scale: of that size, over the mean size of the layer's weights.
    """
    if not scale > 0:
        raise SpecError(f"scale is {scale}: it must be above 0.\n  Change it")
    constant = copied(model)
    with torch.no_grad():
        for weight in prunable(constant).values():
            sizes = weight.abs()
            mean = sizes.sum() / sizes.count_nonzero().clamp(min=1)
            weight.copy_(weight.sign() * mean * scale)
    return constant


def shared_magnitude(
    model: nn.Module,
    calibration: Batches,
    test: Batches,
    scales: Sequence[float] = SCALES,
    task: Task = CLASSIFICATION,
    device: torch.device | None = None,
) -> dict[float, tuple[nn.Module, float]]:
    """Return, for each scale, a trained network `by_sign` with BatchNorm measured anew, and how good it is.

    `device`: where they are computed; None: where the network is.
    """
    found = {}
    for scale in scales:
        constant = by_sign(model, scale)
        try:
            reestimate(constant, calibration, device=device)
            found[scale] = constant, quality(constant, test, task, device=device)
        except DataError as error:
            why = str(error).splitlines()[0].rstrip(".")
            raise SpecError(
                f"scale {scale:g}: the network is of no use with weights of it: {why}.\n  Give another"
            ) from error
    return found


@dataclass(frozen=True, kw_only=True)
class WeightAgnosticConfig(Settings):
    """Which sizes are tried."""

    scales: tuple[float, ...] = setting(
        SCALES,
        "sizes tried for the weights of every layer, over their mean size; the best on validation stays",
        several(number(0, above=True)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales:
            raise SpecError("scales is empty: at least one size must be tried.\n  Leave it out for the usual ones")


def run(job: Job, config: WeightAgnosticConfig) -> Found:
    """Train, and leave of every weight its sign and of every layer one size: what is then right is in the wiring."""
    trained = train(job, job.dense)
    task, validation = job.dataset.task, job.dataset.validation
    tried = shared_magnitude(trained.model, job.dataset.train, validation, config.scales, task, job.device)
    sign = 1 if task.better == "higher" else -1
    best = max(tried, key=lambda scale: sign * tried[scale][1])
    with_weights = quality(trained.model, validation, task, device=job.device)
    notes = [
        "of every trained weight only the sign is left, and of every layer one size: by scale "
        + ", ".join(f"{scale:g}: {value:.4g}" for scale, (_, value) in tried.items())
        + f" ({task.metric} on validation; with its trained weights {with_weights:.4g})"
    ]
    if task.classifies:
        same = identical(trained.model, validation, task=task)
        notes.append(f"with one weight for all connections: {100 * same.accuracy:.4g} % right, since {same.reason}")
    search = Search(method=METHOD.name, history=trained.history)
    legs = (leg(job.macs(), trained.phases, search=False),)
    return Found(named(tried[best][0].eval(), job.dense), (trained,), legs, search, notes=tuple(notes))


METHOD = Method(
    name="weight-agnostic",
    summary="train, leave of each weight its sign and of each layer one size: what the wiring alone does, after Gaier "
    "and Ha 2019; no channel goes",
    config=WeightAgnosticConfig,
    run=run,
    ranking="group-norm",
    removes=False,
    needs=lambda job, config: prunable(job.dense),
)
