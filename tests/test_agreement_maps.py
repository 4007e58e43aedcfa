"""Agreement of networks for segmentation, without labels: mean IoU of their class maps, image by image."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit import provenance
from slimkit.errors import BudgetError, DataError
from slimkit.intervals import wilson
from slimkit.measure.agreement import agreement, disagreement_with
from slimkit.report.numbers import percent
from slimkit.report.page import run_page
from slimkit.report.verdict import verdict
from slimkit.runs.cut import enough
from slimkit.settings import CompressSpec
from slimkit.tasks import SEGMENTATION
from slimkit.tasks.segmentation import mean_iou, overlap
from tests.shapes import Segmenter, shapes


class Says(nn.Module):
    """A network that puts pixels into these classes, whatever it is called with; as one map where there are two."""

    def __init__(self, classes: Tensor, count: int, one_map: bool = False) -> None:
        super().__init__()
        maps = F.one_hot(classes, count).movedim(-1, 1).float()
        self.maps = maps[:, 1:] - 0.5 if one_map else maps

    def forward(self, images: Tensor) -> Any:
        return {"out": self.maps[: len(images)]}


def drawn(count: int, seed: int, images: int = 8) -> Tensor:
    return torch.randint(count, (images, 6, 6), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("one_map", [False, True])
def test_a_rare_class_that_is_gone_is_told(one_map: bool) -> None:
    """Of 99 % background as many pixels agree with a network that says nothing else."""
    wanted = torch.zeros(40, 10, 10, dtype=torch.long)
    wanted[:, 0, 0] = 1
    dense, images = Says(wanted, 2, one_map), [torch.zeros(40, 1)]
    found = agreement(dense, dense, images, task="segmentation")
    assert found is not None and (found.value, found.images, found.interval) == (1.0, 40, (1.0, 1.0))
    gone = Says(torch.zeros_like(wanted), 2, one_map)
    found = agreement(dense, gone, images, task="segmentation")
    assert found is not None and found.value == pytest.approx(0.99 / 2)
    lost = disagreement_with(dense, images, task="segmentation")(gone)
    assert lost.value == pytest.approx(50.5) and lost.images == 40


def test_against_masks_no_more_is_lost_than_agreement_lacks() -> None:
    for seed in range(20):
        masks, dense, slim = (drawn(3, 3 * seed + part) for part in range(3))
        slim = torch.where(drawn(2, seed) > 0, slim, dense)
        lost = disagreement_with(Says(dense, 3), [torch.zeros(8, 1)], task="segmentation")(Says(slim, 3))
        iou = [mean_iou(overlap(Says(said, 3).maps, masks).sum(0)) for said in (dense, slim)]
        assert 100 * abs(iou[0] - iou[1]) <= lost.value + 1e-9


def test_images_are_the_observations() -> None:
    """A whole image is right or wrong here, so that the interval is one of 8 images, not of 288 pixels."""
    dense = drawn(2, 0)
    slim = torch.where((torch.arange(8) < 4)[:, None, None], dense, 1 - dense)
    found = agreement(Says(dense, 2), Says(slim, 2), [torch.zeros(8, 1)], task="segmentation")
    assert found is not None and found.interval is not None
    assert found.interval[1] - found.interval[0] > 0.6 * (wilson(0.5, 8)[1] - wilson(0.5, 8)[0])
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    found = agreement(Says(dense, 2), Says(slim, 2), [torch.zeros(8, 1)], task="segmentation", groups=groups)
    assert found is not None and found.images == 3 and found.value < 0.25  # two of three wrong: each counts once


def test_no_number_is_no_class() -> None:
    dense, images = Says(drawn(2, 0), 2), [torch.zeros(8, 1)]
    nothing = Says(drawn(2, 0), 2)
    nothing.maps = torch.full_like(nothing.maps, torch.nan)
    for one, other in ((dense, nothing), (nothing, nothing)):
        found = agreement(one, other, images, task="segmentation")
        assert found is None or found.value == 0


@pytest.mark.parametrize("output", [torch.zeros(8, 3, 4, 4), torch.randn(8, 3), torch.randn(8, 3, 4)])
def test_where_there_are_no_maps_or_one_class_a_drop_is_refused(output: Tensor) -> None:
    class Gives(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return output

    assert agreement(Gives(), Gives(), [torch.zeros(8, 1)], task="segmentation") is None
    with pytest.raises(DataError, match=r"no class maps \[N, classes, H, W\], or the same class everywhere"):
        disagreement_with(Gives(), [torch.zeros(8, 1)], task="segmentation")


def test_without_a_task_maps_are_no_classes() -> None:
    dense = Says(drawn(3, 0), 3)
    assert agreement(dense, dense, [torch.zeros(8, 1)]) is None
    with pytest.raises(DataError, match="or of each pixel, `task='segmentation'`"):
        disagreement_with(dense, [torch.zeros(8, 1)])


def test_a_drop_of_parts_of_images_takes_no_more_images_than_a_bootstrap() -> None:
    spec = CompressSpec(max_drop=1.0)
    with pytest.raises(DataError, match="75 images cannot tell so small a drop, it takes 182 or more"):
        enough.check(spec, 75, enough.needed(1.0), 600)
    least = enough.needed(1.0, SEGMENTATION.metrics["mean IoU"])
    enough.check(spec, 75, least, 600)
    with pytest.raises(DataError, match="20 images cannot tell so small a drop, it takes 32 or more"):
        enough.check(spec, 20, least, 160)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A small network that finds shapes on a background of most pixels."""
    torch.manual_seed(0)
    net, (images, masks) = Segmenter(width=6), shapes(32)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(images / 255)["out"], masks).backward()
        optimizer.step()
    return net.eval()


IMAGES = shapes(272, seed=1)[0] / 255


@pytest.mark.long
def test_a_report_without_labels_tells_agreement_on_pixels(net: nn.Module) -> None:
    report = slimkit.compress(net, IMAGES[:1], 0.3, calibration=IMAGES, task="segmentation", epochs=0).report
    fit = report.fit
    assert fit is not None and fit.agreement is not None and fit.interval is not None and fit.off is None
    assert (fit.agreement_by, fit.apart, fit.held) == ("mean IoU", True, 34)
    assert fit.interval[0] < fit.agreement < fit.interval[1] < 1
    said = "on the pixels of 34 inputs held out it agrees with the original by a mean IoU of"
    for text in (report.verdict, run_page(report)):
        assert f"{said} {100 * fit.agreement:.1f} % ({percent(fit.interval[0], 0)} to" in text
    lost, kept = (replace(report, fit=replace(fit, agreement=share)) for share in (0.84, 0.86))
    assert verdict(lost).sentence.startswith("Not recovered") and verdict(kept).sentence.startswith("Not retrained")


def test_what_a_file_says_of_its_task_serves_as_well(net: nn.Module) -> None:
    known = copy.deepcopy(net)
    provenance.attach(known, provenance.Provenance(use=provenance.Use(task="segmentation")))
    fit = slimkit.compress(known, IMAGES[:1], 0.2, calibration=IMAGES, epochs=0, onnx=False).report.fit
    assert fit is not None and fit.agreement_by == "mean IoU" and fit.agreement is not None


@pytest.mark.long
def test_a_drop_without_labels_is_one_of_pixels(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimkit.runs.cut.drop._QUICK", 1)
    monkeypatch.setattr("slimkit.runs.cut.drop._LOOKS", 1)
    settings: dict[str, Any] = {"task": "segmentation", "epochs": 0, "minimise": "macs", "onnx": False}
    report = slimkit.compress(net, IMAGES[:1], calibration=IMAGES, max_drop=30.0, **settings).report
    assert report.drop is not None and report.drop.images == 34 and report.fit is not None
    assert report.drop.drop == pytest.approx(100 * (1 - report.fit.agreement), abs=1e-6)
    assert report.drop.drop + report.drop.margin <= 30.0
    with pytest.raises(BudgetError, match="max_drop is 0.01: no smaller network"):
        slimkit.compress(net, IMAGES[:1], calibration=IMAGES, max_drop=0.01, **settings)
