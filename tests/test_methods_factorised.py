"""The method: which layers become two, what it reports, and that it trains."""

from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import slimkit
from slimkit import models, provenance, training
from slimkit.errors import BudgetError, SpecError
from slimkit.measure.conditions import Conditions
from slimkit.measure.environment import preferred_step
from slimkit.methods import FactorisedConfig, factorised
from slimkit.models.factors import Factors
from slimkit.report.verdict import verdict
from slimkit.surgery import proof, rows, thin_times
from slimkit.surgery.ranks import Spectrum
from tests.report_sample import train_report
from tests.training_sample import accuracy, job, network, recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chosen_by": "size"}, "chosen_by is 'size'"),
        ({"rank_share": 0.0}, "rank_share is 0"),
        ({"rank_share": 50}, "for 50 % write 0.5"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        FactorisedConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", ["params", "macs"])
def test_a_network_of_the_zoo_within_its_budget(budget: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = models.build("zoo:resnet20", classes=10, input_shape=(1, 28, 28)).model
    done = factorised.reduce(
        model, proof.random_inputs((1, 28, 28)), FactorisedConfig(chosen_by=budget, rank_share=0.5)
    )
    before, after = done.params if budget == "params" else done.macs
    assert 0.495 * before <= after <= 0.5 * before
    assert done.error < 1e-4
    assert "conv1" not in done.ranks and "fc" not in done.ranks
    models.save(done.model, tmp_path / "thin.safetensors")
    again = models.load_slim(tmp_path / "thin.safetensors")
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(again(images), done.model(images), rtol=0, atol=0)
    assert provenance.of(again).edits == (provenance.Factorised(ranks=done.ranks),)
    found = rows.layers(model, done.model, images[:1])  # of a layer that was made two: what the two come to
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert sum(layer.params_after for layer in found) == done.params[1] - norms
    assert all(layer.macs_after > 0 for layer in found) and len(found) == len(rows.layers(model, model, images[:1]))


class HeadFirst(nn.Module):
    """Makes its last layer first, and its first one in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.first = nn.Linear(36, 36), nn.Linear(36, 36)
        self.middle, self.stem = nn.Linear(36, 36), nn.Linear(36, 36)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.middle(self.stem(self.first(x.flatten(1)).relu()).relu()).relu())
        return logits


def test_the_ends_that_stay_whole_are_those_of_the_execution() -> None:
    done = factorised.reduce(HeadFirst(), proof.random_inputs((1, 6, 6)), FactorisedConfig(rank_share=0.7))
    assert set(done.ranks) == {"stem", "middle"}


class Reads(nn.Module):
    """Between its ends one layer is called, of the other only the weight is read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.called = nn.Linear(36, 36), nn.Linear(36, 36)
        self.read, self.last = nn.Linear(36, 36), nn.Linear(36, 36)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.called(self.first(x.flatten(1)).relu()))
        logits: Tensor = self.last(linear(x + 0 * self.read(x), self.read.weight))
        return logits


def test_a_layer_whose_weight_the_network_reads_by_itself_stays_whole() -> None:
    done = factorised.reduce(
        Reads(), proof.random_inputs((1, 6, 6)), FactorisedConfig(chosen_by="energy", rank_share=0.3)
    )
    assert (list(done.ranks), done.whole) == (["called"], ("read",))


def test_nothing_to_gain_is_said() -> None:
    with pytest.raises(SpecError, match="no layer is cheaper"):
        factorised.reduce(
            network(), proof.random_inputs((1, 6, 6)), FactorisedConfig(chosen_by="energy", rank_share=1.0)
        )


def test_layers_that_are_slower_as_two_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Flatten(), *(nn.Linear(36, 36) for _ in range(5)))
    asked = FactorisedConfig(chosen_by="energy", rank_share=0.5)
    found = factorised.reduce(net, proof.random_inputs((1, 6, 6)), asked).ranks
    assert set(found) == {"2", "3", "4"} and all(rank > 3 for rank in found.values())
    timed = [up_to("2", 0), up_to("3", 18), up_to("4", 3)]
    monkeypatch.setattr(thin_times, "times", lambda *_: timed)
    monkeypatch.setattr(thin_times, "times_of", lambda model, found, asked, *_: fast(asked))
    done = factorised.reduce(net, proof.random_inputs((1, 6, 6)), replace(asked, only_faster=True))
    assert (list(done.ranks), done.whole, done.times) == (["3"], ("2", "4"), (*timed, *fast(done.ranks)))


def up_to(path: str, rank: int) -> thin_times.ThinTime:
    """Say up to which rank two layers are faster than one; 0: at none."""
    return thin_times.ThinTime(path, max(rank, 1), 2.0, 1.0 if rank else 2.0)


def fast(asked: Mapping[str, int], slow: Container[tuple[str, int]] = ()) -> list[thin_times.ThinTime]:
    """Say that layers are faster at these ranks, but for some."""
    return [thin_times.ThinTime(path, rank, 2.0, 2.0 if (path, rank) in slow else 1.0) for path, rank in asked.items()]


def fc(layers: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), *(nn.Linear(36, 36) for _ in range(layers)))


def test_a_budget_is_met_by_the_layers_that_are_faster_as_two() -> None:
    """0.333 was delivered where 0.3 was asked for: slower layers were made whole again, and nothing made up for it."""
    asked = FactorisedConfig(chosen_by="params", rank_share=0.7, only_faster=True)
    timed = [up_to("2", 0), up_to("3", 9), up_to("4", 18)]
    done = factorised.reduce(fc(), proof.random_inputs((1, 6, 6)), asked, timed, fast)
    assert 0.69 * done.params[0] < done.params[1] <= 0.7 * done.params[0]
    assert done.whole == ("2",) and done.ranks["3"] <= 9
    with pytest.raises(BudgetError, match=r"every layer at rank 1 but those that stay whole \(2, 4\)"):
        factorised.reduce(fc(), proof.random_inputs((1, 6, 6)), asked, [up_to("2", 0), up_to("3", 9), up_to("4", 0)])
    with pytest.raises(BudgetError, match=r"but those that stay whole \(read\)"):  # as it is read by itself
        factorised.reduce(Reads(), proof.random_inputs((1, 6, 6)), replace(asked, rank_share=0.6, only_faster=False))


class Trained(Exception):
    """Something is trained."""


@pytest.mark.parametrize(("rank", "share", "error"), [(0, 0.9, BudgetError), (3, 0.5, BudgetError), (3, 0.9, Trained)])
def test_layers_are_timed_before_training_as_the_run_times_networks(
    rank: int, share: float, error: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[Conditions] = []

    def times(model: nn.Module, found: list[Spectrum], conditions: Conditions, *_: object) -> list[thin_times.ThinTime]:
        given.append(conditions)
        return [up_to(layer.path, rank if layer.path == "3" else 0) for layer in found]

    def train(*_: object, **more: object) -> None:
        raise Trained

    monkeypatch.setattr(thin_times, "times", times)
    monkeypatch.setattr(factorised, "train", train)
    images = torch.randn(40, 1, 6, 6)
    dataset = ((images, torch.arange(40) % 36), (images, torch.arange(40) % 36))
    settings: dict[str, Any] = {"method": "factorised", "only_faster": True, "rank_share": share, "epochs": 1}
    with pytest.raises(error):
        slimkit.train(fc(), dataset, threads=2, batch=16, **settings)
    assert given == [Conditions(threads=2, batch=16)]
    store = training.Store(tmp_path, resume=True)
    for _ in range(2):  # what is resumed has the times of before
        with pytest.raises(error):
            factorised.METHOD(job(fc(), store=store), FactorisedConfig(only_faster=True, rank_share=share))
    assert len(given) == 2


@pytest.mark.parametrize("gain", [0.0, 0.02, 0.04])
def test_a_rank_is_faster_by_more_than_times_of_the_same_differ(gain: float) -> None:
    assert thin_times.ThinTime("2", 16, 1.0, 1.0 - gain).faster is (gain > 0.03)


def test_ranks_that_are_chosen_were_timed_and_are_faster() -> None:
    """Time is not monotone in the rank: 62 was slower than one layer, 64, the highest tried, was faster."""
    asked = FactorisedConfig(chosen_by="params", rank_share=0.7, only_faster=True)
    timed = [up_to("2", 17), up_to("3", 17), up_to("4", 17)]
    slow, given = {(path, rank) for path in "23" for rank in range(9, 17)}, []

    def measure(ranks: Mapping[str, int]) -> list[thin_times.ThinTime]:
        given.append(ranks)
        return fast(ranks, slow)

    done = factorised.reduce(fc(), proof.random_inputs((1, 6, 6)), asked, timed, measure)
    assert len(given) > 1 and not slow & set(done.ranks.items()) and done.params[1] <= 0.7 * done.params[0]
    sure = {(time.path, time.rank) for time in done.times if time.faster}
    assert set(done.ranks.items()) <= sure


@pytest.mark.parametrize("step", [8, 16])
@pytest.mark.parametrize("config", [{"chosen_by": "energy", "rank_share": 0.3}, {"rank_share": 0.6}])
def test_ranks_are_in_steps_that_engines_like(
    config: dict[str, Any], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factorised, "preferred_step", lambda: step)
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in ((1, 32), (32, 48), (48, 64), (64, 8), (8, 4))))
    images = proof.random_inputs((1, 6, 6))
    found = factorised.reduce(net, images, FactorisedConfig(**config)).ranks
    assert found and all(rank % step == 0 for rank in found.values())
    assert factorised.reduce(net, images, FactorisedConfig(rank_step=5, **config)).ranks["2"] % 5 == 0


def test_the_step_is_finer_where_the_budget_needs_it() -> None:
    """36 x 36 at rank 16 are 1,152 of 1,296 weights: that is never a third."""
    asked = FactorisedConfig(chosen_by="params", rank_share=0.55)
    done = factorised.reduce(fc(), proof.random_inputs((1, 6, 6)), asked)
    assert done.params[1] <= 0.55 * done.params[0] and set(done.ranks.values()) != {1}
    with pytest.raises(BudgetError, match="every layer at rank 16 there are"):
        factorised.reduce(fc(), proof.random_inputs((1, 6, 6)), replace(asked, rank_step=16))


def test_a_network_that_is_no_faster_is_said_to_be() -> None:
    report = train_report()
    time = report.before.latency_ms
    assert time is not None and report.search is not None
    twice = replace(time, **{name: 2 * getattr(time, name) for name in ("median", "q25", "q75", "fastest", "cpu")})
    thin = replace(
        report,
        channels=replace(report.channels, removed=0),
        search=replace(report.search, method="factorised"),
        before=replace(report.before, latency_ms=time),
        after=replace(report.after, latency_ms=twice),
    )
    for only_faster, advice in ((True, "give a lower rank_share"), (False, "--set only_faster=true")):
        told = replace(thin, spec={**report.spec, "only_faster": only_faster})
        assert any("not faster" in note and advice in note for note in verdict(told).notes)
    swapped = replace(thin, before=thin.after, after=thin.before)
    assert not any("not faster" in note for note in verdict(swapped).notes)


def test_time_is_measured_on_the_layer_alone() -> None:
    """A matrix of 512 x 512 against two of rank 16: sixteen times the work."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 512), nn.Linear(512, 512), nn.Linear(512, 3))
    done = factorised.reduce(
        net, proof.random_inputs((1, 6, 6)), FactorisedConfig(chosen_by="energy", rank_share=1e-6, only_faster=True)
    )
    [time] = done.times
    assert done.ranks == {"2": preferred_step()} and time.path == "2" and time.faster
    assert 10 < time.rank < 256 and time.dense_ms > time.thin_ms  # at half of the width they are as much work
    assert time.rank % preferred_step() == 0


@pytest.mark.parametrize("frobenius", [False, True])
def test_thin_layers_are_trained(frobenius: bool) -> None:
    asked = FactorisedConfig(rank_share=0.7, frobenius=frobenius, begin="initial")
    run = factorised.METHOD(job(network(), recipe(epochs=30)), asked)
    assert accuracy(run.model) > 0.9
    assert [name for name, module in run.model.named_modules() if isinstance(module, Factors)] == ["3"]


def test_a_network_of_which_no_layer_can_be_two_is_told_so() -> None:
    net = nn.Sequential(nn.Conv1d(1, 8, 5), nn.Conv1d(8, 8, 5), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(SpecError, match="(?s)no layer but the first and the last can be two.*'1': a Conv1d is neither"):
        factorised.reduce(net, proof.random_inputs((1, 16)), FactorisedConfig(rank_share=0.5))
