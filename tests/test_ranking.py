"""Scores of units, against sums written out by hand."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit.channels import Graph, trace
from slimkit.errors import SpecError
from slimkit.example import call
from slimkit.selection import ranking
from slimkit.selection.scope import SCOPES
from slimkit.tasks import CLASSIFICATION, SEGMENTATION, Task, psnr


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


class Looks(nn.Module):
    """Attention without values: a product of activations sums over all channels that can go; no weight reads one."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(5, 8), nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        return ((self.query(x) @ self.key(x).mT).softmax(-1) @ x).mean(1)


def test_popup_leaves_units_that_no_weight_reads_at_their_norm() -> None:
    model, x = Looks().eval(), torch.randn(4, 3, 5)
    graph = trace(model, x)
    assert graph.products.all()
    assert graph.units == 8
    found = ranking.scores("popup", model, graph, ranking.Context(0, [(x, torch.arange(4))]))
    start = ranking.scores("group-norm", model, graph).sqrt()
    torch.testing.assert_close(found, start / start.mean())


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


class Judged(nn.Module):
    """A network of any inputs and of any nest of outputs: a number an output at each place, or one for all places."""

    labelled: ClassVar[list[bool]] = []  # whether a call was given labels

    def __init__(self, nest: Callable[[Tensor], Any], outputs: int = 3, places: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)  # made as the file is read: without, two channels may be off for all images
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head, self.nest, self.places = nn.Conv2d(8, outputs, 1), nest, places

    def forward(self, x: Tensor, more: Tensor | None = None, labels: Tensor | None = None) -> Any:
        self.labelled.append(labels is not None)
        found = self.head(self.features(x if more is None else x + more))
        return self.nest(found if self.places else found.mean((2, 3)))


IMAGES, CLASSES = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
VALUES, MASKS = torch.rand(8, 3, generator=torch.Generator().manual_seed(1)), (IMAGES[:, 0] * 3).long()
VALUED = Task.of(loss=F.mse_loss, metrics={"PSNR": psnr()}, better="higher")
LABELLED = replace(CLASSIFICATION, called=lambda inputs, targets: {"x": inputs, "labels": targets})


@pytest.mark.parametrize("name", [name for name, one in ranking.CRITERIA.items() if one.needs == "data"])
@pytest.mark.parametrize(
    ("task", "net", "inputs", "targets"),
    [
        (CLASSIFICATION, Judged(lambda out: out), IMAGES, CLASSES),
        (CLASSIFICATION, Judged(lambda out: {"out": out}), IMAGES, CLASSES),
        (CLASSIFICATION, Judged(lambda out: (out, out[:, :1])), (IMAGES, IMAGES), CLASSES),
        (CLASSIFICATION, Judged(lambda out: out), {"x": IMAGES, "more": IMAGES}, CLASSES),
        (LABELLED, Judged(lambda out: out), IMAGES, CLASSES),
        (SEGMENTATION, Judged(lambda out: {"out": out}, places=True), IMAGES, MASKS),
        (VALUED, Judged(lambda out: out), IMAGES, VALUES),
    ],
    ids=["plain", "dict", "tuple", "keywords", "labels", "segmentation", "values"],
)
def test_what_needs_data_ranks_by_the_loss_of_the_task(
    name: str, task: Task, net: nn.Module, inputs: Any, targets: Tensor
) -> None:
    """popup had taken all outputs for scores of classes, and all inputs for one tensor."""
    seen: list[torch.Size] = []

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        assert wanted is targets
        seen.append(outputs.shape)
        return task.loss(outputs, wanted)

    graph = trace(net.eval(), inputs)
    context = ranking.Context(batches=[(inputs, targets)], task=replace(task, loss=loss))
    Judged.labelled.clear()
    scores = ranking.scores(name, net, graph, context)
    assert set(Judged.labelled) == {task is LABELLED}
    assert graph.units == 8 and bool((scores >= 0).all()) and scores.unique().numel() == 8
    assert set(seen) == {task.outputs(call(net, inputs))[0].shape}


def test_gammas_are_added_in_one_order_in_every_process() -> None:
    """It was that of a set of names, which PYTHONHASHSEED decides: sums of floats differed in their last digit."""

    class Noted(dict[str, Any]):
        def get(self, name: str, *default: Any) -> Any:
            asked.append(name)
            return super().get(name, *default)

    asked: list[str] = []
    layers = [(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(8)]
    net = nn.Sequential(*(layer for part in layers for layer in part), nn.Conv2d(4, 2, 1)).eval()
    graph = trace(net, torch.zeros(1, 4, 6, 6))
    vars(graph)["by_tensor"] = Noted(graph.by_tensor)
    ranking.scores("gamma", net, graph)
    assert asked == [name for group in graph.groups for name in group.norms] and len(asked) == 8


class Frozen(nn.Module):
    """Detectron2's BatchNorm: scale, shift and statistics are buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)  # type: ignore[arg-type]


def test_gammas_that_are_buffers_rank_as_parameters_do(chain: tuple[nn.Sequential, Graph]) -> None:
    model, graph = chain
    wanted = ranking.scores("gamma", model, graph)
    frozen = Frozen(6)
    frozen.load_state_dict({name: t for name, t in model[1].state_dict().items() if "tracked" not in name})
    model[1] = frozen
    image = torch.zeros(1, 2, 4, 4)
    graph = trace(model, image)
    assert torch.equal(ranking.scores("gamma", model, graph), wanted)
    bird = slimkit.EarlyBird(graph, ratio=0.5)
    bird.observe(model)
    assert torch.equal(bird.latest.keep, wanted > wanted.median())
    made = slimkit.compress(model, image, ratio=0.5, ranking="gamma", round_to=1, recover=False, onnx=False)
    assert torch.equal(made.mask.keep, wanted >= wanted.sort().values[3])
