"""What is but guessed of a network, as the mean of its published weights, changes no data that somebody gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

import slimkit
from slimkit import data, models, provenance

OWN = {"mean": [0.25, 0.5, 0.75], "std": [1.0, 0.5, 0.25]}
IMAGENET = [0.485, 0.456, 0.406]
FEW: dict[str, Any] = {"epochs": 0, "onnx": False, "recover": False, "ranking": "group-norm"}


def part(count: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 256, (count, 3, 24, 24), dtype=torch.uint8), torch.arange(count) % 4


def parts() -> tuple[tuple[Tensor, Tensor], ...]:
    return part(24), part(12), part(12)


def live(folder: Path) -> nn.Module:
    return resnet18(num_classes=4).eval()


def read(folder: Path) -> nn.Module:
    torch.save(resnet18(num_classes=4).state_dict(), folder / "net.pt")
    return models.load(folder / "net.pt").model


def scale_of(report: Any) -> Any:
    said = report.arch.normalisation
    return said and {"mean": list(said.mean), "std": list(said.std)}


@pytest.mark.parametrize("net", [live, read])
def test_data_that_is_given_keeps_its_own(net: Callable[[Path], nn.Module], tmp_path: Path) -> None:
    dataset = data.as_dataset(parts()).normalised(OWN)
    report = slimkit.compress(net(tmp_path), torch.randn(1, 3, 24, 24), 0.3, dataset=dataset, **FEW).report
    assert scale_of(report) == OWN


@pytest.mark.parametrize("net", [live, read])
def test_pictures_have_their_own_statistics_and_floats_are_as_they_are(
    net: Callable[[Path], nn.Module], tmp_path: Path
) -> None:
    image, uint8 = torch.randn(1, 3, 24, 24), parts()
    floats = tuple((images / 255, labels) for images, labels in uint8)
    own = data.as_dataset(uint8).normalisation
    assert scale_of(slimkit.compress(net(tmp_path), image, 0.3, dataset=uint8, **FEW).report) == own
    for given in ({"dataset": floats}, {"calibration": uint8[0][0] / 255}):
        found = slimkit.compress(net(tmp_path), image, 0.3, **given, **FEW)
        assert scale_of(found.report) is None
        assert provenance.of(found.model).use.crop is None


def test_what_its_owner_says_is_known(tmp_path: Path) -> None:
    net = live(tmp_path)
    provenance.attach(net, provenance.Provenance(normalisation=OWN))
    dataset = data.as_dataset(parts())
    report = slimkit.compress(net, torch.randn(1, 3, 24, 24), 0.3, dataset=dataset, **FEW).report
    assert scale_of(report) == OWN


def test_what_is_opened_by_name_is_read_as_for_the_published_weights(tmp_path: Path) -> None:
    from PIL import Image

    for number, (picture, label) in enumerate(zip(*part(24), strict=True)):
        folder = tmp_path / "pictures" / str(int(label))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    asked = {"data": f"folder:{tmp_path / 'pictures'}"}
    report = slimkit.compress(live(tmp_path), torch.randn(1, 3, 24, 24), 0.3, **asked, **FEW).report
    assert scale_of(report)["mean"] == IMAGENET


def test_a_crop_that_its_owner_says_stays(tmp_path: Path) -> None:
    net = live(tmp_path)
    provenance.attach(net, provenance.Provenance(use=provenance.Use(crop=1.0)))
    floats = tuple((images / 255, labels) for images, labels in parts())
    found = slimkit.compress(net, torch.randn(1, 3, 24, 24), 0.3, dataset=floats, **FEW)
    assert scale_of(found.report) is None and provenance.of(found.model).use.crop == 1.0
