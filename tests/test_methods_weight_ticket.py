"""Lottery tickets: exact densities, exact zeros, exact rewinding; and the controls."""

import copy
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

import slimkit
from slimkit import training, zoo
from slimkit.errors import MaskError, SpecError
from slimkit.methods import weight_ticket
from slimkit.methods.weight_ticket import Ticket, TicketConfig, after, find
from slimkit.selection import weight_mask
from slimkit.selection.weight_mask import WeightMask, prunable
from tests.training_sample import accuracy, network, recipe, same, stripes


@pytest.mark.parametrize(
    ("setting", "value"), [("rounds", 0), ("share", 0.0), ("share", 1.0), ("scope", "network"), ("rewind", -1)]
)
def test_settings_out_of_range(setting: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"{setting} is"):
        TicketConfig(**{setting: value})  # type: ignore[arg-type]


def big() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 17, 3), nn.BatchNorm2d(17), nn.Linear(31, 40), nn.Linear(40, 7))


def test_density_is_exact_to_one_weight_over_ten_rounds() -> None:
    sizes = {"0.weight": 459, "2.weight": 1240, "3.weight": 280}
    by_layer = everywhere = WeightMask.full(big())
    for number in range(1, 11):
        weights = {name: weight.detach() for name, weight in prunable(big()).items()}
        previous, by_layer = by_layer, after(by_layer, weights, TicketConfig(), number)
        everywhere = after(everywhere, weights, TicketConfig(scope="global"), number)
        for name, size in sizes.items():
            share = 0.1 if name == "3.weight" else 0.2  # the output layer at half the rate
            assert abs(by_layer.left[name] - size * (1 - share) ** number) <= 0.5
            assert not (by_layer.keep[name] & ~previous.keep[name]).any()
        assert abs(sum(everywhere.left.values()) - 1979 * 0.8**number) <= 0.5
    assert everywhere.density == sum(everywhere.left.values()) / 1979


class HeadFirst(nn.Module):
    """Makes its classifier before the layers that run before it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.stem = nn.Linear(8, 3), nn.Conv2d(1, 8, 3, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.stem(images).relu().mean((2, 3)))
        return logits


def test_the_layer_that_loses_half_the_share_is_the_one_that_runs_last() -> None:
    found = find(HeadFirst(), stripes(), recipe(epochs=1), TicketConfig(rounds=1, share=0.5))
    assert found.mask.left == {"head.weight": 18, "stem.weight": 36}


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_rounds_that_would_leave_nothing_are_refused_before_the_first_step(scope: Literal["layer", "global"]) -> None:
    steps: list[int] = []
    with pytest.raises(MaskError, match="rounds that each remove 0.5 of the weights leave none of the"):
        find(
            network(), stripes(), recipe(), TicketConfig(rounds=30, share=0.5, scope=scope),
            progress=lambda run: steps.append(run.step),
        )  # fmt: skip
    assert steps == []


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"rounds": 60}, MaskError, "60 rounds that each remove 0.2 .* leave none of the 144 in conv1.weight"),
        ({"rewind_step": 1000}, SpecError, "rewind_step is 1000: the schedule has only"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_end_is_refused_before_it_begins(settings: Any, error: Any, words: str) -> None:
    moments: list[object] = []
    model = zoo.resnet8(num_classes=10, in_channels=1)
    with pytest.raises(error, match=words):
        slimkit.train(model, "digits", method="weight-ticket", epochs=1, watchers=[moments.append], **settings)
    assert moments == []


def test_the_smallest_go_and_ties_go_by_position() -> None:
    net = nn.Sequential(nn.Linear(3, 2, bias=False))
    weights = {"0.weight": torch.tensor([[3.0, -1.0, 2.0], [-1.0, 1.0, -4.0]])}
    mask = weight_mask.largest(weights, WeightMask.full(net), ["0.weight"], 4)
    assert mask.keep["0.weight"].tolist() == [[True, True, True], [False, False, True]]
    again = weight_mask.largest({"0.weight": 9 - weights["0.weight"].abs()}, mask, ["0.weight"], 2)
    assert again.keep["0.weight"].tolist() == [[False, True, True], [False, False, False]]


@pytest.mark.parametrize("left", [0, 7])
def test_counts_that_are_none(left: int) -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(MaskError, match=f"{left} weights are to stay of 6"):
        weight_mask.largest({"0.weight": torch.ones(2, 3)}, WeightMask.full(net), ["0.weight"], left)


def test_a_mask_of_another_network_is_refused() -> None:
    with pytest.raises(MaskError, match="'0.weight' of shape"):
        weight_mask.apply_(network(), WeightMask.full(big()))


def search(config: TicketConfig, **more: object) -> Ticket:
    return find(network(), stripes(), recipe(**more), config, evaluate=accuracy)


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.0, "weight_decay": 0.1}])
def test_removed_weights_are_zero_to_the_bit_after_every_step(settings: dict[str, float]) -> None:
    found = search(TicketConfig(rounds=2), **settings)
    steps: list[bool] = []

    def look(run: training.Run) -> None:
        weights = prunable(run.model)
        steps.append(all(bool((weights[n][~keep] == 0).all()) for n, keep in found.mask.keep.items()))

    hooks = [weight_mask.hold(found.mask), training.Hook(after_step=look)]
    trained = training.train(found.network(), stripes(), recipe(**settings), hooks=hooks).model
    assert steps == [True] * 18
    same(trained, found.trained)  # the last round, done alone
    left = {name: int(weight.count_nonzero()) for name, weight in prunable(found.trained).items()}
    assert left == found.mask.left


@pytest.mark.parametrize("step", [0, 4, 6])
def test_rewinding_brings_the_weights_of_step_k_back_to_the_bit(step: int) -> None:
    """Also momentum, schedule, data order and dropout: under a mask that keeps everything nothing changes."""
    seen: list[nn.Module] = []

    def remember(run: training.Run) -> None:
        if run.step == step:
            seen.append(copy.deepcopy(run.model))

    settings = recipe(epochs=2)
    whole = training.train(network(dropout=0.3), stripes(), settings, hooks=[training.Hook(after_step=remember)]).model
    found = find(network(dropout=0.3), stripes(), settings, TicketConfig(rounds=2, rewind=step, share=1e-9))
    same(found.network(), seen[0] if step else network())
    same(found.trained, whole)
    assert [done.density for done in found.rounds] == [1.0, 1.0, 1.0]


def test_rounds_are_reported() -> None:
    found = search(TicketConfig(rounds=3, scope="global"))
    assert [done.left for done in found.rounds] == [972, 778, 622, 498]
    assert found.rounds[-1].accuracy == accuracy(found.trained)
    assert len(found.run.history) == 4 * 3
    assert found.run.images == 4 * 3 * 96


def test_a_step_that_is_not_in_the_run_is_refused() -> None:
    with pytest.raises(SpecError, match="rewind is step 18: the schedule has only 18"):
        search(TicketConfig(rewind=18))


@pytest.mark.parametrize("stop", [3, 20, 40])
def test_a_search_that_was_killed_goes_on_to_the_same_bits(stop: int, tmp_path: Path) -> None:
    config = TicketConfig(rounds=2, rewind=4)
    once = search(config)

    def kill(run: training.Run) -> None:
        if run.done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(network(), stripes(), recipe(), config, progress=kill, store=training.Store(tmp_path, seconds=0))
    store = training.Store(tmp_path, resume=True)
    again = find(network(), stripes(), recipe(), config, evaluate=accuracy, store=store)
    same(once.trained, again.trained)
    same(once.network(), again.network())
    assert [done.left for done in again.rounds] == [done.left for done in once.rounds]


def test_controls_differ_from_the_ticket_in_one_thing() -> None:
    found = search(TicketConfig(rounds=3))
    ticket = prunable(found.network())
    fresh = prunable(weight_ticket.reinitialised(network(seed=1), found.mask))
    by_layer = prunable(weight_ticket.reinitialised_by_layer(found, seed=1))
    model, mask = weight_ticket.random_sparse(found, seed=1)
    sparse, start = prunable(model), prunable(network())
    for name, keep in found.mask.keep.items():
        assert torch.equal(fresh[name] != 0, keep) and not torch.equal(fresh[name], ticket[name])
        assert torch.equal(by_layer[name] != 0, keep) and not torch.equal(by_layer[name], ticket[name])
        assert torch.equal(by_layer[name][keep].sort().values, ticket[name][keep].sort().values)
        assert mask.left[name] == found.mask.left[name] and not torch.equal(mask.keep[name], keep)
        assert torch.equal(sparse[name][mask.keep[name]], start[name][mask.keep[name]])
        assert int(sparse[name].count_nonzero()) == mask.left[name]
