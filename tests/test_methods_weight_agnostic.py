"""Weight-agnostic networks: what says nothing, what says something, and the search for topologies."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from slimkit import data, training
from slimkit.errors import ArchitectureError, DataError, SpecError
from slimkit.measure.quality import quality as top1
from slimkit.methods import weight_agnostic
from slimkit.methods.pareto import crowding, dominates, fronts
from slimkit.methods.topology import ACTIVATIONS, Topology, child, minimal
from slimkit.methods.topology_search import SearchConfig, score, search
from slimkit.models import build
from slimkit.selection.weight_mask import prunable
from tests.training_sample import accuracy, network, recipe, stripes


@pytest.mark.parametrize("arch", ["zoo:resnet8", "zoo:vgg8", "zoo:lenet-300-100"])
@pytest.mark.parametrize("value", [-1.0, 0.1])
def test_identical_weights_give_exactly_chance_and_it_is_said_why(arch: str, value: float) -> None:
    digits = data.open("digits")
    model = build(arch, classes=10, input_shape=(1, 8, 8)).model if "lenet" not in arch else flat()
    found = weight_agnostic.identical(model, digits.test, value)
    assert found.accuracy == pytest.approx(found.chance, abs=1e-12)
    assert (found.chance, found.tied) == (0.1, 1.0)
    assert "100 % of the images have the same logit for all 10 classes" in found.reason


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))


class Told(nn.Module):
    """A network that does not let its weights decide alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layer(x.flatten(1))) + torch.tensor([0.0, 50.0, 0.0])


def test_a_network_that_is_not_at_chance_is_not_said_to_be() -> None:
    found = weight_agnostic.identical(Told(), stripes())
    assert found.tied == 0.0
    assert found.accuracy == pytest.approx(1 / 3)  # all images are told to be of the second class


class Several(nn.Module):
    """Adds up what it makes of each of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return cast(Tensor, self.layer(a + b + c))


@pytest.mark.parametrize("asked", [tuple, dict])
def test_shares_are_of_images_however_many_inputs_a_network_takes(asked: type) -> None:
    random = torch.Generator().manual_seed(0)
    named = {name: torch.randn(60, 6, generator=random) for name in "abc"}
    inputs = named if asked is dict else tuple(named.values())
    part = (inputs, torch.arange(60) % 3)
    found = weight_agnostic.identical(Several(), data.as_dataset((part, part)).validation)
    assert (found.accuracy, found.tied) == (pytest.approx(1 / 3), 1.0)
    assert found.reason.startswith("100 % of the images")


def test_signs_and_zeros_stay_and_a_layer_has_one_size() -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("3.weight")[:, 2] = 0
    twice = weight_agnostic.by_sign(model, 2.0)
    for name, weight in prunable(twice).items():
        old = model.get_parameter(name).detach()
        assert torch.equal(weight.sign(), old.sign())
        sizes = weight.abs()[old != 0]
        torch.testing.assert_close(sizes, (2 * old.abs()[old != 0].mean()).expand_as(sizes))
    with pytest.raises(SpecError, match="scale is 0"):
        weight_agnostic.by_sign(model, 0.0)


def test_signs_alone_are_above_chance_and_below_what_was_trained() -> None:
    trained = training.train(network(), stripes(), recipe(epochs=30)).model
    found = weight_agnostic.shared_magnitude(trained, stripes(), stripes(), (0.5, 1.0, 2.0))
    assert accuracy(trained) > max(right for _, right in found.values()) > 0.5


# Pareto ----------------------------------------------------------------------------------------------------

POINTS = st.integers(1, 3).flatmap(
    lambda d: st.lists(st.lists(st.integers(0, 5), min_size=d, max_size=d), min_size=1, max_size=25)
)


@given(POINTS)
@settings(max_examples=200)
def test_no_point_on_a_front_is_dominated(rows: list[list[int]]) -> None:
    points = torch.tensor(rows, dtype=torch.float64)
    number = fronts(points)

    def beaten(j: int, among: list[int]) -> bool:
        return any(all(a >= b for a, b in zip(rows[i], rows[j], strict=True)) and rows[i] != rows[j] for i in among)

    for front in range(int(number.max()) + 1):
        members = (number == front).nonzero().flatten().tolist()
        assert members
        rest = (number >= front).nonzero().flatten().tolist()
        assert not any(beaten(j, rest) for j in members)
        assert all(beaten(j, members) for j in (number == front + 1).nonzero().flatten().tolist())
    assert torch.equal(dominates(points).any(0), number > 0)


def test_crowding_counts_each_measure_by_its_range() -> None:
    found = crowding(torch.tensor([[0.0, 4000.0], [1.0, 3000.0], [4.0, 0.0], [2.0, 1000.0]]))
    assert found.tolist() == [torch.inf, 0.5 + 0.75, torch.inf, 0.75 + 0.75]
    assert crowding(torch.tensor([[1.0, 1.0]])).tolist() == [torch.inf]


# Topologies ------------------------------------------------------------------------------------------------


def by_hand(topology: Topology, image: Tensor, weights: dict[tuple[int, int], float]) -> list[float]:
    """Compute the outputs of one image node by node."""
    values = {0: 1.0, **{1 + i: float(v) for i, v in enumerate(image)}}
    kinds = list(ACTIVATIONS.values())

    def value(node: int) -> float:
        if node not in values:
            total = sum(value(source) * w for (source, target), w in weights.items() if target == node)
            hidden = node - topology.first_hidden
            made = kinds[topology.hidden[hidden]](torch.tensor(total, dtype=torch.float64)) if hidden >= 0 else total
            values[node] = float(made)
        return values[node]

    return [value(1 + topology.inputs + i) for i in range(topology.outputs)]


@given(st.integers(0, 10_000), st.integers(0, 60))
@settings(max_examples=40)
def test_a_topology_computes_node_by_node_and_a_child_differs_by_one_change(seed: int, changes: int) -> None:
    random = np.random.default_rng(seed)
    topology = minimal(3, 2, 0.6, random)
    for _ in range(changes):
        parent, topology = topology, child(topology, random)
        assert len(topology.hidden) - len(parent.hidden) in (0, 1)
        assert topology.connections - parent.connections in (0, 1)
        pairs = list(zip(topology.sources.tolist(), topology.targets.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)
    torch.manual_seed(seed)
    images = torch.randn(4, 3, dtype=torch.float64)
    weights = torch.randn(2, topology.connections, dtype=torch.float64)
    found = topology(images, weights)
    used = topology.used
    for w in range(2):
        pairs = zip(topology.sources[used].tolist(), topology.targets[used].tolist(), strict=True)
        own = dict(zip(pairs, weights[w].tolist(), strict=True))
        for n in range(4):
            assert found[w, n].tolist() == pytest.approx(by_hand(topology, images[n], own), abs=1e-9)
    same = topology.shared(images, torch.tensor([0.7], dtype=torch.float64))
    torch.testing.assert_close(same[0], topology(images, torch.full_like(weights, 0.7))[0])


def test_a_topology_multiplies_by_what_connections_may_lead_to_alone() -> None:
    """Bias and inputs have no column of the matrix: nothing leads to them."""
    inputs, outputs, images = 3072, 10, 4
    one = minimal(inputs, outputs, 0.05, np.random.default_rng(0))
    with FlopCounterMode(display=False) as counted:
        one.shared(torch.rand(images, inputs), torch.tensor([0.5, 1.0, 2.0]))
    assert counted.get_total_flops() == 2 * 3 * images * (1 + inputs) * outputs


@pytest.mark.parametrize(
    ("setting", "value"), [("population", 0), ("population", 2.5), ("generations", 0), ("cull", 1.5), ("share", -0.1)]
)
def test_settings_out_of_range(setting: str, value: float) -> None:
    with pytest.raises(SpecError, match=f"{setting} is"):
        SearchConfig(**{setting: value})  # type: ignore[arg-type]


def test_a_search_is_the_same_twice_and_its_front_has_no_dominated_topology() -> None:
    config = SearchConfig(population=24, generations=8, images=96)
    first, second = (search(stripes(), 3, config) for _ in range(2))
    assert [one.mean for one in first] == [one.mean for one in second]
    for one in first:
        assert not any(
            (a.mean, -a.topology.connections) != (one.mean, -one.topology.connections)
            and a.mean >= one.mean
            and a.topology.connections <= one.topology.connections
            for a in first
        )


@pytest.mark.parametrize(
    ("inputs", "targets", "said"),
    [
        (
            (torch.zeros(8, 4), torch.zeros(8, 2)),
            torch.zeros(8).long(),
            r"gives tuple and torch.int64 \[8\]: .*in one ",
        ),
        ({"image": torch.zeros(8, 4)}, torch.zeros(8).long(), "gives dict and"),
        (torch.zeros(8, 4), torch.zeros(8, 4).long(), r"torch.int64 \[8, 4\]: .* a class from 0 to 2 for each"),
        (torch.zeros(8, 4), torch.zeros(8), "torch.float32"),
        (torch.zeros(8, 4), torch.full((8,), 3), "from 0 to 2"),
        (torch.zeros(8, 4), [{}] * 8, "and list"),
    ],
)
def test_a_search_refuses_what_topologies_cannot_read(inputs: Any, targets: Any, said: str) -> None:
    class Given:
        def __len__(self) -> int:
            return 8

        def batches(self, *args: Any, **settings: Any) -> Any:
            return iter([(inputs, targets)])

    with pytest.raises(DataError, match=said):
        search(Given(), 3, SearchConfig(population=2, generations=1))


class Weighted(nn.Module):
    """A topology as a network with a weight of its own for every connection, to be trained."""

    def __init__(self, topology: Topology, start: float) -> None:
        super().__init__()
        self.topology = topology
        self.weights = nn.Parameter(torch.full((topology.connections,), start))

    def forward(self, images: Tensor) -> Tensor:
        return self.topology(images.flatten(1), self.weights[None])[0]


@pytest.mark.slow
def test_random_below_shared_below_tuned_below_trained_on_digits() -> None:
    digits = data.open("digits")
    front = search(digits.train, 10, SearchConfig(generations=120))
    best = max(front, key=lambda one: one.mean)
    topology, chance = best.topology, torch.Generator().manual_seed(0)
    [(images, labels)] = digits.test.batches(1000)
    images = images.flatten(1)
    span = torch.rand(50, topology.connections, generator=chance) * 4 - 2

    @torch.no_grad()
    def reached(logits: Tensor) -> float:
        return float((logits.argmax(-1) == labels).double().mean())

    single = reached(topology(images, span))
    shared = reached(topology.shared(images, span[:, 0]))
    tuned = reached(topology.shared(images, torch.tensor([best.weight])))
    rate = training.Recipe(
        epochs=20, batch_size=64, learning_rate=0.05, weight_decay=0, augment=False, precision="fp32", device="cpu"
    )
    trained = top1(training.train(Weighted(topology, best.weight), digits.train, rate).model, digits.test)
    assert single + 0.1 < shared < tuned < trained
    assert score(topology, images, labels).mean > -2.2


def test_a_size_that_overflows_is_blamed_itself() -> None:
    model = build("zoo:resnet8(width=4)", input_shape=(1, 8, 8)).model
    digits = data.open("digits")
    with pytest.raises(SpecError, match=r"scale 1e\+30: .* not be finite"):
        weight_agnostic.shared_magnitude(model, digits.train, digits.validation, [1e30])


def test_a_width_of_nothing_is_blamed_itself() -> None:
    with pytest.raises(ArchitectureError, match=r"with \(width=0\) conv1.weight is \[0, 3, 3, 3\], which is empty"):
        build("zoo:resnet20(width=0)", classes=10)
