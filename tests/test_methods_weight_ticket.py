"""Lottery tickets: exact densities, exact zeros, exact rewinding; and the controls."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import slimkit
from slimkit import provenance, training, zoo
from slimkit.errors import MaskError, SpecError
from slimkit.methods import Found, WeightTicketConfig, snapshot, weight_ticket
from slimkit.methods.weight_ticket import Ticket, after
from slimkit.selection import weight_mask
from slimkit.selection.weight_mask import WeightMask, prunable
from tests.training_sample import accuracy, job, network, recipe, same, stripes


@pytest.mark.parametrize(
    ("setting", "value"),
    [("rounds", 0), ("round_share", 0.0), ("round_share", 1.0), ("compete", "network"), ("rewind_step", -1)],
)
def test_settings_out_of_range(setting: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"{setting} is"):
        WeightTicketConfig(**{setting: value})  # type: ignore[arg-type]


def found(
    asked: training.Recipe | None = None, net: nn.Module | None = None, more: Any = None, **settings: Any
) -> Found:
    return weight_ticket.METHOD(job(net or network(), asked, **(more or {})), WeightTicketConfig(**settings))


def left(model: nn.Module) -> dict[str, int]:
    return {name: int(weight.count_nonzero()) for name, weight in prunable(model).items()}


def big() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 17, 3), nn.BatchNorm2d(17), nn.Linear(31, 40), nn.Linear(40, 7))


def test_density_is_exact_to_one_weight_over_ten_rounds() -> None:
    sizes = {"0.weight": 459, "2.weight": 1240, "3.weight": 280}
    by_layer = everywhere = WeightMask.full(big())
    for number in range(1, 11):
        weights = {name: weight.detach() for name, weight in prunable(big()).items()}
        previous, by_layer = by_layer, after(by_layer, weights, WeightTicketConfig(), number)
        everywhere = after(everywhere, weights, WeightTicketConfig(compete="all"), number)
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
    run = found(recipe(epochs=1), net=HeadFirst(), rounds=1, round_share=0.5)
    assert left(run.model) == {"head.weight": 18, "stem.weight": 36}


@pytest.mark.parametrize("compete", ["layer", "all"])
def test_rounds_that_would_leave_nothing_are_refused_before_the_first_step(compete: str) -> None:
    steps: list[object] = []
    with pytest.raises(MaskError, match="rounds that each remove 0.5 of the weights leave none of the"):
        found(rounds=30, round_share=0.5, compete=compete, more={"watchers": [steps.append]})
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


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.0, "weight_decay": 0.1}])
def test_removed_weights_are_zero_to_the_bit_after_every_step(settings: dict[str, float]) -> None:
    asked = recipe(**settings)
    whole, ticket = (found(asked, rounds=2, deliver=what).model for what in ("trained", "ticket"))
    mask = WeightMask({name: weight != 0 for name, weight in prunable(ticket).items()})
    steps: list[bool] = []

    def look(run: training.Run) -> None:
        weights = prunable(run.model)
        steps.append(all(bool((weights[n][~keep] == 0).all()) for n, keep in mask.keep.items()))

    hooks = [weight_mask.hold(mask), training.Hook(after_step=look)]
    trained = training.train(ticket, stripes(), asked, hooks=hooks).model
    assert steps == [True] * 18
    same(trained, whole)  # the last round, done alone
    assert left(whole) == mask.left
    assert provenance.of(whole).edits == (provenance.Masked(left=mask.left, weights="trained"),)


@pytest.mark.parametrize("step", [0, 4, 6])
def test_rewinding_brings_the_weights_of_step_k_back_to_the_bit(step: int) -> None:
    """Also momentum, schedule, data order and dropout: under a mask that keeps everything nothing changes."""
    seen: list[nn.Module] = []

    def remember(run: training.Run) -> None:
        if run.step == step:
            seen.append(copy.deepcopy(run.model))

    asked = recipe(epochs=2)
    dense = training.train(network(dropout=0.3), stripes(), asked, hooks=[training.Hook(after_step=remember)]).model
    whole, ticket = (
        found(asked, net=network(dropout=0.3), rounds=2, rewind_step=step, round_share=1e-9, deliver=what).model
        for what in ("trained", "ticket")
    )
    same(ticket, seen[0] if step else network())
    same(whole, dense)
    assert provenance.of(whole).edits[0].left == {"0.weight": 72, "3.weight": 864, "9.weight": 36}


def test_every_round_is_a_whole_training() -> None:
    runs = [found(rounds=rounds, compete="all") for rounds in (1, 2, 3)]
    assert [sum(left(run.model).values()) for run in runs] == [778, 622, 498]
    assert runs[-1].search.history[-1].validation_accuracy == accuracy(runs[-1].model)
    assert len(runs[-1].search.history) == 4 * 3
    assert runs[-1].trained[0].images == 4 * 3 * 96


@pytest.mark.parametrize(
    "settings", [{}, {"deliver": "ticket"}, {"begin": "random"}, {"begin": "reinitialised"}, {"begin": "by-layer"}]
)
@pytest.mark.parametrize(("rounds", "step"), [(1, 0), (2, 4)])
def test_nothing_is_trained_that_is_thrown_away_and_each_training_is_booked_as_what_it_was(
    settings: dict[str, Any], rounds: int, step: int
) -> None:
    run = found(recipe(epochs=1), rounds=rounds, rewind_step=step, **settings)
    first, last = 96, 16 * (6 - step)
    search = [first] + [last] * (rounds - 1)
    trained = [] if settings.get("deliver") == "ticket" else [last]
    assert [leg.images for leg in run.legs if leg.search] == search
    assert [leg.images for leg in run.legs if not leg.search] == trained
    assert len(run.search.history) == len(search + trained)
    assert sum(one.images for one in run.trained) == sum(search + trained)


def test_a_step_that_is_not_in_the_run_is_refused() -> None:
    with pytest.raises(SpecError, match="rewind_step is 18: the schedule has only 18"):
        found(rewind_step=18)


@pytest.mark.parametrize("stop", [3, 20, 40])
def test_a_search_that_was_killed_goes_on_to_the_same_bits(stop: int, tmp_path: Path) -> None:
    settings = {"rounds": 2, "rewind_step": 4}
    once, calls = found(**settings), itertools.count(1)

    def kill(doing: str, share: float | None) -> None:
        if next(calls) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found(more={"progress": kill, "store": training.Store(tmp_path, seconds=0)}, **settings)
    again = found(more={"store": training.Store(tmp_path, resume=True)}, **settings)
    same(once.model, again.model)
    assert again.search.history == once.search.history


def test_controls_differ_from_the_ticket_in_one_thing() -> None:
    full, weights = WeightMask.full(network()), dict(prunable(network(seed=2)))
    mask = after(full, weights, WeightTicketConfig(), 3)
    ticket = Ticket(mask, snapshot.take(network(), None, 0), network(seed=2))
    own = prunable(ticket.network())
    fresh = prunable(weight_ticket.reinitialised(network(seed=1), mask))
    by_layer = prunable(weight_ticket.reinitialised_by_layer(ticket, seed=1))
    model, other = weight_ticket.random_sparse(ticket, seed=1)
    sparse, start = prunable(model), prunable(network())
    for name, keep in mask.keep.items():
        assert torch.equal(own[name], start[name] * keep)
        assert torch.equal(fresh[name] != 0, keep) and not torch.equal(fresh[name], own[name])
        assert torch.equal(by_layer[name] != 0, keep) and not torch.equal(by_layer[name], own[name])
        assert torch.equal(by_layer[name][keep].sort().values, own[name][keep].sort().values)
        assert other.left[name] == mask.left[name] and not torch.equal(other.keep[name], keep)
        assert torch.equal(sparse[name][other.keep[name]], start[name][other.keep[name]])
        assert int(sparse[name].count_nonzero()) == mask.left[name]


class Side(nn.Module):
    """A layer beside a shortcut: nothing is lost for good without it."""

    def __init__(self, small: float) -> None:
        super().__init__()
        self.stem, self.side, self.head = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 10, 1), nn.Linear(8, 3)
        self.join = nn.Conv2d(10, 8, 1)
        with torch.no_grad():
            self.side.weight.mul_(small)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images).relu()
        logits: torch.Tensor = self.head((x + self.join(self.side(x).relu())).mean((2, 3)))
        return logits


def small_stem() -> nn.Module:
    net = network()
    with torch.no_grad():
        net.get_parameter("0.weight").mul_(1e-6)
    return net


def test_a_round_after_which_the_network_answers_the_same_to_all_is_the_last() -> None:
    """All layers compete, and one that begins with small weights loses all: nothing tells an input from another."""
    asked = recipe(learning_rate=1e-9, epochs=1)
    steps: list[object] = []
    with pytest.raises(MaskError, match=r"round 1 of 3 leaves .* \(none in 0.weight\): .*answers the same(?s:.*)layer"):
        found(asked, small_stem(), {"watchers": [steps.append]}, rounds=3, round_share=0.3, compete="all")
    before = len(steps)
    with pytest.raises(MaskError):
        found(asked, small_stem(), {"watchers": [steps.append]}, rounds=1, round_share=0.3, compete="all")
    assert len(steps) == 2 * before  # the first round is all that was trained
    found(asked, small_stem(), rounds=3, round_share=0.3)  # layer by layer it is a ticket


def test_a_network_whose_path_is_broken_between_layers_that_have_weights_answers_the_same() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.LazyLinear(3))
    net(torch.zeros(1, 3, 8, 8))
    first, second = (net.get_parameter(f"{n}.weight").detach() for n in (0, 2))
    first[1:] = 0
    second[:, :1] = 0
    assert not weight_ticket._tells_apart(net.eval(), torch.randn(4, 3, 8, 8))
    second[:, :1] = 1
    first.fill_(1.0)
    assert weight_ticket._tells_apart(net.eval(), torch.rand(4, 3, 8, 8))


def test_layers_that_are_nearly_empty_are_named_beside_a_shortcut() -> None:
    asked = recipe(learning_rate=1e-9, epochs=1)
    run = found(asked, Side(1e-6), rounds=1, round_share=0.4, compete="all")
    [told] = [note for note in run.warnings if "hardly a weight is left" in note]
    assert "side.weight (0 left)" in told and "stem.weight" not in told and "compete='layer'" in told
    assert not any("hardly" in note for note in found(asked, Side(1.0), rounds=1, round_share=0.3).warnings)


def test_fewer_weights_than_layers_are_refused_before_the_first_step() -> None:
    with pytest.raises(MaskError, match="leave 2 of the 972 in"):
        found(rounds=1, round_share=0.998, compete="all")
