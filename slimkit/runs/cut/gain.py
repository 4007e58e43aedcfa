"""Whether a retraining was of use: else what it began with is delivered."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from slimkit import out_of_memory
from slimkit.data.at_once import at_once
from slimkit.example import Example, batch_size
from slimkit.hardware import device_of, on_device
from slimkit.measure.quality import drop_from
from slimkit.modules import evaluating
from slimkit.quantity import number_of
from slimkit.recovery.calibration import Chunk
from slimkit.recovery.gap import gaps
from slimkit.results import Recovery
from slimkit.runs.given import Given
from slimkit.selection.ranking.context import Context
from slimkit.tasks.task import inputs_alone


def worse(given: Given, after: nn.Module, before: nn.Module, found: float | None, had: float | None) -> bool:
    """Tell whether a network does worse on validation than before its retraining.

    Where the metric is worse by no more than such images can tell, the loss there decides, which tells finer: in 25 of
    32 retrainings of a ResNet-8 on digits it fell, and in all of these it fell on test too; two of them, that one image
    of 144 spoke against, got 3 and 5 of 359 test images more right.

    Args:
        given: data and task.
        after, before: the network after and before.
        found, had: the metric of each on validation; None where it was not judged.
    """
    if found is None or had is None or given.dataset is None:
        return False
    task, split = given.dataset.task, given.dataset.validation
    if not (found < had if task.better == "higher" else found > had):
        return False
    if given.judge is not None or task.called is not inputs_alone:  # which give no loss of a network that is judged
        return True
    lost = drop_from(before, split, task, given.device)(after)
    return lost.value > lost.margin or not _loss(given, after) < _loss(given, before)


@torch.inference_mode()
def _loss(given: Given, model: nn.Module) -> float:
    """Return the mean loss of a network on validation; NaN where it is none of a network in evaluation mode."""
    assert given.dataset is not None
    split, context = given.dataset.validation, Context(task=given.dataset.task)
    model = on_device(model, given.device)
    total = images = 0.0
    with evaluating(model):
        for inputs, targets in split.batches(at_once(split)):
            try:
                loss = float(context.loss(model, inputs, targets, device_of(model)))
            except Exception as error:  # whatever somebody's own loss raises of what it is not given in training
                out_of_memory.pass_on(error)
                return math.nan
            total += loss * batch_size(inputs)
            images += batch_size(inputs)
    return total / images


def further(given: Given, after: nn.Module, before: nn.Module, held: Sequence[Example]) -> bool:
    """Tell whether a network is further from the original than before its retraining.

    Where there are inputs to spare they are ones that it did not see; of a few, those that both were fitted to: what is
    further there is not nearer anywhere.
    """
    chunks = [Chunk(one, held=True) for one in held]
    now, was = gaps(given.at_work, [on_device(model, given.device) for model in (after, before)], chunks)
    return not now <= was


def without_gain(trained: Recovery | None) -> tuple[str, ...]:
    """Say that a retraining was of no use."""
    if trained is None or trained.delivered:
        return ()
    judged = any(epoch.validation_accuracy is not None for epoch in trained.history)
    did = "did worse on validation" if judged else "was further from the original"
    more = "epochs" if judged else "inputs or epochs"
    return (
        f"After {number_of(trained.epochs, 'epoch')} of retraining the network {did} than before: "
        f"what it began with was delivered. Give more {more}, a lower learning rate, or a smaller batch.",
    )
