"""The smallest network within a drop: looked for among networks that are only reconstructed, confirmed by real ones."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import slimkit
from slimkit import data, zoo
from slimkit.cli import main
from slimkit.errors import BudgetError, DataError, MaskError, SlimkitError, SpecError
from slimkit.measure import quality
from slimkit.measure.quality import Drop
from slimkit.progress import quiet
from slimkit.results import Attempt, Report
from slimkit.runs.cut import begun, drop, enough, least
from slimkit.runs.cut.least import Contenders, compared
from slimkit.runs.figures import judged
from slimkit.settings import CompressSpec
from slimkit.tasks import SEGMENTATION, Metric, Task, psnr
from slimkit.training import Store

Loses = Callable[[float, float], float]  # (share of the work, epochs of retraining) -> points


def search(
    loses: Loses, least: float = 0.0, takes: Callable[[float], float] = float, hurry: float = 0.0, **settings: Any
) -> tuple[drop.Smallest, list[CompressSpec]]:
    """Look for the smallest of networks that are nothing but their share of the work; below `least` there are none.

    `takes`: share -> what such a network is compared by. `hurry`: points more that one loses which is made in a hurry.
    """
    asked: list[CompressSpec] = []

    def attempt(spec: CompressSpec, how: drop.How) -> Any:
        quick = how == "quick"
        assert bool(spec.epochs) == (how == "trained")
        asked.append(spec)
        share = float(spec.max_macs or spec.max_params or 0)
        if share < least:
            raise BudgetError("too narrow")
        return SimpleNamespace(share=share, quick=quick), SimpleNamespace(model=(share, spec.epochs, quick))

    def judge(model: Any) -> Drop:
        share, epochs, quick = model
        return Drop(loses(share, epochs) + hurry * quick, 0.5, 1000)

    spec = CompressSpec(**settings)

    def compare(models: Any) -> Contenders:
        return Contenders(spec.minimise, tuple(takes(share) for share, *_ in models))

    def short(tried: Any, unit: str) -> str:
        return enough.short(spec, tried, unit, 1000)

    return drop.smallest(spec, attempt, judge, compare, short, bool(spec.epochs), quiet), asked


@pytest.mark.parametrize("least", [0.0, 0.3])
def test_the_smallest_is_found_with_its_margin(least: float) -> None:
    found, asked = search(lambda share, epochs: 10 * (1 - share), least, max_drop=6.5, epochs=0)
    assert 0.4 <= found.cut.share < 0.4 * 1.05  # type: ignore[attr-defined]
    assert found.record.drop + found.record.margin <= 6.5  # type: ignore[operator]
    assert len(asked) == 8 and all(spec.epochs == 0 and spec.max_drop is None for spec in asked)
    assert all(spec.rounds == "auto" for spec in asked)  # as with other budgets


def test_care_finds_a_smaller_one_than_hurry_did_and_is_what_is_delivered() -> None:
    """Six networks were made with all care, which takes ten times as long."""
    loses, settings = (lambda share, epochs: 10 * (1 - share)), {"max_drop": 6.5, "epochs": 0}
    for hurry in (0.0, 0.4, 1.0, 90.0):
        found, asked = search(loses, hurry=hurry, **settings)
        cut: Any = found.cut
        assert not cut.quick and len(asked) <= 9
        assert 0.4 <= cut.share < (0.4 if hurry < 9 else 0.7) * 1.06


def test_at_most_four_are_retrained_and_what_passes_is_real() -> None:
    found, asked = search(lambda share, epochs: (10 - 5 * (epochs > 0)) * (1 - share), max_drop=4.5, epochs=2)
    assert sum(spec.epochs == 2 for spec in asked) == 4
    assert 0.2 <= found.cut.share < 0.25  # type: ignore[attr-defined]
    assert found.record.drop == pytest.approx(5 * (1 - found.cut.share))  # type: ignore[attr-defined]


def test_retraining_that_does_harm_is_not_delivered() -> None:
    found, asked = search(lambda share, epochs: 10 * (1 - share) + 90 * (epochs > 0), max_drop=6.5, epochs=2)
    cut: Any = found.cut
    assert 0.4 <= cut.share < 0.4 * 1.1 and [spec.epochs for spec in asked[-2:]] == [2, 0]
    assert found.recovered.model[1] == 0 and not cut.quick  # type: ignore[index]
    assert "lost more when it was retrained" in found.notes[0]


def test_what_was_made_in_a_hurry_is_not_delivered_where_an_own_retraining_does_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The report had the figures of the one made in a hurry, and no word of a `retrain` in vain."""
    monkeypatch.setattr(drop, "_QUICK", 2)
    monkeypatch.setattr(drop, "_RETRAININGS", 1)
    calls: list[int] = []

    def harm(slim: nn.Module, dense: nn.Module) -> nn.Module:
        calls.append(1)
        with torch.no_grad():
            for weight in slim.parameters():
                weight.add_(torch.randn_like(weight))
        return slim

    found = slimkit.compress(
        slimkit.load(CHECKPOINT), torch.zeros(1, 1, 8, 8), dataset="digits", max_drop=5, minimise="params",
        retrain=harm, onnx=False,
    ).report  # fmt: skip
    assert len(calls) == 2 and found.recovery is None and found.drop is not None
    assert found.drop.figure == found.after.params and found.drop.tried[-1].drop == found.drop.drop
    assert any("lost more when it was retrained" in said for said in found.warnings)


def test_what_is_delivered_is_retrained_where_no_smaller_one_passes() -> None:
    """Four retrainings were paid, and a network was delivered that none of them was of."""
    found, asked = search(lambda share, epochs: (1 - 0.02 * (epochs > 0)) / share, max_drop=2.5, epochs=5)
    made: Any = found.recovered.model
    share, epochs, _ = made
    assert epochs == 5 and 0.5 <= share < 0.55
    assert found.record.drop == pytest.approx(0.98 / share) and found.record.tried[-1].share == share
    assert [spec.epochs for spec in asked].count(5) == 5  # four smaller ones, and that one


@pytest.mark.parametrize("epochs", [0, 2])
def test_of_those_that_pass_the_least_is_delivered_by_what_was_asked_for(epochs: int) -> None:
    """A latency was looked for by multiply-adds, also where a network of fewer is slower, in finer steps."""
    found, asked = search(
        lambda share, epochs: 10 * (1 - share),
        takes=lambda share: 7.0 if share > 0.45 else 9.0,
        max_drop=6.5,
        epochs=epochs,
        minimise="energy",
    )
    kept = [entry for entry in found.record.tried if entry.within]
    assert found.cut.share == min(entry.share for entry in kept if entry.share > 0.45)  # type: ignore[attr-defined]
    assert min(entry.share for entry in kept) < 0.45
    assert (found.record.minimise, found.record.by, found.record.figure) == ("energy", "energy", 7.0)
    assert found.recovered.model[1] == epochs  # type: ignore[index]


def test_times_that_are_alike_are_no_reason_to_take_the_larger_network() -> None:
    settings: dict[str, Any] = {"max_drop": 6.5, "epochs": 0}
    found = [
        search(lambda share, _: 10 * (1 - share), takes=lambda share: 7.0 - share / 100, minimise=by, **settings)[0]
        for by in ("latency", "macs")
    ]
    assert found[0].cut.share < 0.42 < 0.47 < found[1].cut.share  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("minimise", "name"), [("latency", "max_macs"), ("params", "max_params"), ("bytes", "max_params")]
)
def test_what_is_made_small_decides_on_the_budget(minimise: str, name: str) -> None:
    _, asked = search(lambda share, epochs: 0.0, max_drop=1.0, epochs=0, minimise=minimise)
    assert all(getattr(spec, name) is not None for spec in asked)


def test_a_drop_that_no_smaller_network_keeps_says_the_best() -> None:
    with pytest.raises(
        BudgetError, match=r"max_drop is 1: no smaller .* loses 5\.\d+ points, and maybe 0.50 points more, at 0.9"
    ):
        search(lambda share, epochs: 5 + 10 * (1 - share), max_drop=1.0, epochs=0)
    with pytest.raises(BudgetError, match="more than can be told"):
        search(lambda share, epochs: 0.0, 2.0, max_drop=1.0, epochs=0)


_TRIED = [(0.22, 5.9, 3.1), (0.69, 0.53, 0.96), (0.91, 0.53, 0.96), (0.95, 0.0, 0.96)]  # share, drop, margin


def _short(images: int, given: int | None, alike: bool = False, factor: float = 1.0, **settings: Any) -> str:
    found = [
        Attempt(share=share, epochs=0, drop=lost, margin=factor * margin, within=lost + factor * margin <= 1)
        for share, lost, margin in _TRIED
    ]
    return enough.short(CompressSpec(max_drop=1, **settings), found, "points", images, given, alike=alike)


@pytest.mark.parametrize(
    ("images", "given", "said"),
    [
        (
            188,
            None,
            "188 validation images can tell that to 0.96 only. About 790 would do: allow .*, or give more data.",
        ),
        (
            188,
            1500,
            "188 inputs held out .* 790 .* give labelled data: of unlabelled inputs at most 512 are judged by.",
        ),
        (100, 800, "100 inputs held out .* 420 .* give 3,360 unlabelled inputs or more, here 800: an eighth "),
    ],
)
def test_a_network_that_only_its_margin_kept_out_is_told_with_what_would_tell_more(
    images: int, given: int | None, said: str
) -> None:
    """Of the one that was taken 0.95 was left, and nothing said that the number of inputs kept 0.69 out."""
    found = _short(images, given)
    assert found.startswith(
        "A network of 0.69 of the multiply-adds loses 0.53 points, of 1 that may be lost, and was not taken"
    )
    assert re.search(said, found) and "allow `max_drop=1.49`, or " in found
    groups = _short(40, 320, alike=True, minimise="params")
    assert "0.69 of the parameters" in groups and "40 groups of inputs held out" in groups
    assert "give inputs of 1,360 such groups or more, here 320" in groups


def test_so_many_images_do_tell_it() -> None:
    needed = int(re.findall(r"About (\d+) would do", _short(188, None))[0])
    assert 0.53 + 0.96 * (188 / needed) ** 0.5 <= 1 < 0.53 + 0.96 * (188 / (needed - 10)) ** 0.5
    assert not _short(needed, None, factor=(188 / needed) ** 0.5)  # and then nothing is said of it


def test_more_images_are_asked_for_where_no_network_passes_for_want_of_them() -> None:
    with pytest.raises(
        BudgetError, match=r"(?s)no smaller network .*A network of 0.\d+ of .* loses 0.80 points, .* allow"
    ):
        search(lambda share, epochs: 0.8, max_drop=1.0, epochs=0)
    with pytest.raises(BudgetError, match="`round_to=1`$"):  # a drop that is hardly within: no images would do
        search(lambda share, epochs: 0.99, max_drop=1.0, epochs=0)


@pytest.mark.parametrize("labels", [True, False])
def test_that_images_are_too_few_for_a_smaller_network_stands_in_the_report(
    labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def noted(
        spec: CompressSpec, tried: Any, unit: str, images: int, inputs: int | None = None, *, alike: bool = False
    ) -> str:
        given.append((images, inputs, alike))
        return "Too few."

    monkeypatch.setattr(enough, "short", noted)
    monkeypatch.setattr(drop, "_QUICK", 0)
    monkeypatch.setattr(drop, "_LOOKS", 1)
    torch.manual_seed(0)
    images = torch.rand(160, 1, 8, 8) * 4 * torch.rand(160, 1, 1, 1)
    data_given: dict[str, Any] = {"calibration": images, "task": "classification"}
    if labels:
        data_given = {"dataset": ((images[:60], torch.arange(60) % 10), (images[60:], torch.arange(100) % 10))}
    settings: dict[str, Any] = {"max_drop": 99, "epochs": 0, "round_to": 1, "onnx": False}
    report = slimkit.compress(Counting().eval(), images[:1], **data_given, **settings).report
    assert given == [(100, None, False) if labels else (20, 160, False)] and "Too few." in report.warnings


class Painted(nn.Module):
    """Says class 1 where the input is above a threshold, class 0 elsewhere."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), x - self.threshold], 1)


def test_a_drop_of_a_share_is_in_points_whatever_the_task_and_has_a_margin() -> None:
    """`max_drop=1` allowed all of a mean IoU, which is a share too: 1 point was taken for 1.0."""
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = (images[:, 0] > 0.5).long()
    split = data.as_dataset(((images, masks), (images, masks)), task=SEGMENTATION).validation
    dense, slim = Painted(0.5), Painted(0.6)
    lost = quality.drop_from(dense, split, SEGMENTATION)(slim)
    found = [quality.evaluate(net, split, SEGMENTATION)["mean IoU"].value for net in (dense, slim)]
    assert lost.value == pytest.approx(100 * (found[0] - found[1])) and lost.value > 5
    assert 0.1 < lost.margin < lost.value and lost.images == 40
    same = quality.drop_from(dense, split, SEGMENTATION)(Painted(0.5))
    assert (same.value, same.margin) == (0.0, 0.0)
    with pytest.raises(BudgetError, match="max_drop is 1: no smaller network"):
        search(lambda share, epochs: lost.value, max_drop=1.0, epochs=0)


def test_every_metric_has_an_interval_on_validation_and_on_test() -> None:
    """Mean IoU had one on test only, where that is a split of its own."""
    images = torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    parts = {
        name: (part, (part[:, 0] > 0.5).long())
        for name, part in zip(("train", "validation", "test"), images.split(40), strict=True)
    }
    found = judged(Painted(0.6), data.as_dataset(parts, task=SEGMENTATION))
    assert found.tested_apart
    for one in (found.of("validation"), found.of("test")):
        assert one is not None and one.interval is not None and one.interval[0] < one.value < one.interval[1]


CHECKPOINT = str(zoo.CHECKPOINTS["resnet8-digits"])


def told(what: str, share: float | None) -> None:
    assert not any(word in what for word in ("making images", "ranking", "fitting", "epoch")), f"it was {what} already"


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"max_drop": 0.5}, DataError, "there is nothing to measure it on"),
        (
            {"max_drop": 0.5, "calibration": 80},
            DataError,
            "(?s)10 images cannot .*2,904 unlabelled .*here 80: an ",
        ),
        ({"max_drop": 10, "calibration": 40}, DataError, "(?s)5 images cannot .* takes 19 .*152 unlabelled .*here 40"),
        ({"max_drop": 0.1, "calibration": 80}, DataError, "(?s) takes 1813 or more.*Allow a drop of 0.36 or more, "),
        ({"max_drop": 0.5, "dataset": 40}, DataError, "40 images cannot tell so small a drop"),
        ({"max_drop": 101, "dataset": 80}, SpecError, "max_drop is 101: it is in points here, and there are 100"),
        ({"max_drop": 101, "calibration": 80}, SpecError, "max_drop is 101: it is in points here"),
        ({"max_macs": 0.0001}, BudgetError, "max_macs is "),
        ({"max_params": 10}, BudgetError, "max_params is 10"),
        ({"max_macs": "100G"}, BudgetError, "already needs no more"),
        ({"ratio": 0.95}, BudgetError, "ratio is 0.95"),
        ({"ratio": 0.3, "keep": ("none",)}, MaskError, "no layer with channels is called so"),
    ],
)
def test_what_cannot_be_met_is_told_before_anything_is_made_or_fitted(
    settings: dict[str, Any], error: type[SlimkitError], said: str
) -> None:
    images, labels = torch.rand(80, 1, 8, 8), torch.arange(80) % 10
    given = {**settings, "progress": told}
    if "calibration" in given:
        given["calibration"] = images[: given["calibration"]]
    if "dataset" in given:
        given["dataset"] = {part: (images[:40], labels[:40]) for part in ("train", "validation")}
    with pytest.raises(error, match=said):
        slimkit.compress(slimkit.load(CHECKPOINT), images[:1], **given)


def test_a_drop_of_what_is_no_classes_asks_for_no_more_inputs() -> None:
    """It had asked for 2,632, and then refused those."""
    torch.manual_seed(0)
    denoiser = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1)).eval()
    images = torch.rand(80, 1, 8, 8)
    with pytest.raises(DataError, match="what the network returns is no classes"):
        slimkit.compress(denoiser, images[:1], calibration=images, max_drop=1, progress=told)


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where any drop is allowed, the last look is like the first."""
    monkeypatch.setattr(drop, "_QUICK", 0)
    monkeypatch.setattr(drop, "_LOOKS", 1)


@pytest.mark.long
@pytest.mark.usefixtures("short_search")
@pytest.mark.parametrize("count", [24, 56])
def test_a_drop_without_labels_is_told_on_inputs_that_nothing_was_fitted_to(count: int) -> None:
    """A drop of 1.7 points was told, of 40 inputs that were fitted to: of others it was 17."""
    images = next(iter(data.as_dataset("digits").train.batches(count)))[0]
    found = slimkit.compress(slimkit.load(CHECKPOINT), images[:1], calibration=images, max_drop=100, epochs=0).report
    assert found.fit is not None and found.drop is not None
    assert (found.fit.apart, found.fit.held, found.drop.images) == (True, count // 8, count // 8)
    assert found.fit.on.startswith(f"{count - count // 8} inputs")


@pytest.mark.long
@pytest.mark.usefixtures("short_search")
def test_a_drop_is_not_told_on_batches_of_which_none_can_be_held_out() -> None:
    """Order is the loader's, so that what is held out once may be fitted to the next time."""
    images = torch.rand(80, 1, 8, 8)
    loader = torch.utils.data.DataLoader(images, batch_size=20, shuffle=True)  # type: ignore[arg-type]
    net = slimkit.load(CHECKPOINT)
    with pytest.raises(DataError, match="(?s)none can be held out.*Give a tensor, a data set or a folder"):
        slimkit.compress(net, images[:1], calibration=loader, max_drop=50, progress=told)
    labelled = {part: (images, torch.arange(80) % 10) for part in ("train", "validation")}
    slimkit.compress(net, images[:1], dataset=labelled, calibration=loader, max_drop=100, epochs=0)


class Counting(nn.Module):
    """A small classifier that counts the batches that it is called with at its full width, by their sizes."""

    seen: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.scores = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.features[0].weight.shape[0] == 16:
            self.seen.append(len(images))
        return self.scores(self.features(images).mean((2, 3)))


@pytest.mark.parametrize("labels", [True, False])
def test_what_the_original_makes_of_the_images_is_computed_once_for_all_attempts(labels: bool) -> None:
    """It was computed again at each."""
    torch.manual_seed(0)
    images, classes = torch.rand(776, 1, 8, 8) * 4 * torch.rand(776, 1, 1, 1), torch.arange(776) % 10
    given: dict[str, Any] = {"calibration": images, "task": "classification"}  # of which 97 are held out
    if labels:
        given = {"dataset": ((images[:576], classes[:576]), (images[576:], classes[576:]))}
    Counting.seen.clear()
    settings: dict[str, Any] = {"max_drop": 90, "epochs": 0, "round_to": 1, "onnx": False}
    found = slimkit.compress(Counting().eval(), images[:1], **given, **settings).report.drop
    assert found is not None and len(found.tried) == 4
    # once by the search; and for the report on validation and on test, or to see whether agreement tells anything, and
    # for the report on what was fitted
    assert Counting.seen.count(200 if labels else 97) == 3


def compressed_within(**settings: Any) -> Report:
    """Return the report on a small classifier of brightness, cut to what keeps 10 % of its answers."""
    torch.manual_seed(0)
    images = torch.rand(160, 1, 8, 8) * 4 * torch.rand(160, 1, 1, 1)
    labelled = ((images[:80], torch.arange(80) % 10), (images[80:], torch.arange(80) % 10))
    given: dict[str, Any] = {"max_drop": 90, "epochs": 0, "round_to": 1, **settings}
    return slimkit.compress(Counting().eval(), images[:1], dataset=labelled, **given).report


@pytest.mark.long
@pytest.mark.parametrize(
    ("minimise", "onnx", "by"),
    [
        ("latency", True, "latency"),
        ("latency", False, "macs"),
        ("energy", True, "energy"),
        ("bytes", True, "bytes"),
    ],
)
def test_what_networks_within_a_drop_are_compared_by_stands_in_the_report(minimise: str, onnx: bool, by: str) -> None:
    report = compressed_within(minimise=minimise, onnx=onnx)
    assert report.drop is not None and (report.drop.minimise, report.drop.by) == (minimise, by)
    counted = {"macs": report.after.macs, "params": report.after.params, "bytes": report.after.bytes}
    assert report.drop.figure == counted.get(by, report.drop.figure) and report.drop.figure


def test_a_network_is_chosen_by_its_time_in_the_engine_and_under_the_conditions_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[str, Any]] = []

    def measure(paths: list[Path], shapes: Any, **conditions: Any) -> list[Any]:
        given.append(conditions)
        times = [place + 1.0 for place in range(len(paths))]  # the largest is the fastest
        return [SimpleNamespace(typical_ms=time, noisy=False) for time in times]

    monkeypatch.setattr(least, "latency", SimpleNamespace(measure=measure))
    report = compressed_within(batch=3)
    how = {"engine": "onnxruntime", "threads": 1, "batch": 3}
    assert given == [how, how]  # those that pass; and the chosen one, which was made in a hurry, as it is with care
    assert report.drop is not None and (report.drop.by, report.drop.figure) == ("latency", 1.0)
    first = next(entry for entry in report.drop.tried if entry.within)
    assert report.drop.tried[-1].share == first.share and report.drop.drop <= first.drop


@pytest.mark.parametrize("words", ["--max-drop 90,0.1 --data digits", "--max-macs 0.0001,0.0002"])
def test_a_sweep_is_told_before_anything_too(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(begun, "calibrate", lambda *given: pytest.fail("calibrated already"))
    assert main(["compress", CHECKPOINT, *words.split(), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    assert ("cannot tell so small a drop" if "drop" in words else "max_macs is") in capsys.readouterr().err


def test_figures_that_were_kept_are_told_of_the_networks_that_they_are_of(tmp_path: Path) -> None:
    """After a training on a GPU that is resumed others may pass: figures were taken for theirs, or there were more."""
    nets = [nn.Conv2d(1, width, 3) for width in (2, 4, 6)]
    spec, store = CompressSpec(max_drop=1, minimise="params"), Store(tmp_path, resume=True)
    assert compared(spec, nets, torch.zeros(1, 1, 8, 8), store).figures == (20, 40, 60)
    assert compared(spec, nets[1:], torch.zeros(1, 1, 8, 8), store).figures == (40, 60)
    again = compared(replace(spec, minimise="macs"), nets[1:], torch.zeros(1, 1, 8, 8), store)
    assert (again.by, again.figures) == ("params", (40, 60))  # kept: times would be others


def _errors(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().mean(1).sqrt()


OWN: list[tuple[str, Any, str, float, int, str | None]] = [
    ("share right", lambda o, t: ((o > 0) == (t > 0)).float().mean(1), "higher", 0.05, 60, None),
    ("in points", Metric(lambda o, t: ((o > 0) == (t > 0)).float().mean(1), unit="share"), "higher", 5, 60, None),
    ("PSNR", psnr(4.0), "higher", 0.5, 60, None),
    ("error", _errors, "lower", 0.02, 60, None),
    ("loss of a batch", lambda o, t: (o - t).square().mean(), "lower", 0.02, 60, None),
    ("error in hundreds", lambda o, t: 1e4 * _errors(o, t), "lower", 200, 60, None),
    ("error", _errors, "lower", 0.02, 1, "1 image cannot tell a drop, it takes 2 or more.\n  Give more data"),
    ("exact", lambda o, t: ((o > 0) == (t > 0)).all(1), "higher", 0.05, 60, "60 images cannot tell so small a drop"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "metric", "better", "allowed", "images", "refused"), OWN)
def test_a_drop_of_an_own_metric_is_judged_by_what_is_measured(
    name: str, metric: Any, better: Any, allowed: float, images: int, refused: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Any metric was taken for a share of images in points: 600 images could not tell 0.05 of 1."""
    monkeypatch.setattr(drop, "_QUICK", 1)
    monkeypatch.setattr(drop, "_LOOKS", 1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 8), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    inputs = torch.randn(90, 1, 8, 8)
    with torch.no_grad():  # most of what the network computes is none of the labels' business
        net[3].weight[:, 4:] *= 0.01  # type: ignore[operator,index]
        targets = net(inputs) + 0.1 * torch.randn(90, 3)
    task = Task.of(loss=nn.functional.mse_loss, metrics={name: metric}, better=better)
    parts = {"train": (inputs[:64], targets[:64]), "validation": (inputs[:images], targets[:images])}
    dataset = data.as_dataset({**parts, "test": (inputs[64:], targets[64:])}, task=task)
    settings: dict[str, Any] = {"epochs": 0, "round_to": 1, "minimise": "macs", "onnx": False}
    if refused:
        with pytest.raises(DataError, match=re.escape(refused)):
            slimkit.compress(net, inputs[:1], dataset=dataset, max_drop=allowed, progress=told, **settings)
        return
    found = slimkit.compress(net, inputs[:1], dataset=dataset, max_drop=allowed, **settings).report.drop
    assert found is not None and found.margin is not None and found.drop + found.margin <= allowed
    assert found.unit == {"in points": "points", "PSNR": "dB"}.get(name, "")
    assert min(one.share for one in found.tried if one.within) < 0.5


@pytest.mark.parametrize(
    ("limit", "unit", "said"),
    [
        (0.05, "dB", "loses 0.030 dB, of 0.05 that may be lost, .* to 0.022 only. .*`max_drop=0.052`"),
        (0.001, "", "loses 0.0006, of 0.001 that may be lost, .* to 0.0004 only. .*`max_drop=0.0011`"),
    ],
)
def test_what_is_lost_is_told_in_the_metrics_own_unit_and_fine_enough(limit: float, unit: str, said: str) -> None:
    """An error of 0.0006 was told as a loss of 0.00."""
    tried = [Attempt(share=0.5, epochs=0, drop=0.6 * limit, margin=0.435 * limit, within=False)]
    assert re.search(said, enough.short(CompressSpec(max_drop=limit), tried, unit, 100))
    with pytest.raises(BudgetError, match=re.escape(f"loses {enough.amount(2 * limit, limit, unit)}, and maybe")):
        _none_passes(limit, unit)


def _none_passes(limit: float, unit: str) -> None:
    made = SimpleNamespace(model=None)
    drop.smallest(
        CompressSpec(max_drop=limit, epochs=0), lambda spec, how: (made, made),  # type: ignore[arg-type,return-value]
        lambda model: Drop(2 * limit, 0.0, 9, unit), lambda models: pytest.fail("none passes"),
        lambda tried, said: said if said != unit else "", False, quiet,
    )  # fmt: skip
