"""Whatever network: it is looked at through copies, cut right, and nothing of it is kept without a reason."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from slimkit.channels import Graph, trace
from slimkit.errors import TraceError
from slimkit.measure.macs import count_macs
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.remove import remove
from tests.blocks import conv_bn


def half(graph: Graph) -> Mask:
    """Return a mask that removes every second unit of each group with more than one."""
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.groups:
        keep[group.members[1::2]] = False
    return Mask(keep)


def check(net: nn.Module, example: Any, units: int | None = None) -> Graph:
    """Cut half of a network, and hold the smaller one against the masked one."""
    net.eval()
    before = copy.deepcopy(net.state_dict())
    graph = trace(net, example)
    assert graph.units if units is None else graph.units == units
    found = proof.evidence_for(net, graph, half(graph), proof.trials(example))
    assert found.on and found.error <= proof.TOLERANCE, found
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    return graph


def body(*last: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv_bn(3, 8), *last, nn.Conv2d(8, 4, 1))


class Remembers(nn.Module):
    """Computes a position bias once in evaluation mode and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.position, self.out = conv_bn(3, 8), nn.Conv2d(2, 1, 1), nn.Conv2d(8, 5, 3, padding=1)
        self.bias: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            line = torch.linspace(-3, 3, x.shape[-1])
            self.bias = self.position(torch.stack(torch.meshgrid(line, line, indexing="ij"))[None])
        return self.out(self.stem(x) + self.bias)


def test_a_network_that_remembers_what_it_computes_is_looked_at_through_copies() -> None:
    net = Remembers().eval()
    fresh, x = copy.deepcopy(net), torch.randn(1, 3, 8, 8)
    graph = trace(net, x)
    count_macs(net, x)
    assert net.bias is None
    mask = half(graph)
    slim = remove(net, graph, mask)
    reference = proof.masked(fresh, graph, mask)
    assert proof.relative_error(reference(x), slim(x)) <= 1e-4
    reference(x).sum().backward()  # a tensor with a history is kept, and copied without it
    assert reference.bias is not None and not reference.bias.is_leaf
    assert trace(reference, x).units == graph.units


class Grid(nn.Module):
    """Keeps a grid of the image's size, as detection heads do: a tensor, or a list of them."""

    def __init__(self, first: Any) -> None:
        super().__init__()
        self.stem, self.out = conv_bn(3, 8), nn.Conv2d(8, 6, 1)
        self.shape: Any = None
        self.grid = first

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(self.stem(x))
        if self.shape != y.shape:
            lines = [torch.arange(size, device=x.device).float() for size in y.shape[-2:]]
            grid = torch.stack(torch.meshgrid(*lines, indexing="ij"))
            self.grid, self.shape = [grid] if isinstance(self.grid, list) else grid, y.shape
        grid = self.grid[0] if isinstance(self.grid, list) else self.grid
        return torch.cat([y[:, :2] + grid, y[:, 2:]], 1)


@pytest.mark.parametrize("first", [torch.empty(0), [torch.empty(0)], [torch.zeros(1)], (torch.zeros(2),)], ids=str)
def test_tensors_that_a_module_holds_are_no_widths_and_stay_where_they_are(first: Any) -> None:
    net, x = Grid(first), torch.randn(1, 3, 8, 8)
    graph = check(net, x, units=8)
    assert count_macs(net, x) == 64 * (3 * 8 * 9 + 8 * 6)
    slim = remove(net, graph, half(graph))
    count_macs(slim, x)
    assert slim(x).shape == (1, 6, 8, 8)
    assert trace(slim, x).units == 4


class Locked(nn.Module):
    """Holds what nobody can copy."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.log = body(), iter([1, 2])
        self.rows = (n for n in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_what_nobody_can_copy_is_shared() -> None:
    net = Locked()
    check(net, torch.randn(1, 3, 8, 8), units=8)
    assert next(net.rows) == 0


@pytest.mark.parametrize(
    "layer",
    [
        nn.Dropout2d(0.1, inplace=True), nn.FeatureAlphaDropout(0.1), nn.RReLU(), nn.RReLU(inplace=True),
        nn.AlphaDropout(0.2),
    ],
    ids=str,
)  # fmt: skip
def test_layers_that_draw_random_numbers_only_in_training(layer: nn.Module) -> None:
    check(body(layer), torch.randn(1, 3, 8, 8), units=8)


RANKS = {1: (nn.Conv1d, nn.BatchNorm1d, (16,)), 3: (nn.Conv3d, nn.BatchNorm3d, (5, 6, 7))}


@pytest.mark.parametrize("rank", RANKS)
def test_signals_and_volumes(rank: int) -> None:
    conv, norm, size = RANKS[rank]
    net = nn.Sequential(conv(2, 8, 3), norm(8), nn.ReLU(), conv(8, 6, 3), nn.ReLU(), conv(6, 4, 1))
    graph = check(net, torch.randn(1, 2, *size), units=14)
    assert graph.macs(torch.ones(14, dtype=torch.bool)) == count_macs(net, (2, *size))


def test_vectors() -> None:
    check(nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 20), 16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_of_other_precision(dtype: torch.dtype) -> None:
    net = body().to(dtype)
    graph = check(net, torch.randn(1, 3, 8, 8).to(dtype), units=8)
    assert {p.dtype for p in remove(net, graph, half(graph)).parameters()} == {dtype}
    assert count_macs(net, (3, 8, 8)) == 64 * (3 * 8 * 9 + 8 * 4)


class Reads(nn.Module):
    """Columns of a feature map, read by a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.body, self.last, self.layer, self.out = conv_bn(3, 12), nn.Conv2d(12, 10, 3), layer, nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.last(self.body(x)).mean(2).permute(2, 0, 1))[0])


@pytest.mark.parametrize(
    "layer",
    [
        *(kind(10, hidden) for kind in (nn.GRU, nn.LSTM, nn.RNN) for hidden in (6, 10)),
        nn.LSTM(10, 6, num_layers=2, bidirectional=True),
        nn.GRU(10, 10, num_layers=2, bidirectional=True),
    ],
    ids=str,
)
def test_recurrent_layers_read_fewer_channels_and_keep_their_state(layer: nn.RNNBase) -> None:
    net, x = Reads(layer).eval(), torch.randn(1, 3, 6, 9)
    net(x)
    graph = check(net, x, units=22)
    assert {k.reason for k in graph.kept if k.layer == "layer"} == {"is the state of a recurrent layer (in layer)"}
    slim = remove(net, graph, half(graph))
    assert slim.layer.input_size == 5 and slim.layer.hidden_size == layer.hidden_size
    slim.train()(x).sum().backward()
    assert slim.layer.weight_ih_l0.grad is not None


@dataclass
class Answer:
    logits: Tensor


class Answers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = body()

    def forward(self, x: Tensor) -> Answer:
        return Answer(self.body(x))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = conv_bn(3, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(self.stem(x) + self.stem(y))


X = torch.randn(1, 3, 8, 8)


def test_outputs_in_objects() -> None:
    check(Answers(), X, units=8)


@pytest.mark.parametrize("example", [(X, X), {"x": X, "y": X}], ids=["tuple", "dict"])
def test_several_inputs(example: Any) -> None:
    net = TwoInputs()
    check(net, example, units=8)
    assert count_macs(net, example) == 64 * (2 * 3 * 8 * 9 + 8 * 4)


def test_wrapped_networks_have_the_names_of_what_is_inside_and_compiled_code_is_refused() -> None:
    for wrap in (nn.DataParallel, torch.compile):
        net = wrap(body())
        graph = check(net, X, units=8)
        assert graph.groups[0].name == "0.0"
    for scripted in (torch.jit.trace, lambda net, _: torch.jit.script(net)):
        with pytest.warns(), pytest.raises(TraceError, match=r"(?s)model is TorchScript.*Give the nn.Module"):
            trace(scripted(body().eval(), X), X)


def test_a_fault_of_our_own_is_not_blamed_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from slimkit.channels.operators import OPERATORS

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setitem(OPERATORS, torch.ops.aten.convolution, broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        trace(body(), X)


class Unpools(nn.Module):
    """SegNet: back to the places of the maxima."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        conv = nn.Conv2d if rank == 2 else nn.Conv3d
        self.a, self.b, self.out = conv(3, 8, 3, padding=1), conv(8, 8, 3, padding=1), conv(8, 4, 1)
        self.pool, self.back = (F.max_pool2d, F.max_unpool2d) if rank == 2 else (F.max_pool3d, F.max_unpool3d)

    def forward(self, x: Tensor) -> Tensor:
        y, places = self.pool(self.a(x), 2, return_indices=True)
        return self.out(self.back(self.b(y), places, 2))


@pytest.mark.parametrize("rank", [2, 3])
def test_unpooling_to_the_places_of_the_maxima(rank: int) -> None:
    graph = check(Unpools(rank), torch.randn(1, 3, *[8] * rank), units=8)
    assert graph.groups[0].layers == ("a", "b")


class Samples(nn.Module):
    def __init__(self, rank: int) -> None:
        super().__init__()
        conv = nn.Conv2d if rank == 2 else nn.Conv3d
        self.a, self.flow, self.out = conv(3, 8, 1), conv(3, rank, 1), conv(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        places = self.flow(x).tanh().movedim(1, -1)
        return self.out(F.grid_sample(self.a(x), places, align_corners=False))


@pytest.mark.parametrize("rank", [2, 3])
def test_sampling_at_computed_places(rank: int) -> None:
    graph = check(Samples(rank), torch.randn(1, 3, *[6] * rank), units=8)
    assert {k.layer: k.reason for k in graph.kept}["flow"] == "is read as coordinates (in Samples)"


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate", "zeros"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_padding_of_every_kind(mode: str, rank: int) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    net = nn.Sequential(
        conv(3, 6, 3, padding=1, padding_mode=mode), nn.ReLU(), conv(6, 6, 3, padding=1, padding_mode=mode), nn.ReLU(),
        conv(6, 2, 1),
    )  # fmt: skip
    check(net, torch.randn(1, 3, *[5] * rank), units=12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_adaptive_max_pooling(rank: int) -> None:
    conv, pool = (
        (nn.Conv1d, nn.AdaptiveMaxPool1d),
        (nn.Conv2d, nn.AdaptiveMaxPool2d),
        (nn.Conv3d, nn.AdaptiveMaxPool3d),
    )[rank - 1]
    check(nn.Sequential(conv(3, 6, 3), pool(2), conv(6, 2, 1)), torch.randn(1, 3, *[7] * rank), units=6)


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(2), nn.MaxPool2d(2)], ids=str)
def test_memory_format_changes_nothing(pool: nn.Module) -> None:
    net = body(pool)
    as_is = check(net, X, units=8)
    for example in (X, X.to(memory_format=torch.channels_last)):
        last = check(copy.deepcopy(net).to(memory_format=torch.channels_last), example, units=8)
        assert [k.reason for k in last.kept] == [k.reason for k in as_is.kept]


def test_a_tensor_laid_out_anew_keeps_its_channels() -> None:
    class Restrides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).contiguous()
            return self.out(
                y.as_strided(y.shape, (y.stride(0), y.stride(1), 1, y.shape[2]))
            )  # rows and columns swapped

    graph = trace(Restrides(), X)
    assert graph.units == 0
    assert {k.layer: k.reason for k in graph.kept}["a"] == "is laid out anew in memory (as_strided) (in Restrides)"


@pytest.mark.parametrize("groups, units", [(2, 2), (4, 4), (8, 8)])
def test_group_norm_loses_whole_groups(groups: int, units: int) -> None:
    net = body(nn.GroupNorm(groups, 8), nn.ReLU())
    graph = check(net, X, units=units)
    assert graph.groups[0].per_unit == 8 // groups
    slim = remove(net, graph, half(graph))
    assert (slim[1].num_groups, slim[1].num_channels) == (groups // 2, 4)


class Conditioned(nn.Module):
    """Channels, or tokens, to which rows of a table are added or with which they are multiplied."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.stem, self.table, self.mid, self.out = conv_bn(3, 8), nn.Embedding(70, 8), nn.Linear(8, 6), nn.Linear(6, 5)
        self.how = how

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        y = self.stem(x)
        if self.how == "positions":
            tokens = y.flatten(2).transpose(1, 2)
            return self.out(self.mid(tokens + self.table(torch.arange(tokens.shape[1]))).relu().mean(1))
        row = self.table(ids)[:, :, None, None]
        y = y * row if self.how == "scale" else y + row
        return self.out(self.mid(y.mean((2, 3))).relu())


@pytest.mark.parametrize("how", ["positions", "scale", "shift"])
def test_columns_of_an_embedding_go_with_the_channels_that_they_meet(how: str) -> None:
    example = {"x": X} if how == "positions" else {"x": X, "ids": torch.tensor([3])}
    net = Conditioned(how)
    graph = check(net, example, units=14)
    slim = remove(net, graph, half(graph))
    assert slim.table.weight.shape == (70, 4) and slim.table.embedding_dim == 4
    assert slim.out.in_features == 3


def quantised() -> nn.Module:
    import torch.ao.quantization as quantization

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).train()
    net.qconfig = quantization.get_default_qat_qconfig("x86")
    return quantization.prepare_qat(net)


COMPUTED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weight norm": (
        lambda: nn.Sequential(weight_norm(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 4, 1)),
        "remove_parametrizations makes the weight a plain one",
    ),
    "weight norm, by hooks": (
        lambda: nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 4, 1)),
        "remove_weight_norm makes the weight a plain one",
    ),
    "spectral norm": (
        lambda: nn.Sequential(spectral_norm(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 4, 1)),
        "remove_parametrizations makes the weight a plain one",
    ),
    "spectral norm, by hooks": (
        lambda: nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 4, 1)),
        "remove_spectral_norm",
    ),
    "fake-quantised": (quantised, "slim the network first, then prepare it for quantisation"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", COMPUTED)
def test_nothing_is_kept_without_a_reason(case: str) -> None:
    make, advice = COMPUTED[case]
    graph = trace(make(), X)
    kept = {k.layer: k for k in graph.kept}
    assert graph.units == 0 and graph.total == 12
    assert kept["0"].channels == 8 and advice in kept["0"].reason


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_networks_are_copied_in_a_process_that_has_compiled_one() -> None:
    torch.compile(nn.Linear(2, 2), backend="eager")(torch.zeros(1, 2))
    net = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(1, 8, 3)), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3))
    graph = trace(net, torch.zeros(1, 1, 12, 12))  # its weight is a tensor with a history, which Python cannot copy
    assert graph.units == 8
