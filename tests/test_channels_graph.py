"""The graph of whole networks: groups, branches, inputs and outputs of every form, what a pass leaves behind."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from slimkit.channels import trace
from slimkit.errors import TraceError
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import remove
from tests.blocks import conv_bn
from tests.nets import randomise_
from tests.test_channels import X, graph_of, proven
from tests.test_channels_property import random_mask


def test_groups_have_layers_norms_and_order() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.early, self.short = conv_bn(6, 4), conv_bn(3, 6), nn.Conv2d(3, 4, 1)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc((self.late(self.early(x)) + self.short(x)).mean((2, 3)))

    graph = graph_of(Net())
    assert [(g.name, g.layers, g.norms) for g in graph.groups] == [
        ("early.0", ("early.0",), ("early.1.weight",)),
        ("late.0", ("late.0", "short"), ("late.1.weight",)),
    ]
    assert [g.members.tolist() for g in graph.groups] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    assert graph.has_norm.all()
    assert graph.sinks == {
        "early.0.weight": ("early.1.running_mean", -1.0), "late.0.weight": ("late.1.running_mean", -1.0),
        "short.weight": ("short.bias", 1.0), "fc.weight": ("fc.bias", 1.0),
    }  # fmt: skip
    assert {axis.tensor: axis.reads for axis in graph.axes if axis.dim == 1} == {
        "late.0.weight": True,
        "fc.weight": True,
    }


def test_grouped_convolutions_tie_the_jth_channels() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1, groups=4), nn.Conv2d(12, 2, 1))
    graph = graph_of(net)
    assert [(g.name, len(g.members), g.per_unit) for g in graph.groups] == [("0", 2, 4), ("1", 3, 4)]
    slim = remove(net, graph, Mask(torch.tensor([True, False, True, True, False])))
    assert [(m.in_channels, m.out_channels, m.groups) for m in slim.children()] == [(3, 4, 1), (4, 8, 4), (8, 2, 1)]


def test_branches_that_run_only_in_training_are_traced_and_cost_nothing() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.fc, self.aux = (
                conv_bn(3, 6),
                nn.Linear(6, 2),
                nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2)),
            )

        def forward(self, x: Tensor) -> Any:
            y = self.a(x).mean((2, 3))
            return (self.fc(y), self.aux(F.dropout(y, training=True))) if self.training else self.fc(y)

    net = Net()
    state, seed = {k: v.clone() for k, v in net.state_dict().items()}, torch.random.get_rng_state()
    graph = graph_of(net)
    assert [(g.name, len(g.members)) for g in graph.groups] == [("a.0", 6), ("aux.0", 5)]
    assert graph.macs(torch.ones(graph.units, dtype=torch.bool)) == 36 * 27 * 6 + 6 * 2
    torch.testing.assert_close(
        net.state_dict(), {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    )
    assert torch.equal(torch.random.get_rng_state(), seed)
    slim = remove(net, graph, random_mask(graph, 0)).train()
    assert [tuple(t.shape) for t in slim(X)] == [(2, 2), (2, 2)]


def test_a_branch_that_wants_targets_is_left_alone() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.unused = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor, targets: Any = None) -> Tensor:
            if self.training and targets is None:
                raise ValueError("targets are needed")
            return self.b(self.a(x))

    net = Net()
    graph = graph_of(net)
    assert [g.name for g in graph.groups] == ["a"]
    assert not net.training


def test_what_the_pass_writes_the_network_never_sees() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.register_buffer("calls", torch.zeros(1))
            self.kept: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.kept = self.a(x)
            return self.b(self.kept)

    net = Net()
    graph = graph_of(net)
    assert net.calls.item() == 0
    assert net.kept is None
    assert graph_of(net).units == graph.units == 4


@dataclass
class Answer:
    scores: Tensor
    boxes: list[Tensor]
    text: str = "none"


class Named(OrderedDict[str, Any]):
    """As transformers' ModelOutput: an ordered dict with attributes."""


class Bag:
    def __init__(self, value: Tensor) -> None:
        self.value, self.itself = value, self


OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda a, b: (a, [b]),
    "dataclass": lambda a, b: Answer(a, [b]),
    "ordered dict": lambda a, b: Named(logits=a, hidden=(b,)),
    "any object": lambda a, b: {"a": Bag(a), "b": Bag(b)},
}


@pytest.mark.parametrize("form", OUTPUTS)
def test_outputs_of_every_form_are_kept(form: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Any:
            y = self.b(self.a(x))
            return OUTPUTS[form](self.c(y), y)

    net = Net()
    graph = graph_of(net)
    assert [g.name for g in graph.groups] == ["a"]
    assert [(k.layer, k.reason) for k in graph.kept] == [(n, "reaches the output of the network") for n in "bc"]
    assert proven(net, graph)


def test_example_inputs_of_every_form() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
            return self.c(self.a(x) * scale + self.b(y))

    y = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    for example in ((X, y), (X, y, 2.0), {"x": X, "y": y}):
        net = Net()
        graph = graph_of(net, example)
        assert [g.layers for g in graph.groups] == [("a", "b")]
        assert proven(net, graph, example)


def test_inference_mode_and_data_parallel() -> None:
    net = nn.DataParallel(nn.Sequential(conv_bn(3, 4), nn.Flatten(), nn.Linear(144, 2)))
    with torch.inference_mode():
        graph = graph_of(net, X.clone())
    assert [(g.name, g.norms) for g in graph.groups] == [("0.0", ("0.1.weight",))]
    assert proven(net, graph)


def test_a_network_that_raises_names_its_line_and_module() -> None:
    net = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 1), head=nn.Sequential(nn.Conv2d(5, 2, 1))))
    with pytest.raises(TraceError) as caught:
        trace(net, torch.zeros(1, 3, 4, 4))
    text = str(caught.value)
    assert text.startswith("the network cannot run on its example input [1, 3, 4, 4]: in 'head.0', RuntimeError: ")
    assert "expected input[1, 4, 4, 4] to have 5 channels" in text
    assert text.endswith("\n  Give an input of the shape that it expects, or mend the module named above")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_an_exception_that_the_network_handles_does_not_shift_the_module() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wrong, self.a, self.b = nn.Conv2d(9, 2, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.wrong(x)
            except RuntimeError:
                return self.b(self.a(x).cumsum(1))

    assert {k.layer: k.reason for k in graph_of(nn.Sequential(Net())).kept} == {
        "0.a": "is mixed along its dimension (cumsum) (in 0)",
        "0.b": "reaches the output of the network",
    }


@pytest.mark.parametrize("example", [(), {}, torch.tensor(1.0), ("text",)])
def test_an_example_without_a_batch_is_refused(example: Any) -> None:
    with pytest.raises(TraceError, match="without a tensor: nothing to trace.\n  Give a tensor"):
        trace(nn.Conv2d(3, 4, 1), example)


def test_an_output_without_a_tensor_is_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> float:
            return float(self.a(x).sum())

    with pytest.raises(TraceError, match="gives float without a tensor"):
        graph_of(Net())


def test_costs_of_what_a_mask_leaves() -> None:
    net = nn.Sequential(conv_bn(3, 4), nn.Conv2d(4, 2, 1))
    randomise_(net)
    graph = graph_of(net)
    assert [(group.name, list(group.layers), len(group.members)) for group in graph.groups] == [("0.0", ["0.0"], 4)]
    keep = torch.tensor([True, False, False, True])
    assert graph.macs(keep) == 36 * (9 * 3 * 2 + 2 * 2)
    assert graph.params(keep) == 9 * 3 * 2 + 2 + 2 + 2 * 2 + 2


class Holders(nn.Module):
    """Parameters in containers that are never called; one is never read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in range(2))
        self.gains = nn.ParameterDict({"a": nn.Parameter(torch.ones(1, 16, 1, 1))})
        self.held, self.idle = nn.Module(), nn.ParameterList([nn.Parameter(torch.ones(1))])
        self.held.weights = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu() * self.gains["a"] * torch.stack(list(self.held.weights)).sum()
        out: Tensor = self.head(x) * self.scales[0] + self.scales[1]
        return out


def test_containers_of_parameters_have_run_where_their_parameters_are_read() -> None:
    assert trace(Holders().eval(), torch.randn(1, 3, 8, 8)).unseen == ("idle",)


def test_channels_that_change_places_are_tied_by_the_longer_of_two_dimensions() -> None:
    """In ShuffleNetV2 half of the channels pass by, and the others are shuffled with them again and again."""
    torch.manual_seed(0)
    net = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=10).eval()
    for images in (1, 2):
        graph = trace(net, torch.randn(images, 3, 64, 64))
        assert (graph.units, len(graph.groups)) == (1928, 21)
