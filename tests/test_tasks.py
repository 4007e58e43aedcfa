"""Tasks: losses and metrics against their definitions, outputs read as networks give them, intervals that hold."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit import data, tasks
from slimkit.errors import DataError, SpecError, TrainingError
from slimkit.measure.agreement import agreement
from slimkit.measure.quality import drop_from, evaluate
from slimkit.tasks import CLASSIFICATION, SEGMENTATION, Metric, Task, measurement
from slimkit.training import Recipe, train
from slimkit.training.loss import Objective


class Batches:
    """A split of fixed tensors."""

    def __init__(self, inputs: Any, targets: Any, size: int | None = None) -> None:
        self.inputs, self.targets, self.size = inputs, targets, size

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, batch_size: int, *, start: int = 0, **how: Any) -> Any:
        size = self.size or batch_size
        parts = [self.inputs.split(size)] if isinstance(self.inputs, Tensor) else [x.split(size) for x in self.inputs]
        inputs = parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
        return iter(list(zip(inputs, self.targets.split(size), strict=True))[start:])


def masks(count: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Random logits [N, classes, 4, 5] and masks with some pixels of no class."""
    random = torch.Generator().manual_seed(0)
    targets = torch.randint(classes, (count, 4, 5), generator=random)
    targets[:, 0, :2] = 255
    return torch.randn(count, classes, 4, 5, generator=random), targets


def iou_by_hand(logits: Tensor, targets: Tensor) -> float:
    said, found = logits.argmax(1), []
    for c in range(logits.shape[1]):
        counted = targets != 255
        both = ((said == c) & (targets == c) & counted).sum()
        either = (((said == c) | (targets == c)) & counted).sum()
        found.append(float(both / either))
    return sum(found) / len(found)


@dataclass
class Output:
    """As Hugging Face gives it."""

    loss: None
    logits: Tensor
    hidden_states: tuple[Tensor, ...]


class Google(NamedTuple):
    """As torchvision's GoogLeNet gives it in training."""

    logits: Tensor
    aux_logits2: Tensor | None
    aux_logits1: Tensor | None


A, B, C, D = torch.zeros(2, 3), torch.ones(2, 3), torch.full((2, 3), 2.0), torch.zeros(2, 7)
PAIR = (A, B)


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (A, [A]),
        ((A, None, B), [A, B]),
        (Google(A, B, C), [A, B, C]),
        (Google(A, None, None), [A]),
        ((A, D), [A]),  # features, no head
        ([A, (B, C)], [A]),
        (({"features": D}, None, A, B), [A, B]),
        ((PAIR, (D,)), [PAIR]),
        ({"out": A, "aux": B}, [A, B]),
        ({"aux": B, "out": A}, [A, B]),
        ({"features": D, "logits": A}, [A]),
        ({"scores": A, "features": D}, [A]),
        (Output(None, A, (D,)), [A]),
        ({"nothing": 3}, [{"nothing": 3}]),
    ],
)
def test_the_main_output_is_found_and_the_auxiliary_heads(returned: Any, found: list[Any]) -> None:
    assert [id(entry) for entry in tasks.heads(returned)] == [id(returned if type(f) is dict else f) for f in found]


def test_an_auxiliary_head_is_weighed_as_the_task_says() -> None:
    logits, targets = masks()
    other = logits.flip(0)
    loss = Objective(SEGMENTATION, Recipe(epochs=1))({"out": logits, "aux": other}, targets)
    cross_entropy = [F.cross_entropy(maps, targets, ignore_index=255) for maps in (logits, other)]
    torch.testing.assert_close(loss, cross_entropy[0] + 0.5 * cross_entropy[1])


class OwnLoss(nn.Module):
    """As Hugging Face's models: with labels it gives its loss, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.layer(values)
        return logits if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Silent(OwnLoss):
    """A teacher that nobody asks."""

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Any:
        raise AssertionError("asked")


def test_a_network_is_trained_by_the_loss_that_it_gives_itself() -> None:
    torch.manual_seed(0)
    split, net = Batches(torch.randn(12, 5), torch.arange(12) % 3), OwnLoss()
    own = Task.of(
        loss=lambda returned, targets: returned["loss"],
        metrics={"accuracy": lambda returned, targets: returned["logits"].argmax(1) == targets},
        better="higher",
        called=lambda inputs, targets: {"values": inputs, "labels": targets},
        outputs=lambda returned: (returned,),
        imitation=None,
    )
    recipe = Recipe(epochs=2, batch_size=4, distillation=0.5)
    found = train(net, split, recipe, task=own, teacher=Silent()).model  # nobody to imitate
    expected = train(net, split, recipe, task=CLASSIFICATION).model
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert not torch.equal(found.layer.weight, net.layer.weight)  # type: ignore[union-attr]
    assert evaluate(found, split, own)["accuracy"].value == evaluate(found, split)["accuracy"].value


def test_a_segmentation_is_distilled_pixel_by_pixel() -> None:
    logits, targets = masks()
    wanted = logits.flip(0)
    settings = Recipe(epochs=1, distillation=0.25, temperature=2.0)
    p, q = (wanted / 2).softmax(1), (logits / 2).softmax(1)
    soft = 4 * (p * (p / q).log()).sum(1).mean()  # mean over images and pixels
    hard = F.cross_entropy(logits, targets, ignore_index=255)
    found = Objective(SEGMENTATION, settings)({"out": logits}, targets, {"out": wanted})
    torch.testing.assert_close(found, 0.75 * hard + 0.25 * soft)


def test_a_batch_without_a_labelled_pixel_has_no_loss() -> None:
    logits, targets = masks()
    assert SEGMENTATION.loss(logits.requires_grad_(), torch.full_like(targets, 255)) == 0


def test_one_map_is_a_class_against_the_rest() -> None:
    logits, targets = torch.randn(3, 1, 4, 4), torch.randint(2, (3, 4, 4))
    wanted = F.binary_cross_entropy_with_logits(logits[:, 0], targets.float())
    torch.testing.assert_close(SEGMENTATION.loss(logits, targets), wanted)
    assert SEGMENTATION.misfit(logits, targets, 2) is None


def test_smaller_maps_are_enlarged_to_the_masks() -> None:
    logits, targets = masks()
    large = F.interpolate(logits, size=(8, 10), mode="bilinear")
    wide = targets.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(SEGMENTATION.loss(logits, wide), SEGMENTATION.loss(large, wide))


@pytest.mark.parametrize("size", [1, 4, 6])
def test_mean_iou_is_that_of_all_pixels_whatever_the_batch(size: int) -> None:
    logits, targets = masks()
    found = evaluate(nn.Identity(), Batches(logits, targets, size), SEGMENTATION)
    assert list(found) == ["mean IoU", "pixel accuracy"]
    iou, pixels = found.values()
    assert math.isclose(iou.value, iou_by_hand(logits, targets), rel_tol=1e-6)
    counted = targets != 255
    assert math.isclose(pixels.value, float((logits.argmax(1) == targets)[counted].float().mean()), rel_tol=1e-6)
    for figure in (iou, pixels):
        low, high = figure.interval or (1, 0)
        assert figure.images == 6 and low < figure.value < high


@pytest.mark.parametrize(("hits", "images"), [(0, 10), (10, 10), (90, 100), (1, 1), (500, 1000)])
def test_wilsons_interval_solves_its_equation(hits: int, images: int) -> None:
    """Its ends are the shares p whose own deviation just reaches the observed one: |h/n - p| = z sqrt(p(1-p)/n)."""
    found = measurement.share(hits, images)
    for end in found.interval or ():
        variance = end * (1 - end) / images
        assert math.isclose((found.value - end) ** 2, 1.959964**2 * variance, abs_tol=1e-12)


@pytest.mark.parametrize("kind", ["share", "mean", "sums"])
def test_an_interval_holds_the_truth_in_about_95_of_100_cases(kind: str) -> None:
    random = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(200):
        if kind == "share":
            found = measurement.share(int((torch.rand(80, generator=random) < 0.7).sum()), 80)
        elif kind == "mean":
            found = measurement.mean(0.7 + torch.randn(80, generator=random))
        else:  # a ratio of sums: 0.7 of a random number of pixels
            pixels = torch.randint(5, 50, (80,), generator=random).double()
            hits = 0.7 * pixels + torch.randn(80, generator=random).double()
            found = measurement.of_sums(torch.stack([hits, pixels], 1), lambda sums: float(sums[0] / sums[1]))
        low, high = found.interval or (1, 0)
        held += low <= 0.7 <= high
    assert 180 <= held <= 198  # 190 expected, deviation 3


def test_a_metric_of_the_users_own_is_a_plain_function() -> None:
    outputs, targets = torch.randn(7, 2), torch.randn(7, 2)
    task = Task.of(
        loss=F.l1_loss,
        metrics={
            "mean error": lambda out, wanted: (out - wanted).abs().mean(1),
            "near": lambda out, wanted: (out - wanted).abs().amax(1) < 1,
            "batch": F.mse_loss,
        },
        better="lower",
    )
    assert task.metric == "mean error" and task.better == "lower"
    found = evaluate(nn.Identity(), Batches(outputs, targets, 3), task)
    errors = (outputs - targets).abs()
    assert math.isclose(found["mean error"].value, float(errors.mean()), rel_tol=1e-6)
    assert found["near"] == measurement.share(int((errors.amax(1) < 1).sum()), 7)
    assert found["batch"].interval is None and found["batch"].images == 7
    assert math.isclose(found["batch"].value, float((outputs - targets).square().mean()), rel_tol=1e-6)


def test_psnr_is_that_of_the_mean_squared_error() -> None:
    task = Task.of(loss=F.mse_loss, metrics={"PSNR": tasks.psnr()}, better="higher")
    targets = torch.rand(4, 3, 5, 5)
    found = evaluate(nn.Identity(), Batches(targets + 0.1, targets), task)["PSNR"]
    assert math.isclose(found.value, 20, abs_tol=1e-4)  # 10 log10(1 / 0.01)
    assert evaluate(nn.Identity(), Batches(targets, targets), task)["PSNR"].value == 100


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_metric_that_is_no_number_is_named(wrong: float) -> None:
    task = Task.of(loss=F.mse_loss, metrics={"odd": lambda out, _: out.mean(1) * wrong}, better="higher")
    with pytest.raises(DataError, match="metric 'odd': it gave (nan|inf) for a batch of 4"):
        evaluate(nn.Identity(), Batches(torch.ones(4, 2), torch.ones(4, 2)), task)
    of_sum = Metric(per_image=lambda out, _: out, of_sum=lambda sums: float(sums[0]) * wrong)
    task = Task.of(loss=F.mse_loss, metrics={"odd": of_sum}, better="higher")
    with pytest.raises(DataError, match="metric 'odd': it gave (nan|inf) for 4 images"):
        evaluate(nn.Identity(), Batches(torch.ones(4, 2), torch.ones(4, 2)), task)


@pytest.mark.parametrize(
    ("loss", "what"),
    [(lambda out, wanted: (out - wanted).square(), r"numbers \[4, 2\]"), (lambda out, wanted: 0.5, "float")],
)
def test_a_loss_that_is_not_one_tensor_is_named(loss: Any, what: str) -> None:
    objective = Objective(Task.of(loss=loss, metrics={"PSNR": tasks.psnr()}, better="higher"), Recipe(epochs=1))
    with pytest.raises(TrainingError, match=f"the loss of the task .* gave {what} for a batch"):
        objective(torch.ones(4, 2), torch.ones(4, 2))


def _late(what: str, share: float | None) -> None:
    assert not any(word in what for word in ("trac", "epoch", "calibrat", "remov")), f"it was {what} already"


@pytest.mark.parametrize("call", ["compress", "train"])
@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda out, wanted: F.cross_entropy(out, wanted, reduction="none"), r"gave numbers \[2\] for a batch"),
        (lambda out, wanted: 0.5, "gave float for a batch"),
        (lambda out, wanted: F.cross_entropy(out.detach(), wanted), "gives no gradients"),
    ],
    ids=["one an image", "float", "detached"],
)
def test_a_loss_that_cannot_be_used_is_refused_before_work_begins(call: str, loss: Any, said: str) -> None:
    task = Task.of(loss=loss, metrics={"right": lambda out, wanted: out.argmax(1) == wanted}, better="higher")
    given = data.as_dataset(((torch.randn(64, 1, 8, 8), torch.arange(64) % 4),) * 2, task=task)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(TrainingError, match=f"the loss of the task 'own' {said}"):
        if call == "train":
            slimkit.train(net, given, 0.5, epochs=1, round_to=1, progress=_late)
        else:
            slimkit.compress(net, torch.randn(1, 1, 8, 8), 0.5, dataset=given, epochs=1, progress=_late)


def test_a_loss_of_outputs_alone_is_joined_with_a_teachers() -> None:
    task = Task.of(
        loss=lambda out, wanted: out.square().mean(),
        metrics={"PSNR": tasks.psnr()},
        better="higher",
        imitation=lambda one, other, temperature: F.mse_loss(one.float(), other),
    )
    objective = Objective(task, Recipe(epochs=1, distillation=0.5))
    value = objective(torch.ones(4, 2, dtype=torch.bfloat16), torch.ones(4, 2), torch.zeros(4, 2))
    assert value.dtype == torch.float32 and value == 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"loss": 3}, "loss is int"),
        ({"metrics": {}}, "needs one to compare"),
        ({"metrics": {"x": 3}}, "metric 'x' is int"),
        ({"better": "more"}, "'higher' or 'lower'"),
    ],
)
def test_a_task_that_is_none_says_why(given: dict[str, Any], why: str) -> None:
    whole = {"loss": F.mse_loss, "metrics": {"error": F.mse_loss}, "better": "lower", **given}
    with pytest.raises(SpecError, match=why):
        Task.of(**whole)


def test_a_metric_must_give_one_number_an_image() -> None:
    task = Task.of(loss=F.mse_loss, metrics={"odd": lambda a, b: a.flatten()}, better="lower")
    with pytest.raises(DataError, match=r"'odd': it gave \[14\] for a batch of 7"):
        evaluate(nn.Identity(), Batches(torch.zeros(7, 2), torch.zeros(7, 2)), task)
    assert Metric(lambda a, b: a).rows("x", torch.zeros(7), None, 7).shape == (7,)


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "classes", "why"),
    [
        (CLASSIFICATION, torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), 3, r"class scores per image.*\[2, 3, 4, 4\]"),
        (CLASSIFICATION, [1], torch.tensor([0, 1]), 3, "but list"),
        (CLASSIFICATION, torch.zeros(2, 3), torch.zeros(2), 3, r"whole numbers \[N\], but these are float32"),
        (CLASSIFICATION, torch.zeros(2, 3), torch.zeros(2, 4, 4).long(), 3, "one class number per image"),
        (CLASSIFICATION, torch.zeros(2, 3), torch.tensor([0, 3]), None, "from 0 to 3, the network has classes 0 to 2"),
        (CLASSIFICATION, torch.zeros(2, 3), torch.tensor([-1, 1]), None, "class number -1 is below 0"),
        (CLASSIFICATION, torch.zeros(2, 3), torch.tensor([0, 1]), 10, "10 classes, the network 3"),
        (SEGMENTATION, torch.zeros(2, 3), torch.zeros(2, 4, 4).long(), 3, r"map a class.*\[2, 3\]"),
        (SEGMENTATION, torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), 3, "per pixel"),
        (SEGMENTATION, torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), 7), None, "from 7 to 7, the network has 0 to 2"),
        (SEGMENTATION, torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4).long(), 21, "21 classes, the network 3"),
    ],
)
def test_what_is_not_of_a_task_is_told(
    task: Task, outputs: Any, targets: Tensor, classes: int | None, why: str
) -> None:
    assert re.search(why, task.misfit(outputs, targets, classes) or "")


@pytest.mark.parametrize(
    ("task", "outputs", "targets"),
    [
        (CLASSIFICATION, torch.zeros(6, 3), torch.zeros(6).long()),
        (SEGMENTATION, torch.zeros(6, 3, 4, 4), torch.zeros(6, 4, 4).long()),
        (Task.of(loss=F.mse_loss, metrics={"right": lambda a, b: a.argmax(1) == b}, better="higher"),
         torch.zeros(6, 3), torch.zeros(6).long()),
    ],
)  # fmt: skip
def test_nothing_is_judged_by_outputs_that_are_no_numbers(task: Task, outputs: Tensor, targets: Tensor) -> None:
    outputs[-1, 1] = math.nan  # in the last batch, and of one class
    for measured in (evaluate, drop_from):
        with pytest.raises(DataError, match="outputs hold NaN"):
            measured(nn.Identity(), Batches(outputs, targets, 2), task)
    nothing = torch.full((4, 3), math.nan)
    found = agreement(nn.Identity(), nn.Identity(), [nothing])
    assert found is not None and found.value == 0


def test_detections_that_are_no_numbers_are_told() -> None:
    found = {"boxes": torch.full((1, 4), math.nan), "labels": torch.tensor([1]), "scores": torch.tensor([0.5])}
    assert "NaN" in (tasks.DETECTION.misfit([found], [found], None) or "")


def test_tasks_are_found_by_name_and_in_files(tmp_path: Path) -> None:
    assert tasks.open("segmentation") is SEGMENTATION
    file = tmp_path / "mine.py"
    file.write_text(
        "from slimkit.tasks import Task\n"
        "from torch.nn.functional import mse_loss\n"
        "def make():\n    return Task.of(loss=mse_loss, metrics={'error': mse_loss}, better='lower', name='mine')\n"
        "def wrong():\n    return 3\n"
    )
    assert tasks.open(f"{file}:make").name == "mine"
    for name, why in (
        (f"{file}:wrong", "returned int, not a task"),
        (f"{file}:absent", "(?s)has no 'absent'.*It offers: .*make"),
        (f"{tmp_path}/none.py:make", "there is no file"),
        ("segmentaton", "did you mean segmentation"),
    ):
        with pytest.raises(SpecError, match=why):
            tasks.open(name)


class Two(nn.Module):
    """Adds what it makes of a signal and of a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.line = nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Linear(3, 4)

    def forward(self, signal: Tensor, vector: Tensor) -> dict[str, Tensor]:
        return {"out": (F.relu(self.norm(self.conv(signal))).mean(2) + self.line(vector)).sum(1)}


def test_a_network_of_two_inputs_is_trained_on_numbers() -> None:
    torch.manual_seed(0)
    signal, vector = torch.randn(64, 2, 8), torch.randn(64, 3)
    split = Batches([signal, vector], vector.sum(1) + 1)
    task = Task.of(loss=F.mse_loss, metrics={"error": lambda a, b: (a - b).square()}, better="lower")
    recipe = Recipe(epochs=20, batch_size=16, learning_rate=0.02, device="cpu", precision="fp32")
    before = evaluate(Two(), split, task)["error"].value
    trained = train(Two(), split, recipe, task=task)
    assert trained.images == 20 * 64
    assert evaluate(trained.model, split, task)["error"].value < before / 4


def test_labels_that_are_no_classes_cannot_be_smoothed() -> None:
    task = Task.of(loss=F.mse_loss, metrics={"error": F.mse_loss}, better="lower")
    with pytest.raises(SpecError, match="label_smoothing is 0.1: the targets of the task 'own'"):
        train(
            nn.Linear(2, 2),
            Batches(torch.zeros(4, 2), torch.zeros(4, 2)),
            Recipe(epochs=1, label_smoothing=0.1),
            task=task,
        )


def test_without_targets_the_teacher_is_followed() -> None:
    logits, wanted = torch.randn(5, 4), torch.randn(5, 4)
    criterion = Objective(CLASSIFICATION, Recipe(epochs=1, distillation=0.5))
    torch.testing.assert_close(criterion(logits, None, wanted), CLASSIFICATION.imitation(logits, wanted, 4.0))
    with pytest.raises(TrainingError, match="no targets, and there is no teacher"):
        criterion(logits, None)
