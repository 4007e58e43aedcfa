"""What budgets count is what the network takes: by the graph, by the counter, and of what is delivered."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit.channels import torch_pruning
from slimkit.data.augmentation import Augmentation
from slimkit.data.dataset import Dataset
from slimkit.data.tensor_split import in_memory
from slimkit.errors import OutOfReachError
from slimkit.measure.macs import count_macs
from slimkit.methods import EarlyBirdConfig
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import remove
from tests.blocks import ACROSS, BLOCKS
from tests.nets import example, random_net
from tests.test_channels_property import random_mask

WIDTH, SIZE, HEAD = 24, 6, 4
PLACES = SIZE * SIZE


class Heads(nn.Module):
    """Attention over pixels whose heads may go: `view(B, T, -1, head)`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.head = kind, HEAD
        told = WIDTH // 2 if kind == "shared keys" else WIDTH
        self.ask, self.key, self.value = (nn.Linear(WIDTH, made) for made in (WIDTH, told, told))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.near = nn.Parameter(torch.randn(PLACES, PLACES))
        self.near_by_head = nn.Parameter(torch.randn(WIDTH // HEAD, PLACES, PLACES))
        self.far = nn.Parameter(torch.randn(HEAD, PLACES))

    def forward(self, x: Tensor) -> Tensor:
        n, places, _ = x.shape
        q, k, v = (f(x).view(n, places, -1, self.head).transpose(1, 2) for f in (self.ask, self.key, self.value))
        if self.kind == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.kind == "shared keys":
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        elif self.kind == "einsum":
            y = torch.einsum("bhts,bhsd->bhtd", torch.einsum("bhtd,bhsd->bhts", q, k).mul(0.5).softmax(-1), v)
        elif self.kind == "linear":
            y = F.relu(q) @ (F.relu(k).mT @ v)
        else:
            scores = 0.5 * q @ k.mT
            if self.kind == "relative":
                scores = scores + self.near
            elif self.kind == "relative, by head":
                scores = scores + self.near_by_head
            elif self.kind == "relative, of queries":
                scores = scores + q @ self.far
            y = scores.softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, places, -1))


class Torch(nn.Module):
    """torch's own attention, with its weights or without, or within a layer of an encoder."""

    def __init__(self, kind: str, heads: int) -> None:
        super().__init__()
        first = "first" in kind
        self.weights, self.first, self.layer = "weights" in kind, first, "layer" in kind
        made = nn.TransformerEncoderLayer if self.layer else nn.MultiheadAttention
        more = {"dim_feedforward": 2 * WIDTH} if self.layer else {}
        self.inner: Any = made(WIDTH, heads, batch_first=first, **more)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.first else x.transpose(0, 1)
        y = self.inner(x) if self.layer else self.inner(x, x, x, need_weights=self.weights)[0]
        return y if self.first else y.transpose(0, 1)


class Mixer(nn.Module):
    """Layers over pixels and over channels in turns: a matrix whose rows are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.wide, self.narrow = (
            nn.Linear(a, b) for a, b in ((PLACES, 5), (5, PLACES), (WIDTH, 9), (9, WIDTH))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.up(F.relu(self.down(x.mT))).mT
        return self.narrow(F.relu(self.wide(x)))


class Seeing(nn.Module):
    """A stem, one of these beside a stream, a head."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.inner, self.last = inner, nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        return self.last((x + self.inner(x)).mean(1))


KINDS = ("sdpa", "shared keys", "einsum", "matmul", "linear", "relative", "relative, by head", "relative, of queries")
OWN = ("first, weights", "first", "weights", "plain", "first, layer", "layer")
NETS = {
    **{kind: lambda kind=kind: Heads(kind) for kind in KINDS},
    **{f"torch's: {kind}, {n} heads": lambda kind=kind, n=n: Torch(kind, n) for kind in OWN for n in (3, 6)},
    "mixer": Mixer,
}


def made(name: str) -> Seeing:
    torch.manual_seed(0)
    return Seeing(NETS[name]()).eval()


X = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETS)
def test_the_graph_has_the_multiply_adds_of_every_cut(name: str) -> None:
    net = made(name)
    graph = slimkit.trace(net, X[:1])
    assert graph.macs(Mask.full(graph).keep) == count_macs(net, X[:1])
    for seed in range(4):
        mask = random_mask(graph, seed)
        assert graph.macs(mask.keep) == count_macs(remove(net, graph, mask), X[:1])


@pytest.mark.parametrize("name", NETS)
def test_heads_go_of_every_attention(name: str) -> None:
    net = made(name)
    graph = slimkit.trace(net, X[:1])
    assert len(graph.groups) >= (2 if name in KINDS else 1), graph.kept


def test_what_no_name_reaches_is_counted() -> None:
    class Beside(Seeing):
        def forward(self, x: Tensor) -> Tensor:
            fixed = torch.ones(1, 2, 5, 8)
            return super().forward(x) + F.scaled_dot_product_attention(fixed, fixed, fixed).mean()

    net = Beside(Mixer()).eval()
    graph = slimkit.trace(net, X)
    for seed in range(2):
        mask = random_mask(graph, seed)
        assert graph.macs(mask.keep) == count_macs(remove(net, graph, mask), X[:1])


def seen(net: nn.Module, images: Any) -> Any:
    graph = slimkit.trace(net, images)
    groups = [(g.name, g.layers, g.members.tolist(), g.per_unit) for g in graph.groups]
    kept = [(k.layer, k.channels, k.reason) for k in graph.kept]
    return graph.units, groups, kept, graph.macs(random_mask(graph, 0).keep)


@pytest.mark.parametrize("name", NETS)
def test_the_graph_is_that_of_any_number_of_images(name: str) -> None:
    net = made(name)
    assert seen(net, X[:1]) == seen(net, X[:2]) == seen(net, X)


@pytest.mark.parametrize("name", sorted(BLOCKS | ACROSS))
def test_the_graph_of_convolutions_is_that_of_any_number_of_images(name: str) -> None:
    net = random_net([(name, 4), ("Chain", 3)], "pool", seed=0)
    assert seen(net, example(net, 1)) == seen(net, example(net, 2)) == seen(net, example(net, 4))


class OfWeights(nn.Module):
    """Computes something of weights alone: a sub-network on a grid, a bias by place in attention, a product of two."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)
        self.register_buffer("grid", torch.randn(1, 2, SIZE, SIZE))
        self.up, self.down = nn.Conv2d(2, 64, 3, padding=1), nn.Conv2d(64, 16, 3, padding=1)
        self.place = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 1))
        self.left, self.right = nn.Parameter(torch.randn(16, 256) / 16), nn.Parameter(torch.randn(256, 16) / 16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        if self.kind == "grid":
            x = x + self.down(F.relu(self.up(self.grid)))
        elif self.kind == "weights":
            x = x + F.linear(x.permute(0, 2, 3, 1), self.left @ self.right).permute(0, 3, 1, 2)
        else:
            bias = self.place(self.grid.flatten(2)[0].mT[:, None] - self.grid.flatten(2)[0].mT)[..., 0]
            y = x.flatten(2).mT
            y = (y @ y.mT / 4 + bias).softmax(-1) @ y
            return self.last((x.flatten(2).mT + y).mean(1))
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize(("kind", "budget"), [("grid", 0.5), ("weights", 0.9), ("place", 0.9)])
def test_what_is_computed_of_weights_alone_is_no_more_for_more_images(kind: str, budget: float) -> None:
    torch.manual_seed(0)
    net, shares = OfWeights(kind).eval(), []
    images = torch.randn(32, 3, SIZE, SIZE)
    for count in (1, 4, 32):
        graph = slimkit.trace(net, images[:count])
        assert graph.macs(Mask.full(graph).keep) == count_macs(net, images[:1])
        found = slimkit.compress(net, images[:count], max_macs=budget, round_to=1, recover=False, onnx=False)
        shares.append(count_macs(found.model, images[:1]) / count_macs(net, images[:1]))
    assert 0.9 * budget <= shares[0] <= budget and shares == [shares[0]] * 3


class Pixels(nn.Module):
    """A non-local block, whose products torch-pruning does not see, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.ask, self.key, self.value, self.out = (nn.Conv2d(a, b, 1) for a, b in ((16, 8), (16, 8), (16, 8), (8, 16)))
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, _, h, w = x.shape
        q, k, v = (f(x).flatten(2) for f in (self.ask, self.key, self.value))
        y = v @ (q.mT @ k).softmax(-1).mT
        return self.last(F.relu(x + self.out(y.reshape(n, -1, h, w))).mean((2, 3)))


def pixels() -> Pixels:
    torch.manual_seed(0)
    return Pixels().eval()


def test_torch_pruning_counts_what_our_own_pass_does() -> None:
    net, x = pixels(), torch.randn(2, 3, 12, 12)
    graph = torch_pruning.trace(net, x)
    assert graph.macs(Mask.full(graph).keep) == count_macs(net, x)
    for seed in range(4):
        mask = random_mask(graph, seed)
        assert graph.macs(mask.keep) == count_macs(remove(net, graph, mask), x)


@pytest.mark.parametrize("tracer", ["slimkit", "torch-pruning"])
@pytest.mark.parametrize("budget", [0.8, 0.6, 0.5])
def test_what_is_delivered_is_within_the_budget_and_near_it(tracer: str, budget: float) -> None:
    net, x = pixels(), torch.randn(1, 3, 12, 12)
    made = slimkit.compress(net, x, max_macs=budget, tracer=tracer, round_to=1, recover=False, onnx=False)
    assert 0.9 * budget <= count_macs(made.model, x) / count_macs(net, x) <= budget


@pytest.mark.parametrize(
    "name", ["sdpa", "shared keys", "matmul", "torch's: first, 3 heads", "torch's: first, layer, 6 heads"]
)
@pytest.mark.parametrize("budget", [0.8, 0.6])
def test_attention_is_delivered_near_its_budget(name: str, budget: float) -> None:
    net, x = made(name), X[:1]
    made_of = slimkit.compress(net, x, max_macs=budget, round_to=1, recover=False, onnx=False)
    share = count_macs(made_of.model, x) / count_macs(net, x)
    said = [warning for warning in made_of.report.warnings if warning.startswith("max_macs allows")]
    assert share <= budget and (share >= 0.9 * budget) == (not said)


@pytest.mark.parametrize(
    ("name", "budget"), [("torch's: first, 3 heads", 0.6), ("torch's: first, layer, 6 heads", 0.75)]
)
def test_attention_is_fitted_where_its_heads_are_odd(name: str, budget: float) -> None:
    """torch computes an even number of heads as one operator, and an odd one as several."""
    net, x = made(name), X[:1]
    fast = torch.backends.mha.get_fastpath_enabled()
    images = torch.randn(48, 3, SIZE, SIZE)
    made_of = slimkit.compress(net, x, max_macs=budget, round_to=1, calibration=images, onnx=False)
    assert count_macs(made_of.model, x) <= budget * count_macs(net, x)
    assert made_of.report.fit is not None and made_of.report.fit.after < made_of.report.fit.before
    assert torch.backends.mha.get_fastpath_enabled() == fast


class Costly(nn.Module):
    """Computes more where it is narrower, which no tracing pass can know, and adds none of it."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Linear(32, 5)
        self.register_buffer("square", torch.zeros(more, more))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        more = self.square @ self.square if x.shape[1] < 32 else self.square
        return self.second(x.mean((2, 3))) + more.sum()


def test_the_network_is_held_against_the_budget_and_chosen_again() -> None:
    net, x = Costly(20).eval(), torch.randn(1, 3, 8, 8)
    made = slimkit.compress(net, x, max_macs=0.6, round_to=1, recover=False, onnx=False)
    assert 0.5 <= count_macs(made.model, x) / count_macs(net, x) <= 0.6


def test_a_network_that_no_choice_brings_within_the_budget_is_refused() -> None:
    net, x = Costly(60).eval(), torch.randn(1, 3, 8, 8)
    with pytest.raises(OutOfReachError, match=r"max_macs is .*\n  Raise the budget"):
        slimkit.compress(net, x, max_macs=0.6, round_to=1, recover=False, onnx=False)


def pictures(seed: int, count: int = 64) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 255, (count, 3, SIZE, SIZE), generator=random).to(torch.uint8), torch.arange(count) % 5


TRAINING = {"epochs": 2, "batch_size": 32, "round_to": 1, "device": "cpu", "precision": "fp32", "onnx": False}


@pytest.fixture(scope="module")
def toy() -> Dataset:
    return in_memory("toy", pictures(0), pictures(1), pictures(2), classes=5, augmentation=Augmentation())


def test_a_training_costs_what_is_left_of_its_heads(toy: Dataset) -> None:
    net = made("sdpa")
    trained = slimkit.train(net, toy, 0.5, method=EarlyBirdConfig(at=1), **TRAINING)
    whole, left = count_macs(net, X[:1]), count_macs(trained.model, X[:1])
    assert trained.model.inner.ask.out_features < WIDTH
    assert trained.report.cost.share_of_dense_training == pytest.approx((1 + left / whole) / 2)


def test_a_training_is_refused_where_its_network_takes_more_than_the_budget(toy: Dataset) -> None:
    with pytest.raises(OutOfReachError, match=r"takes .* by count.\n  Lower the budget"):
        slimkit.train(Costly(20), toy, max_macs=0.6, method=EarlyBirdConfig(at=1), **TRAINING)


def test_much_less_than_a_budget_is_said_of_a_training(toy: Dataset) -> None:
    torch.manual_seed(0)
    net, x = Seeing(Torch("first", 2)), X[:1]
    made_of = slimkit.train(net, toy, max_macs=0.9, method=EarlyBirdConfig(at=1), **TRAINING)
    assert count_macs(made_of.model, x) / count_macs(net, x) < 0.9 * 0.9
    assert any(warning.startswith("max_macs allows") for warning in made_of.report.warnings)


@pytest.mark.parametrize("round_to", [16, 1])
def test_what_goes_many_at_once_is_named_where_it_is_so(round_to: int) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), *inner, Mean(), nn.Linear(32, 5))
    plain = noted(net.eval(), torch.randn(1, 3, 8, 8), 0.9, round_to)
    assert ("Counts of channels go in steps of 16." in plain) == (round_to == 16) and "head" not in plain
    heads = noted(made("torch's: first, 3 heads"), X[:1], 0.8, 1)
    assert "tied as those of a head are" in heads and "in steps of" not in heads


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def noted(net: nn.Module, x: Tensor, budget: float, round_to: int) -> str:
    made_of = slimkit.compress(net, x, max_macs=budget, round_to=round_to, recover=False, onnx=False)
    return "".join(warning for warning in made_of.report.warnings if warning.startswith("max_macs allows"))
