"""Statistics across channels: a removed channel is left out of them, by the reference as by the smaller network."""

from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimkit
from slimkit import provenance
from slimkit.channels import Kept, trace
from slimkit.channels.left_out import LeftOut
from slimkit.channels.observed import Observed
from slimkit.recovery import elimination, widths
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.prove import prove
from slimkit.surgery.remove import remove
from slimkit.surgery.traced import BREAKS
from tests.nets import example, random_net, randomise_
from tests.test_channels import X, graph_of, proven
from tests.test_channels_property import random_mask

C = 8
HERE = "tests.test_channels_statistics:made"  # how its networks are built


class Between(nn.Module):
    """A convolution 3 -> 8, a function with layers of its own, a convolution 8 -> 4, a mean."""

    def __init__(self, function: Callable[..., Tensor], **attributes: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 4, 1)
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self, self.a(x))).mean((2, 3))


class Norm2d(nn.LayerNorm):
    """As torchvision and timm write it."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Stream(nn.Module):
    """Two residual branches behind LayerNorms: what a ConvNeXt, or a transformer, calls its stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.last = nn.Conv2d(3, C, 2, 2), Norm2d(C), nn.LayerNorm(C)
        self.norms = nn.ModuleList(Norm2d(C) for _ in range(2))
        self.up = nn.ModuleList(nn.Conv2d(C, 12, 1) for _ in range(2))
        self.down = nn.ModuleList(nn.Conv2d(12, C, 1) for _ in range(2))
        self.scale, self.head = nn.Parameter(torch.rand(C, 1, 1)), nn.Linear(C, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + self.scale * down(F.gelu(up(norm(x))))
        return self.head(self.last(x.mean((2, 3))))


def layer_norm_by_hand(m: nn.Module, x: Tensor) -> Tensor:
    u = x.mean(1, keepdim=True)
    s = (x - u).pow(2).mean(1, keepdim=True)
    return m.scale[:, None, None] * ((x - u) / torch.sqrt(s + 1e-6)) + m.shift[:, None, None]


def response_norm(m: nn.Module, x: Tensor) -> Tensor:
    size = x.norm(p=2, dim=(2, 3), keepdim=True)
    size = size / (size.mean(dim=1, keepdim=True) + 1e-6)
    return x + torch.addcmul(m.shift.view(1, -1, 1, 1), m.scale.view(1, -1, 1, 1), x * size)


def fused(x: Tensor, scale: Tensor) -> Tensor:
    found: Tensor = torch.ops.aten._fused_rms_norm(x, x.shape[-1:], scale, 1e-6)[0]
    return found


def spatial_attention(m: nn.Module, x: Tensor) -> Tensor:
    return x * m.gate(torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)).sigmoid()


def last(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Let a function see channels last."""
    return lambda m, x: function(x.movedim(1, -1)).movedim(-1, 1)


def between(function: Callable[..., Tensor], **made: Callable[[], Any]) -> Callable[[], nn.Module]:
    return lambda: Between(function, **{name: make() for name, make in made.items()})


def vector() -> nn.Parameter:
    return nn.Parameter(torch.rand(C))


TAKEN: dict[str, Callable[[], nn.Module]] = {
    "layer norm, channels last": between(lambda m, x: last(m.norm)(m, x), norm=lambda: nn.LayerNorm(C)),
    "layer norm, permuted inside": between(lambda m, x: m.norm(x), norm=lambda: Norm2d(C)),
    "layer norm without scale": between(
        lambda m, x: last(m.norm)(m, x), norm=lambda: nn.LayerNorm(C, elementwise_affine=False)
    ),
    "layer norm in the code": between(last(lambda x: F.layer_norm(x, x.shape[-1:]))),
    "layer norm over maps": between(lambda m, x: m.norm(x), norm=lambda: nn.LayerNorm((C, 6, 6))),
    "layer norm of a flat map": between(
        lambda m, x: m.norm(x.flatten(1)).view(len(x), -1, 6, 6), norm=lambda: nn.LayerNorm(C * 36)
    ),
    "layer norm behind a sigmoid": between(lambda m, x: last(m.norm)(m, x.sigmoid()), norm=lambda: nn.LayerNorm(C)),
    "layer norm by hand": between(layer_norm_by_hand, scale=vector, shift=vector),
    "one group": between(lambda m, x: m.norm(x), norm=lambda: nn.GroupNorm(1, C)),
    "one group, without scale": between(lambda m, x: m.norm(x), norm=lambda: nn.GroupNorm(1, C, affine=False)),
    "one group, behind a sigmoid": between(
        lambda m, x: m.norm(x.sigmoid()), norm=lambda: nn.GroupNorm(1, C, affine=False)
    ),
    "two groups, written": between(lambda m, x: F.group_norm(x, 2)),
    "rms norm": between(lambda m, x: last(m.norm)(m, x), norm=lambda: nn.RMSNorm(C)),
    "rms norm, fused": between(lambda m, x: last(lambda y: fused(y, m.scale))(m, x), scale=vector),
    "whole groups, then one": between(
        lambda m, x: m.norm(F.silu(m.groups(x))), groups=lambda: nn.GroupNorm(4, C), norm=lambda: nn.GroupNorm(1, C)
    ),
    "positions, made and read": between(
        lambda m, x: m.read(m.norm(m.make(x.flatten(2)).mT).mT).mean(-1)[..., None, None],
        make=lambda: nn.Linear(36, 6), norm=lambda: nn.LayerNorm(C), read=lambda: nn.Linear(6, 5),
    ),
    "response norm": between(response_norm, scale=vector, shift=vector),
    "spatial attention": between(spatial_attention, gate=lambda: nn.Conv2d(2, 1, 3, padding=1)),
    "mean over channels": between(lambda m, x: x - x.mean(1, keepdim=True)),
    "mean over all": between(lambda m, x: x * x.mean((1, 2, 3), keepdim=True)),
    "mean of all": between(lambda m, x: x * x.mean()),
    "sum": between(lambda m, x: x * x.sigmoid().sum(1, keepdim=True)),
    "deviation": between(lambda m, x: x / x.std(1, keepdim=True)),
    "mean and variance": between(lambda m, x: x * torch.stack(torch.var_mean(x, 1, keepdim=True)).sum(0)),
    "unit length": between(lambda m, x: F.normalize(x, dim=1)),
    "extremes": between(lambda m, x: x / (x.exp().amax(1, keepdim=True) - x.exp().amin(1, keepdim=True))),
    "softmax": between(lambda m, x: x.softmax(1)),
    "stream": Stream,
}  # fmt: skip


def made(case: str) -> nn.Module:
    torch.manual_seed(0)
    net = TAKEN[case]()
    randomise_(net)
    return net


@pytest.mark.parametrize("case", TAKEN)
def test_channels_are_left_out_of_statistics(case: str) -> None:
    net = made(case)
    graph = graph_of(net)
    assert bool(graph.statistics.any()) and not [kept for kept in graph.kept if not kept.output]
    assert proven(net, graph)
    other = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    mask = random_mask(graph, 5)
    assert type(proof.masked(net, graph, mask)) is LeftOut
    assert proof.evidence_for(net, graph, mask, [100 * other]).error <= 1e-9


@pytest.mark.parametrize("case", TAKEN)
def test_masked_is_slim_is_reloaded_is_onnx(case: str, tmp_path: Any) -> None:
    if case == "rms norm, fused":
        pytest.skip("no format has the operator")
    net = made(case).eval()
    provenance.attach(net, provenance.Provenance(arch=HERE, arguments={"case": case}))
    graph = trace(net, X.float())
    mask = random_mask(graph, 1)
    slim = remove(net, graph, mask)
    wanted, found = (proof.outputs(n, [X.float()])[0] for n in (proof.masked(net, graph, mask), slim))
    assert proof.relative_error(wanted, found) <= proof.TOLERANCE
    slimkit.save(slim, tmp_path / "net.safetensors")
    again = proof.outputs(slimkit.load(tmp_path / "net.safetensors", HERE), [X.float()])[0]
    assert proof.relative_error(wanted, again) <= proof.TOLERANCE
    slimkit.export_onnx(slim, tmp_path / "net.onnx", X.float())
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"input": X.float().numpy()})
    assert proof.relative_error(wanted, torch.from_numpy(out)) <= proof.TOLERANCE


def test_the_reference_is_the_dense_network_with_statistics_of_kept_channels() -> None:
    """Written out by hand; it is not the network whose silent channels count as zeros."""
    net = made("layer norm, permuted inside").double().eval()
    graph = trace(net, X)
    keep = torch.tensor([True, False, True, True, False, False, True, True])
    found = proof.outputs(proof.masked(net, graph, Mask(keep)), [X])[0]

    y = net.a(X)
    inside = y[:, keep]
    mean = inside.sum(1) / 5
    variance = (inside - mean[:, None]).square().sum(1) / 5
    y = (y - mean[:, None]) / (variance + 1e-5).sqrt()[:, None]
    y = net.norm.weight.view(-1, 1, 1) * y + net.norm.bias.view(-1, 1, 1)
    wanted = net.b(y * keep.double().view(-1, 1, 1)).mean((2, 3))
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-9, atol=1e-12)

    counted = proof.outputs(proof.masked(net, graph, Mask.full(graph)), [X])[0]
    assert proof.relative_error(counted, found) > 1e-2


def test_which_channel_is_largest_is_told_among_all() -> None:
    """A smaller network would give other numbers for the same channels: the proof sees it, and they are kept."""

    class Largest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, C, 1), nn.Conv2d(C, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.a(x)
            return self.b(y), y.max(1).indices

    net = Largest().eval()
    graph = trace(net, X.float())
    mask = random_mask(graph, 0)
    found = proof.outputs(proof.masked(net, graph, mask), [X.float()])[0][1]
    assert set(found.unique().tolist()) <= set(mask.keep.nonzero().flatten().tolist())
    assert proof.evidence_for(net, graph, mask, [X.float()]).error == float("inf")


@pytest.mark.parametrize("case", ["layer norm, channels last", "rms norm", "one group", "stream"])
def test_sizes_that_modules_hold_follow(case: str) -> None:
    net = made(case).eval()
    graph = trace(net, X.float())
    slim = remove(net, graph, random_mask(graph, 1))
    for norm in slim.modules():
        if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
            assert norm.normalized_shape == tuple(norm.weight.shape)
        elif isinstance(norm, nn.GroupNorm):
            assert (norm.num_groups, norm.num_channels) == (1, len(norm.weight))


def test_a_shape_that_a_module_holds_follows() -> None:
    net = Between(lambda m, x: x * m.scale.view(m.shape), scale=nn.Parameter(torch.rand(C)), shape=(C, 1, 1))
    graph = graph_of(net)
    assert graph.units == C and proven(net, graph)
    assert remove(net, graph, random_mask(graph, 1)).shape[1:] == (1, 1)


def test_a_shape_that_counts_channels_here_and_a_fixed_number_there_keeps_them() -> None:
    module = nn.Conv2d(3, 4, 1)
    seen = Observed(Between(F.relu, shape=(4, 4), conv=module), batch=1)
    rows, columns = seen.named(module.weight, 0), seen.names.fresh(4)
    seen.shape((4, 4), {0: rows})
    seen.shape((4, 4), {1: columns})
    component = seen.names.components()
    frozen = {int(component[name]) for kept in seen.names.frozen for name in kept.names.tolist()}
    assert {int(component[name]) for name in (*rows.tolist(), *columns.tolist())} <= frozen


def test_a_size_in_an_exported_graph_follows() -> None:
    net = made("layer norm, channels last").eval()
    net = torch.export.export(net, (X.float(),)).module()
    graph = trace(net, X.float())
    assert graph.units == C
    assert proof.evidence_for(net, graph, random_mask(graph, 1), [X.float()]).error <= proof.TOLERANCE


def test_a_layer_that_also_normalises_channels_of_fixed_number_keeps_them() -> None:
    net = Between(lambda m, x: last(m.norm)(m, x) + m.norm(x.new_ones(6, C)).sum(), norm=nn.LayerNorm(C))
    graph = graph_of(net)
    assert graph.units == 0


def test_square_layers_do_not_tie_what_they_read_to_what_they_make() -> None:
    net = Between(lambda m, x: last(m.square)(m, x), square=nn.Linear(C, C)).eval()
    graph = graph_of(net)
    assert graph.units == 2 * C and proven(net, graph)


def test_statistics_of_weights_keep_their_channels() -> None:
    def standardised(m: nn.Module, x: Tensor) -> Tensor:
        return F.conv2d(x, m.w - m.w.mean((1, 2, 3), keepdim=True))

    graph = graph_of(Between(standardised, w=nn.Parameter(torch.randn(C, C, 1, 1))))
    reasons = {kept.layer: kept.reason for kept in graph.kept}
    assert "is reduced over (mean)" in reasons["a"]


def test_networks_without_statistics_have_no_reference_of_their_own() -> None:
    net = made("two groups, written")
    graph = graph_of(net)
    assert type(proof.masked(net, graph, Mask.full(graph))) is Between  # nothing is removed
    plain = Between(lambda m, x: F.relu(x))
    graph = graph_of(plain)
    assert not bool(graph.statistics.any())
    assert type(proof.masked(plain, graph, random_mask(graph, 0))) is Between


def test_parameters_of_the_reference_have_their_names() -> None:
    net = made("stream")
    graph = graph_of(net)
    reference = proof.masked(net, graph, random_mask(graph, 0))
    assert [name for name, _ in reference.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert proof.evidence_for(net, graph, random_mask(graph, 0), [X]).untouched == ()


class Counted(nn.Module):
    """A LayerNorm that takes removed channels for zeros."""

    def __init__(self, width: int, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.width, self.norm = width, norm

    def forward(self, x: Tensor) -> Tensor:
        mean = x.sum(-1, keepdim=True) / self.width
        square = x.square().sum(-1, keepdim=True) / self.width
        return (x - mean) / (square - mean.square() + 1e-5).sqrt() * self.norm.weight + self.norm.bias


def roll(name: str) -> Callable[[nn.Module], None]:
    def plant(slim: nn.Module) -> None:
        tensor = slim.get_parameter(name)
        tensor.copy_(tensor.roll(1, 0))

    return plant


def replaced(slim: nn.Module) -> None:
    slim.norm = Counted(C, slim.norm)


def wider(slim: nn.Module) -> None:
    slim.norm.eps = 1e-1


FAULTS: dict[str, tuple[str, Callable[[nn.Module], None]]] = {
    "removed channels counted as zeros": ("layer norm, channels last", replaced),
    "scales of other channels": ("layer norm, channels last", roll("norm.weight")),
    "shifts of other channels": ("one group", roll("norm.bias")),
    "filters of other channels, before it": ("layer norm, channels last", roll("a.weight")),
    "another epsilon": ("layer norm, channels last", wider),
    "scales of a response": ("response norm", roll("scale")),
    "scales of one branch": ("stream", roll("norms.1.weight")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(fault: str) -> None:
    case, plant = FAULTS[fault]
    net = made(case).eval()
    graph = trace(net, X.float())
    mask = random_mask(graph, 1)
    reference, slim = proof.masked(net, graph, mask), remove(net, graph, mask)
    assert proof.evidence(reference, slim, proof.trials(X.float())).proven
    with torch.no_grad():
        plant(slim)
    assert not proof.evidence(reference, slim, proof.trials(X.float())).proven


def test_a_width_written_beside_a_layer_norm_is_found_and_kept() -> None:
    class Written(Stream):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.up[0](self.norms[0](x)).reshape(len(x), 3, x.shape[1] // 2, *x.shape[2:]).sum(1)
            return self.head(self.last(x.mean((2, 3)))) + y.mean((1, 2, 3))[:, None]

    net = Written().eval()
    randomise_(net)
    graph = trace(net, X.float())
    found = prove(net, graph, lambda fixed: Mask(random_mask(graph, 1).keep | fixed), [X.float()])
    assert found.failing == ("stem", "up.0")
    assert bool(found.mask.keep[graph.groups[0].members].all())


class Heads(nn.Module):
    """As in torchvision's Swin: the width of the heads is computed from that of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.qkv = nn.Conv2d(3, C, 2, 2), Norm2d(C), nn.Conv2d(C, 3 * C, 1)
        self.proj, self.up, self.head = nn.Conv2d(C, C, 1), nn.Conv2d(C, 12, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        q, k, v = self.qkv(x).reshape(len(x), 3, x.shape[1], -1).unbind(1)
        x = x + self.proj(((q.mT @ k).softmax(-1) @ v.mT).mT.reshape(x.shape))
        return self.head(F.relu(self.up(x))).mean((2, 3))


def test_what_does_not_run_narrower_is_kept_before_anything_is_chosen() -> None:
    net = Heads().eval()
    bare = trace(net, X.float())
    graph = slimkit.trace(net, X.float())
    assert [group.name for group in bare.groups] == ["stem", "qkv", "up"]
    assert [group.name for group in graph.groups] == ["up"]
    (kept,) = (kept for kept in graph.kept if kept.layer == "stem")
    assert kept == Kept("stem", C, BREAKS) and graph.total == bare.total
    assert not bool(graph.statistics.any()) and {axis.tensor for axis in graph.axes} == {
        "up.weight",
        "up.bias",
        "head.weight",
    }
    mask = random_mask(graph, 1)
    assert proof.evidence_for(net, graph, mask, [X.float()]).error <= proof.TOLERANCE
    assert graph.macs(Mask.full(graph).keep) == bare.macs(Mask.full(bare).keep)
    assert graph.params(mask.keep) == sum(p.numel() for p in remove(net, graph, mask).parameters())
    calibration = torch.randn(32, 3, 6, 6)
    found = slimkit.compress(net, X[:1].float(), calibration=calibration, max_macs=0.9, onnx=False, epochs=0)
    assert found.model.stem.out_channels == C and found.model.up.out_channels < 12


def test_widths_are_tried_that_leave_statistics_alone() -> None:
    net = made("stream").eval()
    graph = trace(net, X.float())
    losses = elimination.losses(net, graph, [torch.randn(64, 3, 6, 6)])
    whole = graph.macs(Mask.full(graph).keep)
    *_, even, aside = widths.candidates(graph, losses, "macs", 0.7 * whole, Widths(1))
    assert bool(aside.keep[graph.statistics].all()) and graph.macs(aside.keep) <= 0.7 * whole
    assert not bool(even.keep[graph.statistics].all())
    assert len(widths.candidates(graph, losses, "macs", 0.2 * whole, Widths(1))) == 3  # out of reach for it


def test_widths_are_tried_that_leave_streams_alone_where_all_is_under_a_statistic() -> None:
    net = random_net([("ConvNext", 6), ("ConvNext", 6)], "pool", seed=0)
    graph = trace(net, example(net, 1))
    losses = elimination.losses(net, graph, [example(net, 64)])
    whole = graph.macs(Mask.full(graph).keep)
    *_, aside = widths.candidates(graph, losses, "macs", 0.7 * whole, Widths(1))
    assert bool(graph.statistics.all())
    (stream,) = (group for group in graph.groups if len(group.layers) > 1)
    assert bool(aside.keep[stream.members].all()) and not bool(aside.keep.all())
