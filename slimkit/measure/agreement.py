"""How often a network says what another one does: what can be told of a smaller one without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimkit.data.fit import called
from slimkit.errors import DataError
from slimkit.example import Example, are_labels, are_of_one_class, are_scores, are_values
from slimkit.hardware import on_device
from slimkit.intervals import wilson
from slimkit.measure.quality import LIKELY, Drop
from slimkit.modules import evaluating
from slimkit.tasks import CLASSIFICATION, SEGMENTATION, Measurement, heads
from slimkit.tasks.measurement import deviation, of_sums
from slimkit.tasks.segmentation import mean_iou, said_classes, shared


@dataclass(frozen=True)
class Same:
    """How far another network agrees: `share`, with the standard `deviation` of what other inputs, as many, may say."""

    share: Measurement
    deviation: float


def agreement(
    dense: nn.Module,
    slim: nn.Module,
    batches: Sequence[Example],
    device: torch.device | None = None,
    *,
    task: str | None = None,
    groups: Tensor | None = None,
) -> Measurement | None:
    """Return how far two networks agree on classes; None where that tells nothing.

    Of classifiers that is the share of inputs that both put into the same class. Of networks for segmentation it is the
    mean IoU of their maps, as if those of the first were the masks. For where most pixels are background, most agree
    whatever becomes of the objects; and 1 - IoU keeps the triangle inequality, so that against masks the second network
    is hardly worse by more than what it lacks here.

    It tells nothing where outputs have not the shape of scores, or of class maps; of [N, C] where they are values or
    several labels in it (`example.are_values`, `are_labels`), or where the first network puts nearly all inputs into
    one class; of maps where it puts all pixels of all inputs into one.

    Args:
        dense, slim: the networks.
        batches: what they are called with.
        device: where they are computed; None: where they are, which is in one place.
        task: the name of what they are for, where that is known. Maps are of classes where it is segmentation alone.
        groups: which inputs resemble each other, int64 [N], 0 and up: each group counts as one. None: none do.
    """
    same = _same_as(dense, batches, device, task, groups)
    found = None if same is None else same(slim)
    return None if found is None else found.share


def disagreement_with(
    dense: nn.Module,
    batches: Sequence[Example],
    device: torch.device | None = None,
    *,
    task: str | None = None,
    groups: Tensor | None = None,
) -> Callable[[nn.Module], Drop]:
    """Return what tells the points of agreement with `dense` that other networks lack to 100, for want of labels.

    The arguments are those of `agreement`.

    Raises:
        DataError: agreement tells nothing.
    """
    same = _same_as(dense, batches, device, task, groups)
    if same is None:
        raise _no_classes(task)

    def judge(slim: nn.Module) -> Drop:
        found = same(slim)
        if found is None:
            raise _no_classes(task)
        margin = LIKELY * math.sqrt(2) * found.deviation
        return Drop(100 * (1 - found.share.value), 100 * margin, found.share.images)

    return judge


def check_classes(
    dense: nn.Module, batches: Sequence[Example], device: torch.device | None = None, *, task: str | None = None
) -> None:
    """Refuse a network whose outputs are no classes, however many inputs there are; arguments as of `agreement`.

    Raises:
        DataError: they are not.
    """
    found = (_maps if task == SEGMENTATION.name else _scores_of_classes)(dense, batches, device, task)
    if found is None:
        raise _no_classes(task)


def _no_classes(task: str | None) -> DataError:
    what, otherwise = "no classes, or nearly always the same one", ""
    if task is None:
        otherwise = (
            "; where its outputs are scores of classes, say so: `task='classification'`, or of each pixel, "
            "`task='segmentation'`"
        )
    if task == SEGMENTATION.name:
        what = "no class maps [N, classes, H, W], or the same class everywhere"
    return DataError(
        f"max_drop without labels counts classes that agree, and what the network returns is {what}.\n"
        f"  Give labelled data and a task{otherwise}"
    )


def _same_as(
    dense: nn.Module,
    batches: Sequence[Example],
    device: torch.device | None,
    task: str | None,
    groups: Tensor | None,
) -> Callable[[nn.Module], Same | None] | None:
    """Return what tells how far other networks agree with one; None where that tells nothing."""
    if task == SEGMENTATION.name:
        return _same_pixels(dense, batches, device, task, groups)
    wanted = _scores_of_classes(dense, batches, device, task)
    if wanted is None or are_of_one_class(wanted):
        return None

    def same(slim: nn.Module) -> Same | None:
        found = _scores(slim, batches, device)
        if found is None:
            return None
        known = ~(wanted.isnan().any(1) | found.isnan().any(1))  # of NaN argmax makes a class
        right = _of_groups((wanted.argmax(1) == found.argmax(1)) & known, groups)
        value, count = float(right.mean()), len(right)  # of groups it is known as well as one input each would say it
        off = max(math.sqrt(value * (1 - value) / count), 1 / count)
        return Same(Measurement(value, count, wilson(value, count)), off)

    return same


def _same_pixels(
    dense: nn.Module, batches: Sequence[Example], device: torch.device | None, task: str, groups: Tensor | None
) -> Callable[[nn.Module], Same | None] | None:
    """Return what tells how far other networks agree with one on pixels, as `_same_as` does."""
    wanted = _maps(dense, batches, device, task)
    if wanted is None:
        return None
    first = wanted[0][0].flatten()[:1]
    if all(bool((classes == first).all()) for classes, _ in wanted):
        return None

    def same(slim: nn.Module) -> Same | None:
        found = _maps(slim, batches, device, task)
        if found is None:
            return None
        rows = torch.cat([shared(a, b, count) for (a, count), (b, _) in zip(wanted, found, strict=True)])
        rows = _of_groups(rows, groups)
        return Same(of_sums(rows, mean_iou), deviation(rows, mean_iou))

    return same


def _of_groups(rows: Tensor, groups: Tensor | None) -> Tensor:
    """Return rows [N, ...], one an input, as one a group: the mean of those in it. Float64, on the CPU."""
    rows = rows.double().cpu()
    if groups is None:
        return rows
    groups = groups.cpu()
    sizes = groups.bincount()
    sums = torch.zeros(len(sizes), *rows.shape[1:], dtype=torch.double).index_add(0, groups, rows)
    return sums / sizes.view(-1, *[1] * (rows.dim() - 1))


def _scores_of_classes(
    dense: nn.Module, batches: Sequence[Example], device: torch.device | None, task: str | None
) -> Tensor | None:
    """Return the scores that a classifier gives all inputs, [N, classes]; None: it is none."""
    classifies = task == CLASSIFICATION.name
    scores = _scores(dense, batches, device) if classifies or task is None else None
    other = scores is not None and (are_values(scores) or are_labels(scores))
    return None if other and not classifies else scores


def _scores(network: nn.Module, batches: Sequence[Example], device: torch.device | None) -> Tensor | None:
    """Return the scores that a network gives all inputs, [N, classes]; None where it gives none."""
    network, found = on_device(network, device), []
    with evaluating(network), torch.inference_mode():
        for inputs in batches:
            scores = called(network, inputs, inputs)
            if not are_scores(scores):
                return None
            found.append(scores)
    return torch.cat(found)


def _maps(
    network: nn.Module, batches: Sequence[Example], device: torch.device | None, task: str | None
) -> list[tuple[Tensor, int]] | None:
    """Return of each batch the class of every pixel, [B, H, W], with the number of classes; None: it gives no maps."""
    network, found = on_device(network, device), []
    with evaluating(network), torch.inference_mode():
        for inputs in batches:
            maps, *_ = heads(called(network, inputs, inputs))
            if not isinstance(maps, Tensor) or maps.dim() != 4 or not maps.is_floating_point():
                return None
            found.append(said_classes(maps))
    return found
