"""Controls within methods: what else the last network may begin from, and what of a network is in its wiring."""

from typing import Any

import pytest
import torch
from test_train import found, images, net, toy  # noqa: F401  the toy journey is the same
from torch import nn

import slimkit
from slimkit import models
from slimkit.errors import SpecError
from slimkit.methods import scratch
from slimkit.models.factors import Factors
from slimkit.runs import begin
from slimkit.runs.job import job_of
from slimkit.runs.plan import plan
from slimkit.selection.measured import LatencySolver
from slimkit.selection.weight_mask import prunable

CUTTING = [control for control in scratch.CONTROLS if control != "dense"]
TICKET = {"method": "weight-ticket", "round_to": "auto", "rounds": 2, "round_share": 0.3, "epochs": 1}
THIN = {"method": "factorised", "round_to": "auto", "rank_share": 0.6, "epochs": 1}
SIGNS = {"method": "weight-agnostic", "round_to": "auto", "epochs": 2}


@pytest.mark.parametrize("control", CUTTING)
def test_every_control_leaves_kept_layers_whole_and_widths_that_are_allowed(toy, tmp_path, control):  # noqa: F811
    asked = {"method": "scratch", "control": control, "epochs": 1, "keep": ("*.conv1",), "cap": 0.7, "round_to": 4}
    run, job = found(toy, tmp_path, asked, ratio=0.3)
    assert run.cut.mask.removed > 0
    for group, count in zip(job.graph.groups, run.cut.mask.counts(job.graph), strict=True):
        whole = any(layer.endswith(".conv1") for layer in group.layers)
        assert count == len(group.members) if whole else (count % 4 == 0 and count >= 0.3 * len(group.members))


@pytest.mark.parametrize(
    ("kind", "control"), [("macs", "uniform"), ("params", "uniform"), ("params", "uniform-params")]
)
def test_uniform_widths_use_up_the_budget_of_the_run_and_keep_within(tmp_path, kind, control):
    split = images(64, 0)
    settings = {"control": control, "epochs": 1, "batch_size": 32, "round_to": 4, "onnx": False}
    made = slimkit.train(net(), {"train": split, "validation": split}, **settings, **{f"max_{kind}": 0.5})
    before, after = (getattr(side, kind) for side in (made.report.before, made.report.after))
    assert 0.45 <= after / before <= 0.5


@pytest.mark.parametrize(("control", "aim"), [("uniform", "even"), ("scratch-E", "importance")])
def test_uniform_widths_that_meet_a_time_take_equal_shares(toy, control, aim):  # noqa: F811
    asked = plan({"arch": "zoo:resnet8", "data": "toy", "max_latency": 0.5, "control": control})
    solver = job_of(models.as_network(net(), toy.input_shape), net, toy, asked).selection.measured
    assert isinstance(solver, LatencySolver) and solver.aim == aim


def left(run: Any) -> dict[str, int]:
    return {name: int(weight.count_nonzero()) for name, weight in prunable(run.model).items()}


@pytest.mark.parametrize("begin", ["reinitialised", "by-layer", "random"])
def test_a_control_has_as_many_weights_of_each_layer_as_the_ticket(toy, tmp_path, begin):  # noqa: F811
    ticket, _ = found(toy, tmp_path, TICKET, ratio=None)
    control, job = found(toy, tmp_path, {**TICKET, "begin": begin}, ratio=None)
    assert left(control) == left(ticket)
    zeros = [
        torch.equal(a == 0, b == 0)
        for a, b in zip(prunable(control.model).values(), prunable(ticket.model).values(), strict=True)
    ]
    assert all(zeros) is (begin != "random")
    assert [leg.search for leg in control.legs] == [True, True, False]  # instead of the ticket's own training
    assert control.legs == ticket.legs and control.legs[2].images == 6 * 32
    assert control.search.to_dict()["init"] == begin
    same = [torch.equal(a, b) for a, b in zip(control.model.parameters(), ticket.model.parameters(), strict=True)]
    assert not any(same[:2])


def test_a_ticket_that_is_delivered_untrained_has_no_control():
    with pytest.raises(SpecError, match="deliver is 'ticket' and begin is 'random'"):
        plan({"arch": "zoo:resnet8", "data": "digits", **TICKET, "begin": "random", "deliver": "ticket"})


def test_thin_layers_may_begin_without_a_dense_training(toy, tmp_path):  # noqa: F811
    runs = {
        name: found(toy, tmp_path, {**THIN, "begin": name}, ratio=None)[0] for name in ("trained", "initial", "fresh")
    }
    assert {name: len(run.trained) for name, run in runs.items()} == {"trained": 2, "initial": 1, "fresh": 1}
    assert all(sum(leg.cost for leg in runs[name].legs if leg.search) == 0 for name in ("initial", "fresh"))
    thin = [[m for m in run.model.modules() if isinstance(m, Factors)] for run in runs.values()]
    assert len({len(layers) for layers in thin}) == 1 and thin[0]
    assert [m.rank for m in thin[1]] == [m.rank for m in thin[2]]
    assert not torch.equal(thin[1][0][0].weight, thin[2][0][0].weight)


def test_of_every_weight_only_its_sign_is_left(toy, tmp_path):  # noqa: F811
    run, job = found(toy, tmp_path, {**SIGNS, "scales": (0.5, 1.0)}, ratio=None)
    trained = {name: weight.detach() for name, weight in prunable(run.trained[0].model).items()}
    for name, weight in prunable(run.model).items():
        assert torch.equal(weight.sign(), trained[name].sign())
        sizes = weight.detach().abs().unique()
        assert len(sizes) == 1
        mean = trained[name].abs().mean()
        assert min(abs(float(sizes[0] / mean) - scale) for scale in (0.5, 1.0)) < 1e-5
    said = " ".join(run.warnings)
    assert "with one weight for all connections: 33.33 % right, since 100 % of the images have the same logit" in said
    assert "0.5: " in said and "1: " in said
    assert run.cut is None


@pytest.mark.parametrize("scales", [(), (0.5, 0.0), (-1.0,)])
def test_sizes_out_of_range(scales):
    with pytest.raises(SpecError, match="scales"):
        plan({"arch": "zoo:resnet8", "data": "digits", "method": "weight-agnostic", "scales": scales})


class Begun(nn.Module):
    """A network that begins as its maker wants it: half gammas, a head of zeros, a scale, filters that stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 3.0))
        nn.init.constant_(self.norm.weight, 0.5)
        nn.init.zeros_(self.head.weight)
        nn.init.kaiming_normal_(self.conv.weight)
        self.stem.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head((self.scale * self.conv(self.norm(self.stem(images)).relu())).mean((2, 3)))


def test_fresh_weights_are_of_the_distribution_that_the_network_began_with():
    model = Begun()
    model.train()(torch.randn(4, 1, 8, 8))  # statistics have moved
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, two = (begin.redrawn(model, seed).state_dict() for seed in (1, 2))
    for name, given in model.named_parameters():
        assert torch.equal(one[name].flatten().sort().values, given.detach().flatten().sort().values), name
    for name in ("conv.weight", "conv.bias"):
        assert not torch.equal(one[name], before[name]) and not torch.equal(one[name], two[name])
    assert torch.equal(one["stem.weight"], before["stem.weight"])
    assert not one["norm.running_mean"].any() and not one["norm.num_batches_tracked"]
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    torch.testing.assert_close(dict(begin.redrawn(model, 1).state_dict()), dict(one), rtol=0, atol=0)
