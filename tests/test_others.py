"""Outputs beside the main one are retrained to be the teacher's, and the report says how far from it they are."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_sample import stripes

import slimkit
from slimkit import data
from slimkit.tasks import CLASSIFICATION, SEGMENTATION, Task
from slimkit.training import Objective, Recipe

LABELS = torch.tensor([0, 1, 2, 0])
SCORES, WANTED = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
VALUES = torch.tensor([[0.0, 100.0], [1.0, 300.0], [2.0, 100.0], [5.0, 500.0]])
TEACHER = torch.tensor([[0.0, 200.0], [2.0, 200.0], [2.0, 400.0], [4.0, 400.0]])
OFF = ((0 + 1 + 0 + 1) / 4 / 2 + (1 + 1 + 9 + 1) / 4 / 1) / 2  # mean squares over variances 2 and 100 * 100


@dataclass
class Output:
    """As Hugging Face gives it."""

    logits: Tensor
    values: Tensor


def loss_of(returned: Any, wanted: Any, task: Task = CLASSIFICATION, labels: Tensor | None = LABELS) -> Tensor:
    return Objective(task, Recipe(epochs=1, distillation=0.25, temperature=2.0))(returned, labels, wanted)


@pytest.mark.parametrize(
    "made",
    [
        lambda scores, values: (scores, values),
        lambda scores, values: (scores, None, values),
        lambda scores, values: {"values": values, "logits": scores},
        lambda scores, values: {"logits": scores, "more": [(values,), torch.arange(4)]},
        Output,
    ],
)
def test_what_is_returned_beside_scores_is_imitated_by_its_error_over_the_variance_of_each_column(made: Any) -> None:
    alone = loss_of(SCORES, WANTED)
    torch.testing.assert_close(loss_of(made(SCORES, VALUES), made(WANTED, TEACHER)), alone + 0.25 * OFF)
    without = loss_of(SCORES, WANTED, labels=None) + OFF
    torch.testing.assert_close(loss_of(made(SCORES, VALUES), made(WANTED, TEACHER), labels=None), without)


CACHE = type("Cache", (), {"keys": VALUES})()


@pytest.mark.parametrize(
    ("returned", "wanted"),
    [
        ((SCORES, VALUES), WANTED),  # in training mode only
        ((SCORES, VALUES, VALUES), (WANTED, VALUES + 1)),
        ({"logits": SCORES, "one": VALUES}, {"logits": WANTED, "other": TEACHER}),
        ((SCORES, VALUES), (WANTED, TEACHER[:, :1])),  # narrower, or as many as the data makes
        ((SCORES, VALUES.long()), (WANTED, TEACHER.long())),
        ((SCORES, VALUES.mean()), (WANTED, TEACHER.mean())),
        ({"logits": SCORES, "cache": CACHE}, {"logits": WANTED, "cache": type("Cache", (), {"keys": TEACHER})()}),
    ],
)
def test_what_cannot_be_compared_is_left_alone(returned: Any, wanted: Any) -> None:
    assert torch.equal(loss_of(returned, wanted), loss_of(SCORES, WANTED))


def test_what_a_task_treats_itself_is_left_to_it() -> None:
    found = loss_of((SCORES, 2 * SCORES), (WANTED, SCORES))  # an auxiliary head
    torch.testing.assert_close(found, loss_of(SCORES, WANTED) + 0.3 * F.cross_entropy(2 * SCORES, LABELS))
    beside = (SCORES.square().mean(0) / SCORES.var(0, correction=0).clamp_min(1)).mean()  # the teacher alone tells
    found = loss_of((SCORES, 2 * SCORES), (WANTED, SCORES), labels=None)
    torch.testing.assert_close(found, loss_of(SCORES, WANTED, labels=None) + beside)
    for outputs in (lambda returned: (returned[0] + returned[1].sum(1, keepdim=True),), lambda returned: (returned,)):
        own = replace(CLASSIFICATION, outputs=outputs, loss=lambda outputs, targets: VALUES.mean(), imitation=_none)
        assert loss_of((SCORES, VALUES), (WANTED, TEACHER), own) == 0.75 * VALUES.mean()


def _none(outputs: Any, wanted: Any, temperature: float) -> Tensor:
    return torch.zeros(())


def test_what_a_teacher_leaves_out_or_never_changes_ruins_no_loss() -> None:
    """Scores that are masked by minus infinity; a column that is the same for all inputs; a batch of one."""
    values = VALUES.clone().requires_grad_()
    masked = (~torch.eye(4, 2).bool()).float()
    wanted = TEACHER.masked_fill(masked == 0, -torch.inf)
    loss = loss_of((SCORES, values.masked_fill(masked == 0, -torch.inf)), (WANTED, wanted))
    loss.backward()  # type: ignore[no-untyped-call]
    assert (
        loss.isfinite() and values.grad is not None and torch.equal(values.grad != 0, (wanted != VALUES) & (masked > 0))
    )
    constant = torch.tensor([[0.0, 0.1]]).expand(4, 2)
    loss = loss_of((SCORES, constant + torch.tensor([0.0, 0.2])), (WANTED, constant))
    torch.testing.assert_close(loss, loss_of(SCORES, WANTED) + 0.25 * 0.04 / 2)
    one = loss_of((SCORES[:1], constant[:1] + 1), (WANTED[:1], constant[:1]), labels=LABELS[:1])
    torch.testing.assert_close(one, loss_of(SCORES[:1], WANTED[:1], labels=LABELS[:1]) + 0.25)


class Two(nn.Module):
    """Tells classes, and from the same features values."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.scores, self.values = nn.Linear(576, 3), nn.Linear(576, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.scores(features), self.values(features)


def off(model: nn.Module, dense: nn.Module, images: Tensor) -> float:
    with torch.no_grad():
        wanted, found = dense(images)[1], model(images)[1]
    return float(((found - wanted).square().mean(0) / wanted.var(0)).mean())


@pytest.mark.parametrize("labels", [True, False])
def test_retraining_keeps_a_second_output_near_the_originals(labels: bool) -> None:
    """It had moved away, to 20 and 30 times its variance, and nothing was said."""
    torch.manual_seed(0)
    dense = Two().eval()
    dense.values.weight.data *= 30  # to a variance of 2
    [(images, classes)] = stripes(512).batches(512)
    given: dict[str, Any] = {"calibration": images}
    if labels:
        given = {"dataset": ((images[:384], classes[:384]), (images[384:], classes[384:]))}
    none, some = (
        slimkit.compress(dense, images[:1], 0.5, **given, **pace, round_to=1, onnx=False)
        for pace in ({"epochs": 0}, {"epochs": 5, "batch_size": 32})
    )
    assert off(some.model, dense, images) < 2
    assert UNSEEN in " ".join(none.report.warnings)
    told = any("main output was retrained to be the original's: it is off by" in s for s in some.report.warnings)
    assert some.report.recovery is not None and told is some.report.recovery.delivered


UNSEEN = "What the network returns beside its main output is off by "


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, True),
        ({"recover": False}, True),
        ({"retrain": lambda slim, dense: slim}, True),
        ({"dataset": None, "calibration": torch.rand(96, 1, 6, 6)}, True),
        (
            {
                "task": Task.of(
                    loss=_none, metrics={"both": lambda o, t: t == 0}, better="higher", outputs=lambda r: (r,)
                )
            },
            False,
        ),
        ({"dataset": None}, False),
    ],
)
def test_how_far_off_a_second_output_is_is_told_without_a_retraining_too(given: dict[str, Any], told: bool) -> None:
    torch.manual_seed(0)
    dense, images = Two().eval(), torch.rand(96, 1, 6, 6)
    task = given.pop("task", None)
    dataset = data.as_dataset([(images, torch.arange(96) % 3)] * 2, task=task)
    found = slimkit.compress(dense, images[:1], 0.5, **{"dataset": dataset, **given}, epochs=0, round_to=1, onnx=False)
    said = [one for one in found.report.warnings if one.startswith(UNSEEN)]
    assert all(("no metric looks at it" in one) is ("calibration" not in given) for one in said)
    assert len(said) == told
    if told and "calibration" not in given:
        assert float(said[0].removeprefix(UNSEEN).partition("%")[0]) == pytest.approx(
            100 * off(found.model, dense, images), abs=0.05, rel=0.02
        )


def test_what_nothing_trains_is_told() -> None:
    torch.manual_seed(0)
    images = torch.rand(96, 1, 6, 6)
    given = ((images, torch.arange(96) % 3), (images, torch.arange(96) % 3))
    settings: dict[str, Any] = {"dataset": given, "epochs": 1, "batch_size": 16, "distill": False, "onnx": False}
    found = slimkit.compress(Two().eval(), images[:1], 0.5, **settings)
    assert any("was not retrained, for want of a teacher: it is off by" in said for said in found.report.warnings)
    alone = nn.Sequential(Two().features, nn.Linear(576, 3)).eval()
    found = slimkit.compress(alone, images[:1], 0.5, **settings)
    assert not any("main output" in said for said in found.report.warnings)


def test_an_auxiliary_head_of_maps_is_left_to_its_labels() -> None:
    maps, labels = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    one, other = ({"out": maps, "aux": maps.flip(0)}, {"out": maps + 1, "aux": maps})
    found = loss_of(one, other, SEGMENTATION, labels) - loss_of(maps, maps + 1, SEGMENTATION, labels)
    torch.testing.assert_close(found, 0.5 * F.cross_entropy(maps.flip(0), labels))
