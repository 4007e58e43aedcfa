"""What layers alone tell of inputs and classes is a guess: data and the network's own run decide."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit import data, models, provenance
from slimkit.cli import main
from slimkit.errors import DataError
from slimkit.tasks import SEGMENTATION, Task

CODE = """
import torch
from torch import nn
from slimkit.tasks import Task, psnr

class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.ConvTranspose2d(12, 16, 4), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 8, 4, 2, 1),
            nn.ReLU(), nn.Conv2d(8, 1, 3, 1, 1),
        )

    def forward(self, latent):
        return self.body(latent.view(-1, 12, 1, 1))

class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 16 * 4)
        self.body = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(16, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))

    def forward(self, latent):
        return self.body(self.first(latent).view(-1, 16, 2, 2))

def pictures():
    split = lambda count: (torch.randn(count, 12), torch.randn(count, 1, 8, 8))
    return split(64), split(32)

def task():
    return Task.of(loss=nn.functional.mse_loss, metrics={"PSNR": psnr(2.0)}, better="higher", name="generate")
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "makes.py").write_text(CODE)
    return f"{tmp_path}/makes.py"


@pytest.mark.parametrize("name", ["Generator", "Decoder"])
def test_latent_vectors_are_not_measured_by_a_convolution_that_never_sees_them(
    code: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images were said to have 12 channels, the network to take 8: those of its last layer but one."""
    torch.manual_seed(0)
    torch.save(models.build(f"{code}:{name}", input_shape=(12,)).model.state_dict(), tmp_path / "net.pt")
    given = ["--arch", f"{code}:{name}", "--task", f"{code}:task", "--data", f"{code}:pictures", "--epochs", "0"]
    out = tmp_path / "out"
    assert main(["compress", str(tmp_path / "net.pt"), *given, "--max-macs", "0.7", "--out", str(out)]) == 0
    assert main(["evaluate", str(out / "model.safetensors"), *given[:6]]) == 0
    assert "PSNR" in capsys.readouterr().out


def test_a_generator_is_not_taken_for_a_network_of_large_images(code: str) -> None:
    assert provenance.of(models.build(f"{code}:Generator").model).input_shape is None


def test_images_that_a_network_cannot_take_are_refused_by_its_own_words() -> None:
    splits = [(torch.randn(32, 1, 8, 8), torch.arange(32) % 4)] * 2
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(DataError, match=r"data 'dataset': the network does not run on .* to have 3 channels.*\n  Give"):
        data.check_fits(data.as_dataset(splits), models.as_network(net).model)


class TwoHeads(nn.Module):
    """Scores of four classes, and one value, whose layer comes last."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.scores, self.value = nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)
        return self.scores(features), self.value(features)


class Gated(nn.Module):
    """A map of three classes; the gate's layer is the last linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate, self.maps = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 8), nn.Conv2d(8, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)
        return self.maps(features * torch.sigmoid(self.gate(features.mean((2, 3))))[:, :, None, None])


def _own() -> Task:
    loss: Callable[[Any, Any], Tensor] = nn.functional.mse_loss
    return Task.of(loss=loss, metrics={"error": lambda o, t: (o - t).square().mean(1)}, better="lower")


@pytest.mark.parametrize(
    ("net", "targets", "task", "classes"),
    [
        (TwoHeads, torch.arange(96) % 4, None, 4),
        (Gated, torch.randint(0, 3, (96, 8, 8)), SEGMENTATION, 3),
        (lambda: nn.Sequential(nn.Conv2d(1, 8, 8), nn.Flatten(), nn.Linear(8, 2)), torch.randn(96, 2), _own(), None),
    ],
)
def test_classes_are_those_of_the_scores_that_are_judged(
    net: Callable[[], nn.Module], targets: Tensor, task: Task | None, classes: int | None
) -> None:
    """Of the network with two heads "guessing among 1 classes does as well" was said."""
    torch.manual_seed(0)
    images = torch.randn(96, 1, 8, 8)
    dataset = data.as_dataset([(images, targets)] * 2, task=task)
    made = slimkit.compress(net(), images[:1], 0.3, dataset=dataset, epochs=0)
    assert made.report.arch.classes == classes
    assert provenance.of(made.model).classes == classes


def test_a_linear_layer_in_the_middle_tells_no_classes() -> None:
    assert provenance.of(models.as_network(Gated()).model).classes is None
