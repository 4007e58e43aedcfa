"""MACs, parameters and bytes: closed forms, another counter, and a network that is left alone."""

import copy
import logging
import warnings

import pytest
import torch
from torch import Tensor, nn

from slimkit.errors import TraceError
from slimkit.measure.macs import count_macs, macs_by_layer
from slimkit.measure.size import count_params, params_by_layer
from slimkit.modules import evaluating, module_paths


def test_closed_forms():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, (3, 5), padding=(2, 2), dilation=(2, 1), groups=4, bias=False),
        nn.ConvTranspose2d(12, 6, 4, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 10),
    )
    expected = {
        "0": 8 * 16 * 10 * (3 * 3 * 3),  # outputs x (inputs of one output)
        "3": 12 * 16 * 10 * (2 * 3 * 5),
        "4": 12 * 16 * 10 * (6 * 4 * 4),  # inputs x (outputs of one input)
        "7": 60,
    }
    assert macs_by_layer(model, (3, 32, 20)) == expected
    assert count_macs(model, (3, 32, 20)) == sum(expected.values())


class OnTheCpu(nn.Module):
    """Needs a value, which the meta device doesn't have."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        assert float(x.sum()) == 0
        return self.model(x)


def test_attention_counts_its_products_whichever_way_it_is_computed():
    tokens, width = 10, 8
    model = nn.TransformerEncoderLayer(width, 2, dim_feedforward=16, batch_first=True)
    projections = tokens * width * 3 * width + tokens * width * width
    products = 2 * tokens * tokens * width
    feed_forward = 2 * tokens * width * 16
    assert count_macs(model, (tokens, width)) == projections + products + feed_forward
    assert count_macs(OnTheCpu(model), (tokens, width)) == projections + products + feed_forward


def test_a_module_that_runs_twice_counts_twice_and_what_runs_outside_modules_counts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            y = self.shared(self.shared(x))
            return y @ y.transpose(1, 2)

    assert macs_by_layer(Net(), (3, 4)) == {"shared": 2 * 3 * 4 * 4, "": 3 * 3 * 4}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_fvcore_counts_the_same_convolutions_and_linear_layers(name, monkeypatch):
    from torchvision.models import get_model

    monkeypatch.setattr(logging.root.manager, "disable", logging.ERROR)  # it logs what it does not count
    model = get_model(name, weights=None).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it traces with torch.jit
        from fvcore.nn import FlopCountAnalysis

        counted = FlopCountAnalysis(model, torch.randn(1, 3, 64, 64)).by_module_and_operator()
    kinds = ("conv", "linear", "matmul", "addmm")
    theirs = {n: sum(v for op, v in ops.items() if op in kinds) for n, ops in counted.items()}
    leaves = {n for n, m in model.named_modules() if not list(m.children())}
    assert macs_by_layer(model, (3, 64, 64)) == {n: v for n, v in theirs.items() if v and n in leaves}


def test_the_network_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    model[1].eval()
    before, tensors = copy.deepcopy(model.state_dict()), list(model.parameters())
    count_macs(model, (3, 8, 8))
    with pytest.raises(TraceError):
        count_macs(model, (5, 8, 8))
    assert [model.training, model[0].training, model[1].training] == [True, True, False]
    assert all(a is b for a, b in zip(tensors, model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


def test_a_network_that_needs_values_is_counted_on_the_cpu():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.offset = nn.Linear(4, 2), [torch.ones(2)]  # a list: no parameter, no buffer

        def forward(self, x):
            return self.layer(x) + self.offset[0] if float(x.sum()) == 0 else x

    assert count_macs(Branches(), (4,)) == 8


def test_a_shape_that_does_not_fit_is_named():
    with pytest.raises(TraceError, match=r"(?s)Conv2d on an image of shape \(5, 8, 8\).*`input_shape"):
        count_macs(nn.Conv2d(3, 4, 3), (5, 8, 8))


def test_parameters_count_shared_tensors_once():
    shared = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(shared, shared, nn.BatchNorm1d(4), nn.Linear(4, 3))
    assert count_params(model) == 16 + 8 + 15
    assert params_by_layer(model) == {"0": 16, "2": 8, "3": 15}


def test_module_paths_name_the_module_that_runs():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(list(running))
            return x

    model = nn.Sequential(nn.Sequential(Spy()), Spy())
    with module_paths(model) as running:
        model(torch.ones(1))
    assert seen == [["", "0", "0.0"], ["", "1"]]
    assert running == []


def test_evaluating_restores_every_mode_also_after_an_exception():
    model = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    model[0].eval()
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(module.training for module in model.modules())
        _ = 1 / 0
    assert [model.training, model[0].training, model[1].training] == [True, False, True]


class Once(nn.Module):
    """Multiplies weights, which is done once a batch."""

    def __init__(self, least: int = 1) -> None:
        super().__init__()
        self.u, self.v, self.least = nn.Parameter(torch.randn(64, 8)), nn.Parameter(torch.randn(8, 64)), least
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < self.least:
            raise ValueError("it takes no such batch")
        made: Tensor = self.head(x @ (self.u @ self.v))
        return made


@pytest.mark.parametrize("images", [1, 2, 4, 7])
def test_macs_are_those_of_one_image_whatever_the_batch_of_the_example(images):
    assert count_macs(Once(), torch.randn(images, 64)) == 64 * 8 * 64 + 64 * 64 + 64 * 10
    assert count_macs(nn.Conv2d(3, 8, 3), torch.randn(images, 3, 6, 6)) == 3 * 8 * 9 * 16


def test_a_network_that_takes_no_single_image_is_counted_on_its_batch():
    assert count_macs(Once(least=2), torch.randn(4, 64)) == 64 * 8 * 64 // 4 + 64 * 64 + 64 * 10
    with pytest.raises(TraceError, match=r"on an input \[4, 64\]: it takes no such batch"):
        count_macs(Once(least=5), torch.randn(4, 64))


def test_whole_numbers_that_point_at_images_are_not_cut_to_one():
    class Edges(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x, edges):
            return self.linear(x[edges[0]]).sum() + x.sum()

    example = (torch.randn(10, 8), torch.randint(10, (2, 30)))
    assert count_macs(Edges(), example) == 30 * 8 * 4 // 10
