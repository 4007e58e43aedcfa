"""Surgery: what is sliced, what follows, what the record says, and that the copy is a faithful one."""

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import slimkit
from slimkit import provenance, zoo
from slimkit.channels import trace
from slimkit.errors import MaskError
from slimkit.measure.quality import evaluate
from slimkit.recovery.elimination import losses
from slimkit.recovery.fold import fold_, input_means
from slimkit.recovery.reconstruct import reconstruct
from slimkit.recovery.statistics import reestimate
from slimkit.selection.budget import Widths
from slimkit.selection.choose import choose
from slimkit.selection.mask import Mask
from slimkit.selection.ranking import rank
from slimkit.settings import Budget, parse_budget
from slimkit.surgery.remove import kept_indices, remove, take
from tests.blocks import C2f, SplitUnequal, conv_bn
from tests.nets import randomise_
from tests.test_tasks import Batches


def keep_of(units: int, *gone: int) -> Mask:
    keep = torch.ones(units, dtype=torch.bool)
    keep[list(gone)] = False
    return Mask(keep)


def test_slices_are_those_of_the_kept_indices() -> None:
    net = nn.Sequential(conv_bn(3, 4), nn.Conv2d(4, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 16, 3)).eval()
    randomise_(net)
    graph = trace(net, torch.zeros(1, 3, 4, 4))
    mask = keep_of(6, 1, 2, 4)
    assert {k: {d: i.tolist() for d, i in v.items()} for k, v in kept_indices(graph, mask).items()} == {
        "0.0.weight": {0: [0, 3]},
        **{f"0.1.{name}": {0: [0, 3]} for name in ("weight", "bias", "running_mean", "running_var")},
        "1.weight": {0: [1], 1: [0, 3]},
        "1.bias": {0: [1]},
        "3.weight": {1: list(range(16, 32))},
    }
    slim = remove(net, graph, mask)
    state, small = net.state_dict(), slim.state_dict()
    assert state.keys() == small.keys()
    torch.testing.assert_close(small["1.weight"], state["1.weight"][1:][:, [0, 3]], rtol=0, atol=0)
    torch.testing.assert_close(small["3.weight"], state["3.weight"][:, 16:], rtol=0, atol=0)
    torch.testing.assert_close(small["3.bias"], state["3.bias"], rtol=0, atol=0)
    assert all(tensor.is_contiguous() for tensor in small.values())
    assert (slim[0][0].out_channels, slim[0][1].num_features) == (2, 2)
    assert (slim[1].in_channels, slim[1].out_channels, slim[3].in_features) == (2, 1, 16)
    momentum = torch.randn_like(net[1].weight)
    assert take(momentum, kept_indices(graph, mask)["1.weight"]).shape == slim[1].weight.shape


ATTRIBUTES: dict[str, tuple[nn.Module, tuple[int, ...], dict[str, int]]] = {
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), (0, 3), dict(in_channels=4, out_channels=4, groups=4)),
    "two a channel": (nn.Conv2d(6, 12, 3, groups=6), (0, 3), dict(in_channels=4, out_channels=8, groups=4)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (0,), dict(in_channels=4, out_channels=4, groups=2)),
    "one input each": (nn.Conv2d(6, 9, 1, groups=3), (1,), dict(in_channels=3, out_channels=9, groups=3)),
    "transposed": (nn.ConvTranspose2d(6, 5, 2), (0, 3), dict(in_channels=4, out_channels=5, groups=1)),
    "transposed, depthwise": (nn.ConvTranspose2d(6, 6, 2, groups=6), (0,), dict(in_channels=5, groups=5)),
    "transposed grouped": (nn.ConvTranspose2d(6, 4, 2, groups=2), (0,), dict(in_channels=4, out_channels=4, groups=2)),
    "instance norm": (nn.InstanceNorm2d(6), (0, 3), dict(num_features=4)),
    "prelu": (nn.PReLU(6), (0, 3), dict(num_parameters=4)),
}  # fmt: skip


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_attributes_of_torch_layers_follow(case: str) -> None:
    layer, gone, expected = ATTRIBUTES[case]
    width = {"num_features": 6, "num_parameters": 6, "out_channels": getattr(layer, "out_channels", 6)}
    out = width["out_channels"]
    net = nn.Sequential(nn.Conv2d(3, 6, 1), layer, nn.Conv2d(out, 2, 1)).eval()
    graph = trace(net, torch.zeros(1, 3, 5, 5))
    slim = remove(net, graph, keep_of(graph.units, *gone))
    assert {name: getattr(slim[1], name) for name in expected} == expected
    assert slim(torch.randn(2, 3, 5, 5)).shape[:2] == (2, 2)
    assert repr(net[1]) == repr(layer)


def test_the_record_names_arch_attributes_and_kept_channels() -> None:
    net = nn.Sequential(
        OrderedDict(stem=conv_bn(3, 4), block=C2f(4, 4), split=SplitUnequal(4, 2), out=nn.Conv2d(7, 2, 1))
    )
    net.eval()
    provenance.attach(net, provenance.Provenance(arch="x:y", arguments={"a": 1}, input_shape=(3, 4, 4), classes=2))
    graph = trace(net, torch.zeros(1, 3, 4, 4))
    by_name = {group.name: group for group in graph.groups}
    gone = [int(by_name["block.cv1.0"].members[1]), int(by_name["split.a.0"].members[0])]
    slim = remove(net, graph, keep_of(graph.units, *gone))
    record = provenance.of(slim)
    assert (record.arch, record.arguments, record.input_shape, record.classes) == ("x:y", {"a": 1}, (3, 4, 4), 2)
    [edit] = record.edits
    assert isinstance(edit, provenance.Narrowed)
    assert edit.attributes["block"] == {"c": 3}
    assert edit.attributes["split"] == {"sizes": [1, 5]}
    assert edit.attributes["block.cv1.0"] == {"out_channels": 6}
    assert edit.kept == {"block.cv1.0": [0, 2, 3], "split.a.0": [1]}
    assert provenance.of(net).edits == ()

    graph = trace(slim, torch.zeros(1, 3, 4, 4))
    first, second = provenance.of(remove(slim, graph, keep_of(graph.units, 0))).edits
    assert isinstance(second, provenance.Narrowed)
    assert (first, second.kept) == (edit, {"stem.0": [1, 2, 3]})
    assert second.attributes["stem.0"] == {"out_channels": 3}
    assert "split" not in second.attributes


def test_a_mask_that_does_not_fit_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    graph = trace(net, torch.zeros(1, 3, 4, 4))
    with pytest.raises(MaskError, match="removes all 4 channels of '0'"):
        remove(net, graph, keep_of(4, 0, 1, 2, 3))


class Copies(nn.Module):
    """A class that copies itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.copied = nn.Conv2d(4, 4, 1), False

    def __deepcopy__(self, memo: dict[int, Any]) -> "Copies":
        twin = Copies()
        twin.conv, twin.copied = copy.deepcopy(self.conv, memo), True
        return twin

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class Holder(nn.Module):
    """Plain attributes of all kinds, a module under two names, a parameter in a list, a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.again = self.b
        self.tied = nn.Conv2d(4, 4, 1)
        self.tied.weight = self.b.weight
        self.listed = [self.a.weight]
        self.notes: dict[str, Any] = {"a": [1, 2], "shape": torch.Size([3])}
        self.copies, self.out = Copies(), nn.Conv2d(4, 2, 1)
        self.nothing = None
        self.register_buffer("table", torch.arange(5), persistent=False)
        self.a.weight.note = "kept"  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.copies(self.tied(self.again(self.b(self.a(x))))))
        return y


def test_the_copy_is_a_faithful_one() -> None:
    net = Holder().eval()
    net.b.bias.requires_grad = False
    graph = trace(net, torch.zeros(1, 3, 4, 4))
    slim = remove(net, graph, keep_of(graph.units, 1))
    assert isinstance(slim, Holder)
    assert slim.again is slim.b and slim.tied.weight is slim.b.weight and slim.listed[0] is slim.a.weight
    assert slim.b.bias.requires_grad is False and slim.b.weight.requires_grad
    assert slim.notes == net.notes and slim.notes["a"] is not net.notes["a"]
    assert slim.copies.copied and not net.copies.copied
    assert slim.a.weight.note == "kept"  # type: ignore[attr-defined]
    assert torch.equal(slim.table, net.table) and slim.table is not net.table
    assert slim._non_persistent_buffers_set == {"table"}
    assert not slim.training and slim.nothing is None
    shared = {id(p) for p in net.parameters()} & {id(p) for p in slim.parameters()}
    assert not shared
    slim.out.weight.data.zero_()
    slim.notes["a"].append(3)
    assert net.out.weight.abs().max() > 0 and net.notes["a"] == [1, 2]


def test_a_graph_of_another_network_and_a_mask_of_scores_are_refused():
    narrow, wide = (zoo.resnet8(width=width) for width in (8, 16))
    graph = trace(narrow, torch.randn(1, 1, 8, 8))
    with pytest.raises(MaskError, match=r"(?s)another network: conv1.weight is \[16, 1, 3, 3\].* had 8.*Trace this"):
        remove(wide, graph, Mask.full(graph))
    with pytest.raises(MaskError, match="another network: .* is not there"):
        remove(nn.Linear(2, 2), graph, Mask.full(graph))
    with pytest.raises(MaskError, match=r"(?s)another network: it has no layer1.1.conv1.weight.*Trace this"):
        remove(zoo.resnet20(width=8), graph, Mask.full(graph))
    with pytest.raises(MaskError, match=r"keep is float32 \[5\]: it must be bool"):
        Mask(torch.rand(5))


def stages() -> dict[str, Any]:
    """Calls of single stages with what does not fit."""
    net, other = zoo.resnet8(width=4).eval(), zoo.resnet8(width=8)
    graph = trace(net, torch.randn(1, 1, 8, 8))
    scores = rank("group-norm", net, graph)
    half = parse_budget(0.5, "macs")
    strength: Any = "1e-3"
    keep: Any = [True] * graph.units
    share: Any = 0.5
    whole, images = Mask.full(graph), torch.randn(16, 1, 8, 8)
    mask = choose(graph, scores, half)
    small = remove(net, graph, mask)
    means = input_means(net, graph, mask, [images], True)
    broken = copy.deepcopy(net)
    broken.bn1.weight.data[0] = torch.nan
    few = torch.zeros(3, dtype=torch.bool)
    loader: Any = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.zeros(16).long()))
    splits = {
        "of NaN": images * torch.nan, "of two channels": images.expand(-1, 2, -1, -1), "of float64": images.double(),
    }  # fmt: skip
    return {
        "scores that are no numbers": lambda: choose(graph, scores * torch.nan, half),
        "scores of too few units": lambda: choose(graph, scores[:-3], half),
        "a budget that has to be measured": lambda: choose(graph, scores, parse_budget(0.5, "latency")),
        "a budget of a share below 0": lambda: Budget("ratio", -0.5),
        "a budget that is no number": lambda: Budget("macs", torch.nan),
        "a budget of infinitely much": lambda: Budget("macs", torch.inf, absolute=True),
        "a budget of what": lambda: choose(graph, scores, share),
        "scores in a list": lambda: choose(graph, scores.tolist(), half),
        "units that stay, too few": lambda: choose(graph, scores, half, fixed=few),
        "the same, watched from the start": lambda: slimkit.EarlyBird(graph, fixed=few),
        "widths in steps below 1": lambda: Widths(step=-8),
        "weights that are no numbers": lambda: rank("group-norm", broken, graph),
        "gammas that are no numbers": lambda: slimkit.EarlyBird(graph).observe(broken),
        "weights that are not there": lambda: rank("group-norm", copy.deepcopy(net).to("meta"), graph),
        "a ranking by data, watched": lambda: slimkit.EarlyBird(graph, ranking="taylor"),
        "no network": lambda: trace(net.state_dict(), images),
        "no images": lambda: trace(net, images[:0]),
        "no images to export": lambda: slimkit.export_onnx(net, "never.onnx", images[:0]),
        "a mask of another kind": lambda: remove(net, graph, whole.keep),
        "means that are no numbers": lambda: fold_(
            copy.deepcopy(small), net, graph, mask, {name: mean * torch.nan for name, mean in means.items()}
        ),
        "constants for the large network": lambda: fold_(copy.deepcopy(net), net, graph, mask, means),
        "batches with labels": lambda: reconstruct(net, small, graph, mask, [(images, torch.zeros(16).long())]),
        "batches in one": lambda: reconstruct(net, small, graph, mask, images),
        "batches of another shape": lambda: reconstruct(net, small, graph, mask, [splits["of two channels"]]),
        "the small network of another mask": lambda: reconstruct(net, net, graph, mask, [images]),
        "losses on another shape": lambda: losses(net, graph, [splits["of two channels"]]),
        "statistics of a loader": lambda: reestimate(net, loader),
        "statistics that are no numbers": lambda: reestimate(net, Batches(splits["of NaN"], torch.zeros(16))),
        "statistics of another shape": lambda: reestimate(net, Batches(splits["of two channels"], torch.zeros(16))),
        "a loader, judged by": lambda: evaluate(net, loader),
        "images of two channels, judged by": lambda: evaluate(
            net, Batches(splits["of two channels"], torch.zeros(16).long())
        ),
        "images of float64, judged by": lambda: evaluate(net, Batches(splits["of float64"], torch.zeros(16).long())),
        "fewer targets than images": lambda: evaluate(net, Batches(images, torch.zeros(12).long(), size=16)),
        "a budget of no kind": lambda: parse_budget(0.5, "mac"),
        "a graph of another network": lambda: rank("gamma", other, graph),
        "the same, watched": lambda: slimkit.EarlyBird(graph, 0.5).observe(other),
        "a strength that is a word": lambda: slimkit.penalise_gamma_(net, strength),
        "a mask that is a list": lambda: Mask(keep),
        "a mask of another network": lambda: kept_indices(graph, Mask.full(trace(other, torch.randn(1, 1, 8, 8)))),
        "the same, counted": lambda: Mask.full(trace(other, torch.randn(1, 1, 8, 8))).counts(graph),
        "means by a graph of another network": lambda: input_means(other, graph, Mask.full(graph), [], True),
        "groups of another network": lambda: slimkit.penalise_groups_(other, graph, 0.1),
        "a strength below 0": lambda: slimkit.penalise_groups_(net, graph, -1),
        "BatchNorms that are not there": lambda: slimkit.penalise_gamma_(net, 0.1, only=["bn7"]),
        "what is left of another network": lambda: slimkit.follow(
            torch.optim.SGD(net.parameters(), 0.1), net, nn.Linear(2, 2), {}
        ),
        "what another mask leaves": lambda: slimkit.follow(
            torch.optim.SGD(net.parameters(), 0.1), net, net, kept_indices(graph, choose(graph, scores, half))
        ),
        "an optimizer of another network": lambda: slimkit.follow(
            torch.optim.SGD(other.parameters(), 0.1), net, net, {}
        ),
    }


@pytest.mark.parametrize("name", stages())
def test_a_stage_alone_refuses_what_does_not_fit(name):
    with pytest.raises(slimkit.SlimkitError, match=r"\S"):
        stages()[name]()


def ddp(net: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(net)


def compiled(net: nn.Module) -> nn.Module:
    found: Any = torch.compile(net, backend="eager")
    return found


@pytest.mark.parametrize("traced", ["as it is", "wrapped"])
@pytest.mark.parametrize("wrap", [ddp, compiled, nn.DataParallel])
def test_every_stage_looks_through_what_wraps_a_network(wrap, traced, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        net = zoo.resnet8(width=4)
        twin, images = copy.deepcopy(net), torch.randn(4, 1, 8, 8)
        wrapped = wrap(net)
        graph, of_twin = trace(wrapped if traced == "wrapped" else net, images), trace(twin, images)
        found = []
        for given, channels in ((wrapped, graph), (twin, of_twin)):
            optimizer = torch.optim.SGD(
                [{"params": [p]} for p in given.parameters()], lr=0.1, momentum=0.9, weight_decay=0.1
            )
            given(images).square().sum().backward()
            slimkit.penalise_gamma_(given, 0.1)
            slimkit.penalise_groups_(given, channels, 0.1)
            optimizer.step()
            assert not slimkit.EarlyBird(channels, 0.5).observe(given)
            mask = choose(channels, rank("group-norm", given, channels), parse_budget(0.5, "macs"))
            small = remove(given, channels, mask)
            after = slimkit.follow(optimizer, given, small, kept_indices(channels, mask))
            assert len(after.state) == len(after.param_groups) == len(list(net.parameters()))
            means = input_means(given, channels, mask, [images], True)
            fold_(small, given, channels, mask, means)
            found.append([mask.keep, *small.parameters(), *(m["momentum_buffer"] for m in after.state.values())])
        torch.testing.assert_close(found[0], found[1])
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("named", [False, True])
def test_what_is_learnt_beside_the_network_goes_along(named):
    net = zoo.resnet8(width=4)
    beside = nn.Parameter(torch.ones(3))
    members = [*net.named_parameters(), ("temperature", beside)]
    optimizer = torch.optim.AdamW(members if named else [p for _, p in members], lr=0.1)
    (net(torch.randn(4, 1, 8, 8)).square().sum() + beside.sum()).backward()
    optimizer.step()
    graph = trace(net, torch.randn(1, 1, 8, 8))
    mask = choose(graph, rank("group-norm", net, graph), parse_budget(0.5, "macs"))
    small = remove(net, graph, mask)
    after = slimkit.follow(optimizer, net, small, kept_indices(graph, mask))
    assert len(after.param_groups[0]["params"]) == len(optimizer.param_groups[0]["params"])
    assert after.param_groups[0]["params"][-1] is beside
    assert torch.equal(after.state[beside]["exp_avg"], optimizer.state[beside]["exp_avg"])
    before = beside.clone()
    (small(torch.randn(4, 1, 8, 8)).square().sum() + beside.sum()).backward()
    after.step()
    assert not torch.equal(before, beside)
