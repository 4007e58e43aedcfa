"""Reconstruction: exact where the kept channels say all that was said, and never worse than folded constants."""

import copy
import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import model_zoo
import slimkit
from slimkit import data, models, provenance
from slimkit.channels import Graph, trace
from slimkit.errors import DataError, SpecError
from slimkit.example import Example, tensors
from slimkit.measure.quality import quality as accuracy
from slimkit.modules import evaluating
from slimkit.recovery import calls, fold, reestimate
from slimkit.recovery.elimination import losses
from slimkit.recovery.reconstruct import MODES, Reconstruction, reconstruct
from slimkit.recovery.residual import shortcuts
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.remove import remove
from tests.blocks import ACROSS, BLOCKS
from tests.nets import HEADS, RandomNet, example, random_net


def half(graph: Graph) -> Mask:
    """Keep the first half of every group."""
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.groups:
        keep[group.members[(len(group.members) + 1) // 2 :]] = False
    return Mask(keep)


@torch.no_grad()
def repeat_(model: nn.Module, graph: Graph, mask: Mask) -> None:
    """Let every removed unit say what a kept one of its group says, in place: all but what reads it is copied."""
    like = torch.arange(graph.units)
    for group in graph.groups:
        kept, gone = group.members[mask.keep[group.members]], group.members[~mask.keep[group.members]]
        like[gone] = kept[torch.arange(len(gone)) % len(kept)]
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for axis in graph.axes:
        if not axis.reads:
            of_unit: dict[int, list[int]] = {}
            for index, unit in enumerate(axis.unit_of.tolist()):
                of_unit.setdefault(unit, []).append(index)
            source = torch.arange(len(axis.unit_of))
            for unit, places in of_unit.items():
                if unit >= 0:
                    source[places] = torch.tensor(of_unit[int(like[unit])])
            tensor = tensors[axis.tensor]
            tensor.copy_(tensor.index_select(axis.dim, source))


def run(model: nn.Module, graph: Graph, mask: Mask, batches: list[Example], mode: str) -> Reconstruction:
    return reconstruct(model, remove(model, graph, mask), graph, mask, batches, mode=mode)


def case(blocks: list[tuple[str, int]], head: str, seed: int = 3) -> tuple[RandomNet, Graph, Mask]:
    """Return a network of which the removed half repeats the kept one."""
    net = random_net(blocks, head, seed=seed)
    graph = trace(net, example(net, 1))
    mask = half(graph)
    repeat_(net, graph, mask)
    return net, graph, mask


def gap(net: nn.Module, slim: nn.Module, inputs: list[Example]) -> float:
    """Return max|a - b| / std(a) over the tensors of all outputs: fitted, not equal, so taken as a whole."""
    pairs = zip(tensors(proof.outputs(net, inputs)), tensors(proof.outputs(slim, inputs)), strict=True)
    return max(float((a - b).abs().max() / a.std()) for a, b in pairs)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in (*BLOCKS, *ACROSS) if name != "Attention"])
def test_what_kept_channels_can_say_is_said_exactly(name: str, mode: str) -> None:
    net, graph, mask = case([(name, 4), ("Chain", 4)], "pool")
    before = copy.deepcopy(net.state_dict())
    slim = remove(net, graph, mask)
    cut = copy.deepcopy(slim.state_dict())
    fresh = [example(net, 5)]
    found = reconstruct(net, slim, graph, mask, [example(net, 64)], mode=mode)
    assert gap(net, found.model, fresh) < 1e-4
    assert found.fitted and found.after < 1e-6 * max(1.0, found.before)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(slim.state_dict(), cut, rtol=0, atol=0)
    if not any(isinstance(m, nn.InstanceNorm2d) for m in net.modules()):
        assert gap(net, slim, fresh) > 1e-3, "the cut alone must be seen"


@pytest.mark.parametrize("mode", MODES)
def test_queries_and_keys_are_multiplied_not_read_and_what_reads_the_rest_is_fitted(mode: str) -> None:
    net, graph, mask = case([("Attention", 4), ("Chain", 4)], "pool")
    found, fresh = run(net, graph, mask, [example(net, 64)], mode), [example(net, 5)]
    assert gap(net, found.model, fresh) < 0.1 * gap(net, remove(net, graph, mask), fresh)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_followed(head: str, mode: str) -> None:
    net, graph, mask = case([("Residual", 4), ("Dense", 3)], head)
    found = run(net, graph, mask, [example(net, 1024)], mode)
    fresh = [example(net, 5)]
    assert gap(net, found.model, fresh) < 1e-3


class Volume(nn.Module):
    """Convolutions of one and of three dimensions, with strides, dilations and groups."""

    def __init__(self, rank: int, transposed: bool) -> None:
        super().__init__()
        conv, norm, pool = (
            (nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d)
            if rank == 1
            else (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d)
        )
        up = nn.ConvTranspose1d if rank == 1 else nn.ConvTranspose3d
        middle = (
            up(8, 8, 3, stride=2, padding=1, output_padding=1, groups=2)
            if transposed
            else conv(8, 8, 3, stride=2, padding=2, dilation=2, groups=2)
        )
        self.body = nn.Sequential(
            conv(2, 8, 3), norm(8), nn.ReLU(), middle, nn.ReLU(), conv(8, 6, 2, stride=2), nn.ReLU(), pool(1),
            nn.Flatten(), nn.Linear(6, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_any_rank_stride_dilation_and_groups(rank: int, transposed: bool, mode: str) -> None:
    net = Volume(rank, transposed).double().eval()
    images = torch.randn(64, 2, *[9] * rank, dtype=torch.float64)
    graph = trace(net, images[:1])
    mask = half(graph)
    repeat_(net, graph, mask)
    found = run(net, graph, mask, [images], mode)
    fresh = [torch.randn(4, 2, *[9] * rank, dtype=torch.float64)]
    assert gap(net, found.model, fresh) < 1e-4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rank", [1, 3])
def test_of_many_positions_some_are_looked_at_and_say_all(rank: int, transposed: bool, mode: str) -> None:
    torch.manual_seed(0)
    net = Volume(rank, transposed).eval()
    size = (600,) if rank == 1 else (20, 14, 12)
    graph = trace(net, torch.randn(1, 2, *size))
    mask = half(graph)
    repeat_(net, graph, mask)
    found = run(net, graph, mask, [torch.randn(64, 2, *size)], mode)
    assert gap(net, found.model, [torch.randn(5, 2, *size)]) < 1e-3
    [middle, *_] = found.fitted
    positions = net.body[:4](torch.zeros(1, 2, *size))[0, 0].numel()
    assert 50 * middle.unknowns < middle.rows < 48 * positions


class Twice(nn.Module):
    """One weight under two biases, read after different activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).sigmoid()
        return self.last(torch.cat([self.a(x).tanh(), self.b(x.square()).tanh()], 1))


class OneBias(nn.Module):
    """Two weights under one bias: a constant of either would change what the other makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.bias = self.a.bias
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.b(self.a(self.first(x).relu()).relu()).relu())


@pytest.mark.parametrize("mode", MODES)
def test_a_bias_under_two_weights_stays_as_it_is(mode: str) -> None:
    torch.manual_seed(0)
    net, images = OneBias().eval(), torch.randn(256, 6) + 1
    graph = trace(net, images[:1])
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.groups:
        keep[group.members[::4]] = False
    mask = Mask(keep)
    slim = remove(net, graph, mask)
    found = run(net, graph, mask, [images], mode)
    assert found.after < 0.9 * found.before
    assert torch.equal(found.model.a.bias, slim.a.bias) and found.model.a.bias is found.model.b.bias
    assert not torch.equal(found.model.a.weight, slim.a.weight)
    folded = copy.deepcopy(slim)
    assert fold.fold_(folded, net, graph, mask, fold.input_means(net, graph, mask, [images], True)) == (1, 3)


def twice() -> tuple[Twice, Tensor, Graph, Mask]:
    """Return a network, images, and a mask without units that are constants: sigmoid of the bias, and its square."""
    net, images = Twice().eval(), torch.randn(256, 6)
    graph = trace(net, images[:1])
    keep = torch.ones(graph.units, dtype=torch.bool)
    gone = graph.groups[0].members[:3]
    keep[gone] = False
    with torch.no_grad():
        net.first.weight[gone] = 0.0
    return net, images, graph, Mask(keep)


@pytest.mark.parametrize("mode", MODES)
def test_each_bias_of_a_shared_weight_takes_its_own_constant(mode: str) -> None:
    net, images, graph, mask = twice()
    found = run(net, graph, mask, [images], mode)
    torch.testing.assert_close(found.model(images), net(images), rtol=1e-3, atol=1e-3)


class Ways(nn.Module):
    """One weight that is used in two ways, of other outputs: by a convolution and its transpose, and so on."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.before, self.norm = way, nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(12)
        self.weight = nn.Parameter(torch.randn(12, 8, 1, 1) if way == "transpose" else torch.randn(12, 8))
        self.after = nn.Conv2d(12 if way == "part" else 8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x).relu()
        if self.way == "transpose":
            y = self.norm(F.conv2d(x, self.weight)).relu()
            z = F.conv_transpose2d(y, self.weight)
        elif self.way == "linear":
            y = self.norm(F.linear(x.mT.transpose(1, 3), self.weight).transpose(1, 3)).relu()
            z = F.linear(y.transpose(1, 3), self.weight.T).transpose(1, 3)
        else:
            z = self.norm(F.conv2d(x, self.weight[..., None, None])).relu()
            few = F.conv2d(x, self.weight[:4, :, None, None])
            z = z + few.mean((1, 2, 3), keepdim=True)
        return self.after(z.relu()).mean((2, 3))


@pytest.mark.parametrize("way", ["transpose", "linear", "part"])
def test_a_weight_that_is_used_in_several_ways_is_left_as_it_was(way: str) -> None:
    net, images = Ways(way).eval(), torch.rand(64, 3, 6, 6)
    with evaluating(net), torch.no_grad():
        net.train()(images)
    graph = trace(net, images[:1])
    mask = half(graph)
    lost = losses(net, graph, [images])
    assert bool((lost.measured >= 0)[lost.measured.isfinite()].all())
    slim = remove(net, graph, mask)
    for mode in MODES:
        found = reconstruct(net, slim, graph, mask, [images], mode=mode)
        assert found.after <= found.before
        assert "weight" not in {one.weight for one in found.fitted}
        assert found.left["weight"] == ("is not used as it is stored" if way == "part" else "is used in several ways")
    for measured in (False, True):
        means = fold.input_means(net, graph, mask, [images], measured=measured)
        fold.fold_(copy.deepcopy(slim), net, graph, mask, means)
    assert slimkit.compress(net, images[:1], ratio=0.4, calibration=images).report.proof.masked_vs_slim <= 1e-4


def test_chunks_join_where_there_is_room_and_change_nothing_but_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    net, graph, mask = case([("Residual", 4), ("Chain", 4)], "pool")
    batch, fresh = example(net, 128), [example(net, 5)]
    whole = run(net, graph, mask, [batch], "sequential")
    monkeypatch.setattr(calls, "_ROOM", 60_000)
    found = run(net, graph, mask, [batch], "sequential")
    rows, of_whole = ([one.rows for one in made.fitted] for made in (found, whole))
    assert rows[0] < of_whole[0] and rows[-1] == of_whole[-1]
    assert proof.compare(proof.outputs(net, fresh), found.model, fresh) < 1e-4


def wide() -> tuple[nn.Module, Tensor]:
    """Return a network whose last layer reads 5,408 values when halved, and images of which 12 are independent."""
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Flatten(), nn.Linear(16 * 26 * 26, 3)).double().eval()
    images = torch.randn(96, 12, dtype=torch.float64) @ torch.randn(12, 28 * 28, dtype=torch.float64)
    return net, images.reshape(96, 1, 28, 28)


def test_a_layer_that_reads_more_than_second_moments_can_hold_is_fitted_to_rows() -> None:
    net, images = wide()
    graph = trace(net, images[:1])
    found = run(net, graph, half(graph), [images[:64]], "sequential")
    fresh = [images[64:]]
    assert [one.unknowns for one in found.fitted] == [5408]
    assert proof.compare(proof.outputs(net, fresh), found.model, fresh) < 1e-3


class Added(nn.Module):
    """Two branches that read the same, by weights that are the same; the first is the shortcut of the second."""

    def __init__(self, way: str, norm: bool) -> None:
        super().__init__()
        self.way = way
        self.first, self.stream = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 5, 1)
        self.second = copy.deepcopy(self.first)
        self.branch = nn.Conv2d(6, 5, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.head = nn.Conv2d(5, 3, 1)
        nn.init.constant_(self.stream.bias, 20.0)  # so that no ReLU cuts anything off
        for name, values in [*self.norm.named_parameters(), *self.norm.named_buffers()]:
            if "num" not in name:
                nn.init.uniform_(values, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.stream(F.relu(self.first(x)))
        if self.way == "in place":
            stream.relu_()
        branch = self.norm(self.branch(F.relu(self.second(x))))
        if self.way == "in place":
            branch += stream
            return self.head(branch)
        return self.head(stream + branch if self.way == "first" else torch.add(branch, stream))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("way", ["first", "second", "in place"])
def test_what_is_added_to_a_stream_makes_up_for_its_error(way: str, norm: bool) -> None:
    torch.manual_seed(0)
    net = Added(way, norm).eval()
    graph = trace(net, torch.randn(1, 4, 9, 9))
    keep = torch.ones(graph.units, dtype=torch.bool)
    (first,) = (group for group in graph.groups if group.layers[0] == "first")
    keep[first.members[2:]] = False
    mask = Mask(keep)
    inputs: list[Example] = [torch.randn(64, 4, 9, 9)]
    found = reconstruct(net, remove(net, graph, mask), graph, mask, inputs)
    assert {one.weight for one in found.fitted} >= {"stream.weight", "branch.weight"}
    assert gap(net, found.model, inputs) < 1e-3


def test_the_search_for_sums_keeps_no_maps() -> None:
    """Those of 32 images of 224 pixels would be gigabytes."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).eval()
    made: list[weakref.ref[Tensor]] = []
    gone: list[bool] = []
    net[0].register_forward_hook(lambda module, args, out: made.append(weakref.ref(out)))
    net[4].register_forward_hook(lambda module, args, out: gone.append(made[0]() is None))
    assert shortcuts(net, torch.randn(1, 3, 9, 9)) == {}
    assert gone == [True]


class Wanders(Added):
    """Other inputs take more operators on their way."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x[0, 0, 0, 0].abs() * 4)):
            x = torch.cat(x.chunk(2, 1), 1)
        return super().forward(x)


def test_inputs_that_take_another_way_change_nothing_for_the_worse() -> None:
    torch.manual_seed(0)
    net = Wanders("first", norm=True).eval()
    graph = trace(net, torch.zeros(1, 4, 9, 9))
    mask = half(graph)
    found = reconstruct(net, remove(net, graph, mask), graph, mask, [torch.randn(64, 4, 9, 9)])
    assert found.after <= found.before


def test_a_sum_that_cannot_be_told_is_left_alone() -> None:
    """A scale of 0 behind a weight lets nothing pass that could make up for anything."""
    net = Added("first", norm=True).eval()
    nn.init.zeros_(net.norm.weight)
    graph = trace(net, torch.randn(1, 4, 9, 9))
    mask = half(graph)
    found = reconstruct(net, remove(net, graph, mask), graph, mask, [torch.randn(64, 4, 9, 9)])
    assert all(bool(weight.isfinite().all()) for weight in found.model.parameters())
    assert found.after <= found.before


class Mixing(nn.Module):
    """Layers along positions, of each channel apart, as MLP-Mixer has them: their rows are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 2, 2), nn.BatchNorm2d(16)
        self.wide, self.narrow, self.head = nn.Linear(16, 12), nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).flatten(2)
        x = x + self.narrow(F.gelu(self.wide(x)))
        out: Tensor = self.head(x.mean(2))
        return out


class LowRank(nn.Module):
    """A convolution with a product of two thin matrices added to its weight, as fine-tuning by LoRA leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 24, 3, padding=1)
        self.a, self.b = nn.Parameter(torch.randn(4, 144) / 10), nn.Parameter(torch.randn(24, 4) / 10)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight + (self.b @ self.a).view(self.conv.weight.shape)
        return self.conv._conv_forward(x, weight, self.conv.bias)


@pytest.mark.parametrize("images", [16, 512])  # of so many rows some are drawn
def test_rows_that_are_channels_are_not_paired_with_others(images: int) -> None:
    torch.manual_seed(0)
    net, inputs = Mixing(), torch.randn(images, 3, 8, 8)
    with torch.no_grad():
        net.train()(inputs)
    graph = trace(net.eval(), inputs[:1])
    found = run(net, graph, half(graph), [inputs], "sequential")
    assert found.left == {"narrow.weight": "is applied to each channel apart, and some are gone"}
    assert found.after < found.before or images < 32


@pytest.mark.parametrize("images", [16, 512])
def test_a_product_of_weights_is_no_row_of_anything(images: int) -> None:
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
    head = nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)
    net, inputs = nn.Sequential(*stem, LowRank(), *head).eval(), torch.randn(images, 3, 8, 8)
    found = slimkit.compress(net, inputs[:1], 0.5, calibration=inputs, epochs=0, onnx=False)
    assert found.report.after.macs < found.report.before.macs


def test_what_is_left_as_it_was_is_said() -> None:
    net, images = wide()
    graph = trace(net, images[:1])
    found = run(net, graph, half(graph), [images], "parallel")
    assert found.fitted == () and found.left == {"2.weight": "reads more than 5000 values for one output"}


@pytest.mark.parametrize("mode", MODES)
def test_eight_images_are_no_worse_than_folded_constants(mode: str) -> None:
    """On fresh inputs; two images held out leave a little to chance."""
    shares = []
    for name in ("Chain", "Residual", "Depthwise", "Dense", "SqueezeExcite"):
        net = random_net([(name, 8), ("Chain", 6)], "pool", seed=1)
        graph = trace(net, example(net, 1))
        mask, batch, fresh = half(graph), example(net, 8), example(net, 500)
        folded = remove(net, graph, mask)
        fold.fold_(folded, net, graph, mask, fold.input_means(net, graph, mask, [batch], measured=True))
        found = reconstruct(net, folded, graph, mask, [batch], mode=mode)
        with torch.no_grad():
            wanted, by_fold, by_fit = (network(fresh) for network in (net, folded, found.model))
        shares.append(float((by_fit - wanted).square().mean() / (by_fold - wanted).square().mean()))
    assert max(shares) < 1.15
    assert sum(shares) / len(shares) < 0.9


@pytest.mark.parametrize("images", [8, 64])
def test_a_trained_network_gets_accuracy_back_from_few_images(images: int) -> None:
    path = Path(model_zoo.__file__).parent / "resnet8-digits.safetensors"
    net = models.load_slim(path).eval()
    digits = data.open("digits").normalised(provenance.of(net).normalisation)
    batch = next(iter(digits.train.batches(images, seed=0)))[0]
    graph = trace(net, batch[:1])
    mask = half(graph)
    found = run(net, graph, mask, [batch], "sequential")
    renewed = remove(net, graph, mask)
    reestimate(renewed, digits.train, batches=1, batch_size=images)
    better = accuracy(found.model, digits.validation) - accuracy(renewed, digits.validation)
    assert better > (0.1 if images == 8 else 0.3)


def test_what_does_not_help_on_inputs_held_out_is_left_out() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    graph = trace(net, torch.randn(1, 4))
    mask = half(graph)
    slim = remove(net, graph, mask)
    batches: list[Example] = [
        torch.randn(64, 4) * (100 if n % 4 == 3 else 1) for n in range(8)
    ]  # those held out differ
    found = reconstruct(net, slim, graph, mask, batches)
    same = all(
        torch.equal(a, b) for a, b in zip(found.model.state_dict().values(), slim.state_dict().values(), strict=True)
    )
    assert found.after < found.before or same


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([torch.randn(7, 4)], "7 inputs"),
        ([torch.randn(1, 4).expand(16, 4)], "same input"),
        ([torch.randn(16, 4), torch.full((4, 4), float("nan"))], "not finite"),
        ([], "0 inputs"),
    ],
)
def test_poor_calibration_is_refused(batches: list[Example], words: str) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    graph = trace(net, torch.randn(1, 4))
    with pytest.raises(DataError, match=words):
        run(net, graph, half(graph), batches, "sequential")


def test_an_unknown_mode_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    graph = trace(net, torch.randn(1, 4))
    with pytest.raises(SpecError, match="mode is 'layers'"):
        run(net, graph, half(graph), [torch.randn(16, 4)], "layers")


def test_a_network_that_raises_in_the_middle_leaves_no_thread_behind() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    graph = trace(net, torch.randn(1, 4))
    before = threading.active_count()
    with pytest.raises(RuntimeError):
        run(net, graph, half(graph), [torch.randn(64, 4), torch.randn(64, 5)], "sequential")
    assert threading.active_count() == before


def test_what_was_fitted_can_be_trained() -> None:
    """Large weights that take each other back fit as well, and an epoch of training ruins them."""
    dense = models.load(model_zoo.CHECKPOINTS["resnet8-digits"]).model
    fitted = slimkit.compress(dense, torch.randn(1, 1, 8, 8), 0.3, data="digits", epochs=0)
    own = dict(dense.named_parameters())
    for name, weight in fitted.model.named_parameters():
        assert weight.dim() < 2 or weight.norm() < 2 * own[name].norm(), name
    trained = slimkit.compress(dense, torch.randn(1, 1, 8, 8), 0.3, data="digits", epochs=1)
    assert trained.report.after.accuracy.validation > 0.95 and fitted.report.after.accuracy.validation > 0.95
