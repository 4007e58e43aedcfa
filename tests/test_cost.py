"""What a run says that it cost, against the passes that its networks did."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit import data
from slimkit.tasks import CLASSIFICATION, Task, psnr

WIDTH, IMAGES = 16, torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Trained(nn.Module):
    """A network that notes its width, and the number of images, whenever it is trained on some."""

    seen: ClassVar[list[tuple[int, int]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.scores = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and (width := len(self.features[0].weight)) < WIDTH:
            self.seen.append((width, len(images)))
        return self.scores(self.features(images).mean((2, 3)))


def macs(width: int) -> int:
    return width * (6 * 6 * 9 + 10)


def cost(images: int, width: int, taught: bool) -> int:
    return images * (3 * macs(width) + macs(WIDTH) * taught)


def compressed(targets: Any = None, task: Any = CLASSIFICATION, **settings: Any) -> Any:
    torch.manual_seed(0)
    net = Trained().eval()
    with torch.no_grad():
        net.scores.bias -= net(IMAGES).mean(0)  # so that there are images of every class
    if targets is None:
        targets = net(IMAGES).argmax(1)
    given = data.as_dataset(((IMAGES[:100], targets[:100]), (IMAGES[100:], targets[100:])), task=task)
    Trained.seen.clear()
    settings = {"epochs": 1, "round_to": 1, "onnx": False, **settings}
    if settings["epochs"]:
        settings |= {"batch_size": 50, "precision": "fp32"}
    return slimkit.compress(net, IMAGES[:1], dataset=given, **settings)


def keep(slim: nn.Module, dense: nn.Module) -> nn.Module:
    return slim


PSNR = Task.of(loss=F.mse_loss, metrics={"PSNR": psnr()}, better="higher", imitation=None)


@pytest.mark.parametrize(
    ("settings", "taught"),
    [
        ({}, True),
        ({"distill": False}, False),
        ({"task": PSNR, "targets": torch.rand(300, 10)}, False),
        ({"epochs": 0}, False),
        ({"retrain": keep, "epochs": 0}, False),
    ],
)
def test_a_retraining_costs_what_it_does_and_a_teacher_only_where_there_is_one(
    settings: dict[str, Any], taught: bool
) -> None:
    result = compressed(ratio=0.5, **settings)
    assert result.report.cost.training_macs == sum(cost(n, width, taught) for width, n in Trained.seen)
    assert result.report.cost.search_macs == 0 and len(Trained.seen) == (2 if settings.get("epochs", 1) else 0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "retrainings"),
    [
        ({"max_drop": 30}, 5),  # no smaller one passes, so that the one to deliver is retrained
        ({"max_drop": 75, "constants": "fold", "epochs": 10, "optimizer": "adamw", "learning_rate": 0.03}, 4),
    ],
)
def test_a_search_for_a_drop_costs_all_the_networks_that_it_trains(settings: dict[str, Any], retrainings: int) -> None:
    result = compressed(**settings)
    report, width, images = result.report, len(result.model.features[0].weight), 100 * settings.get("epochs", 1)
    assert report.recovery is not None and sum(n for _, n in Trained.seen) == retrainings * images
    own = cost(images, width, True)
    assert report.cost.training_macs == own
    assert report.cost.search_macs == sum(cost(n, width, True) for width, n in Trained.seen) - own > 0


@pytest.mark.parametrize("int8", [False, True])
def test_train_judges_no_network_that_it_does_not_report_on(int8: bool) -> None:
    """With int8 the untrained network was judged on validation and test, and the figures thrown away."""
    judged: list[int] = []

    class Judged(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_inference_mode_enabled():
                judged.append(len(self.weight))
            return super().forward(x)

    body = (Judged(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    settings: Any = {"method": "scratch", "round_to": 1, "epochs": 1, "batch_size": 512}
    report = slimkit.train(nn.Sequential(*body), "digits", 0.5, int8=int8, **settings).report
    assert set(judged) == {4} and report.before.accuracy is None and report.after.accuracy is not None
    assert (report.int8 is not None) == int8
