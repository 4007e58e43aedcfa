"""Scores of units, against sums written out by hand."""

import copy

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit.channels import Graph, trace
from slimkit.errors import SpecError
from slimkit.selection import ranking
from slimkit.selection.scope import SCOPES


@pytest.fixture
def chain() -> tuple[nn.Sequential, Graph]:
    """A network in which only the six channels in the middle can be removed; each is read at four positions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    nn.init.uniform_(model[1].weight, 0.1, 2.0)  # type: ignore[arg-type]
    nn.init.normal_(model[1].bias)  # type: ignore[arg-type]
    return model.eval(), trace(model, torch.zeros(1, 2, 4, 4))


def by_hand(model: nn.Sequential) -> Tensor:
    made, gamma, read = (model.get_parameter(name).detach() for name in ("0.weight", "1.weight", "4.weight"))
    squares = made.square().sum((1, 2, 3)) + gamma.square() + read.view(3, 6, 4).square().sum((0, 2))
    return squares / squares.mean()


def test_group_norm_adds_the_squares_of_all_weights_of_a_unit(chain: tuple[nn.Sequential, Graph]) -> None:
    model, graph = chain
    assert [group.members.tolist() for group in graph.groups] == [list(range(6))]
    torch.testing.assert_close(ranking.scores("group-norm", model, graph), by_hand(model))


def test_reader_norm_adds_the_squares_of_what_reads_a_unit(chain: tuple[nn.Sequential, Graph]) -> None:
    model, graph = chain
    read = model.get_parameter("4.weight").detach().view(3, 6, 4).square().sum((0, 2))
    torch.testing.assert_close(ranking.scores("reader-norm", model, graph), read / read.mean())


def test_a_group_that_nothing_reads_is_ranked_by_what_makes_it(chain: tuple[nn.Sequential, Graph]) -> None:
    model, graph = chain
    nn.init.zeros_(model.get_parameter("4.weight"))
    expected = ranking.scores("group-norm", model, graph)
    assert torch.equal(ranking.scores("reader-norm", model, graph), expected)


def test_a_bias_makes_no_channel_important(chain: tuple[nn.Sequential, Graph]) -> None:
    model, graph = chain
    before = ranking.scores("group-norm", model, graph)
    with torch.no_grad():
        model[1].bias[2], model[0].bias[2] = -1e3, 1e3  # type: ignore[index, operator]
    assert torch.equal(ranking.scores("group-norm", model, graph), before)


def test_group_norm_is_relative_to_the_group() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1),
    ).eval()  # fmt: skip
    graph = trace(model, torch.zeros(1, 2, 4, 4))
    scores = ranking.scores("group-norm", model, graph)
    for group in graph.groups:
        assert scores[group.members].mean().item() == pytest.approx(1.0)


def test_popup_raises_the_channels_that_tell_the_classes_apart(chain: tuple[nn.Sequential, Graph]) -> None:
    """Two units carry the classes, the others do not: their scores rise, those of the others fall on average."""
    model, graph = chain
    torch.manual_seed(0)
    with torch.no_grad():
        model.get_parameter("0.weight")[:] = torch.randn(6, 2, 3, 3)
        model.get_parameter("1.weight")[:] = 1.0
        model.get_parameter("1.bias").zero_()
        model.get_parameter("4.weight")[:] = 0.3 * torch.randn(3, 24)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(256, 2, 4, 4)
    masked = model.get_parameter("4.weight").detach().clone().view(3, 6, 4)
    masked[:, [0, 2, 3, 5]] = 0
    with torch.no_grad():
        hidden = model[:4](images)
        labels = (hidden @ masked.view(3, 24).T).argmax(1)
    context = ranking.Context(0, [(images, labels)])
    found = ranking.scores("popup", model, graph, context)
    again = ranking.scores("popup", model, graph, context)
    assert torch.equal(found, again)
    start = ranking.scores("group-norm", model, graph).sqrt()
    others = [0, 2, 3, 5]
    assert (found - start)[[1, 4]].min() > 0 > (found - start)[others].mean()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(SpecError, match="popup': it needs data"):
        ranking.scores("popup", model, graph)


def test_popup_hears_of_channels_that_it_began_without(chain: tuple[nn.Sequential, Graph]) -> None:
    """The two units that carry the classes have the smallest weights of all."""
    model, graph = chain
    torch.manual_seed(0)
    with torch.no_grad():
        model.get_parameter("1.weight")[:] = 1.0
        model.get_parameter("1.bias").zero_()
        model.get_parameter("4.weight").view(3, 6, 4)[:, [0, 2, 3, 5]] *= 2.0
        images = torch.randn(256, 2, 4, 4)
        masked = model.get_parameter("4.weight").detach().clone().view(3, 6, 4)
        masked[:, [0, 2, 3, 5]] = 0
        labels = (model[:4](images) @ masked.view(3, 24).T).argmax(1)
    start = ranking.scores("group-norm", model, graph)
    assert sorted(start.argsort()[:2].tolist()) == [1, 4]
    found = ranking.scores("popup", model, graph, ranking.Context(0, [(images, labels)]))
    assert sorted(found.argsort()[-2:].tolist()) == [1, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_another_default_type_changes_no_mask(chain: tuple[nn.Sequential, Graph], dtype: torch.dtype) -> None:
    model, graph = chain
    before = [ranking.rank(name, model, graph, scope) for name in ("group-norm", "gamma") for scope in SCOPES]
    torch.set_default_dtype(torch.float64)
    try:
        twin = copy.deepcopy(model).to(dtype)
        after = [ranking.rank(name, twin, graph, scope) for name in ("group-norm", "gamma") for scope in SCOPES]
        assert not slimkit.EarlyBird(graph, ratio=0.5).observe(twin)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(after, before)
