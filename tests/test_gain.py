"""Whether a retraining is delivered, of networks whose scores are known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimkit.data.tensor_split import TensorSplit
from slimkit.runs.cut import gain
from slimkit.tasks import CLASSIFICATION, Task

IMAGES = 144


class Scores(nn.Module):
    """Gives images their class, number by number, with so much confidence, but for the first few."""

    def __init__(self, wrong: int, confidence: float) -> None:
        super().__init__()
        scores = confidence * torch.eye(10).repeat(15, 1)[:IMAGES]
        scores[:wrong] = scores[:wrong].roll(1, 1)
        self.scores = nn.Parameter(scores)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.scores[numbers]


def worse(after: Scores, before: Scores, task: Task = CLASSIFICATION, judge: Any = None) -> bool:
    numbers = torch.arange(IMAGES)
    given = SimpleNamespace(
        dataset=SimpleNamespace(task=task, validation=TensorSplit(images=numbers, labels=numbers % 10)),
        judge=judge,
        device=None,
    )
    found = [float((net(numbers).argmax(1) == numbers % 10).double().mean()) for net in (after, before)]
    return gain.worse(given, after, before, *found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "before", "thrown_away"),
    [
        ((1, 3.0), (0, 1.0), False),  # one image is chance, and the loss fell
        ((1, 3.0), (0, 3.0), True),
        ((1, 1.0), (0, 3.0), True),
        ((9, 3.0), (0, 1.0), True),  # nine are none, whatever the loss
        ((0, 1.0), (1, 3.0), False),
        ((1, 1.0), (1, 3.0), False),  # and where the metric says nothing, a retraining was asked for
    ],
)
def test_what_the_metric_cannot_tell_is_told_by_the_loss(
    after: tuple[int, float], before: tuple[int, float], thrown_away: bool
) -> None:
    assert worse(Scores(*after), Scores(*before)) is thrown_away


def _of_training_alone(outputs: Any, targets: Any) -> Tensor:
    raise TypeError("a dict of losses was expected")


@pytest.mark.parametrize("how", ["raises", "of the network", "judged elsewhere"])
def test_where_there_is_no_loss_of_a_judged_network_the_metric_decides(how: str) -> None:
    task = {
        "raises": replace(CLASSIFICATION, loss=_of_training_alone),
        "of the network": replace(CLASSIFICATION, called=lambda inputs, targets: inputs),
    }.get(how, CLASSIFICATION)
    judge = (lambda model: None) if how == "judged elsewhere" else None
    assert worse(Scores(1, 3.0), Scores(0, 1.0), task, judge)
