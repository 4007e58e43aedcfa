"""Progressive shrinking: what is dead can go at any moment, and a run ends within its budget."""

import copy

import pytest
import torch
from test_train import found, killed, net, toy  # noqa: F401  the toy journey is the same
from torch.nn.functional import cross_entropy

from slimkit import training
from slimkit.channels import trace
from slimkit.errors import BudgetError, SpecError
from slimkit.methods import progressive, shrink, snapshot
from slimkit.methods.shrink import go_on
from slimkit.selection import exact
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import remove
from slimkit.training.run import Run

SLOW = {"method": "progressive", "ranking": "group-norm", "max_macs": 0.4, "epochs": 8}


@torch.no_grad()
def kill_(model, optimizer, graph, mask):
    """Bring all that is coupled to the units a mask lacks to zero, and its momentum."""
    gone = torch.cat([~mask.keep, torch.zeros(1, dtype=torch.bool)])
    for axis in graph.axes:
        tensor = dict(model.named_parameters()).get(axis.tensor)
        if tensor is not None:
            index = gone[axis.unit_of].nonzero().flatten()
            tensor.index_fill_(axis.dim, index, 0.0)
            optimizer.state[tensor]["momentum_buffer"].index_fill_(axis.dim, index, 0.0)


def test_loss_goes_on_identically_when_dead_channels_are_removed():
    model = net().double().train()
    graph = trace(model, torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 1, 8, 8, dtype=torch.float64, generator=random), torch.arange(32) % 3
    recipe = training.Recipe(epochs=1, batch_size=32, learning_rate=0.05)
    run = Run(model, training.make_optimizer(model, recipe), recipe, 100, torch.device("cpu"))

    def losses(steps):
        seen = []
        for _ in range(steps):
            run.optimizer.zero_grad()
            value = cross_entropy(run.model(x), y)
            value.backward()
            training.penalise_groups_(run.model, trace_of(run.model), 1e-3)
            run.optimizer.step()
            seen.append(value.item())
        return seen

    def trace_of(network):
        return trace(network, torch.zeros(1, 1, 8, 8, dtype=torch.float64))

    losses(5)
    mask = exact.masks(graph, torch.rand(graph.units, generator=random), [0.4], 0.9)[0.4]
    kill_(run.model, run.optimizer, graph, mask)
    before, optimizer = copy.deepcopy(run.model.state_dict()), copy.deepcopy(run.optimizer.state_dict())
    wanted = losses(10)
    run.model.load_state_dict(before)
    run.optimizer.load_state_dict(optimizer)
    go_on(run, graph, mask, remove(run.model, graph, mask))
    assert sum(p.numel() for p in run.model.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
    assert losses(10) == pytest.approx(wanted, rel=1e-9)


def test_the_network_gets_smaller_step_by_step_and_meets_its_budget(toy, tmp_path):  # noqa: F811
    run, job = found(toy, tmp_path, SLOW | {"removal": 3, "penalty_total": 3.0, "dead": 0.3})
    macs = [leg.macs for leg in run.legs]
    assert len(macs) > 2 and all(a > b for a, b in zip(macs[:-2], macs[1:], strict=False))
    assert macs[0] == job.macs() and macs[-1] == job.macs(run.cut.mask) <= 0.4 * macs[0]
    assert sum(leg.images for leg in run.legs) == 8 * 192  # one schedule
    cost = sum(leg.cost for leg in run.legs)
    assert cost < 3 * 192 * (4 * macs[0] + 4 * macs[-1])  # it was cheaper than to wait for the deadline
    assert run.model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert run.search.to_dict()["drawn_epoch"] <= 4


def test_without_a_penalty_all_is_cut_by_rank_at_the_deadline(toy, tmp_path):  # noqa: F811
    run, job = found(toy, tmp_path, SLOW | {"penalty_total": 0.0, "until": 0.25})
    assert [leg.images for leg in run.legs] == [2 * 192, 6 * 192]
    assert run.search.to_dict()["drawn_epoch"] == 2 and job.macs(run.cut.mask) <= 0.4 * job.macs()


def test_weights_go_back_to_a_step_at_which_channels_were_gone_already(toy, tmp_path, monkeypatch):  # noqa: F811
    taken, put = [], []

    def take(model, *rest):
        taken.append(copy.deepcopy(model.state_dict()))
        return snapshot.take(model, *rest)

    def back(run, *rest):
        shrink.go_back(run, *rest)
        put.append(copy.deepcopy(run.model.state_dict()))

    monkeypatch.setattr(progressive, "take", take)
    monkeypatch.setattr(progressive, "go_back", back)
    more = {"removal": 3, "penalty_total": 3.0, "dead": 0.3, "init": "rewind", "rewind_step": 8}
    run, job = found(toy, tmp_path, SLOW | more)
    [then], [now] = taken, put
    dense = job.dense.state_dict()
    assert sum(t.numel() for t in now.values()) < sum(t.numel() for t in then.values())
    assert sum(t.numel() for t in then.values()) < sum(t.numel() for t in dense.values())
    for name, tensor in now.items():
        assert tensor.shape == run.model.state_dict()[name].shape
        assert set(tensor.flatten().tolist()) <= set(then[name].flatten().tolist())
    assert run.search.to_dict()["init"] == "rewind"


@pytest.mark.long
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"init": "fresh"},
        {"init": "rewind", "rewind_step": 2},
        {"init": "rewind", "rewind_step": 8},
        {"spend": 0.9},
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(toy, tmp_path, more):  # noqa: F811
    settings = SLOW | {"removal": 3, "penalty_total": 3.0, "dead": 0.3, **more}
    whole, _ = found(toy, tmp_path, settings)
    assert len(whole.legs) > 2
    for steps in (14, 32):  # while it gets smaller, and after
        folder = tmp_path / str(steps)
        folder.mkdir()
        resumed, _ = found(toy, tmp_path, settings, store=killed(toy, folder, settings, steps))
        torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
        assert torch.equal(resumed.cut.mask.keep, whole.cut.mask.keep)
        assert resumed.slimmed.evidence == whole.slimmed.evidence
        assert (resumed.search.to_dict(), resumed.legs) == (whole.search.to_dict(), whole.legs)


def test_what_cannot_be_is_refused_before_training(toy, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("nothing is to be trained"))
    with pytest.raises(BudgetError, match="the smallest that"):
        found(toy, tmp_path, SLOW | {"max_macs": 0.001})
    with pytest.raises(SpecError, match="rewind_step is 30: the last removal is at step 24"):
        found(toy, tmp_path, SLOW | {"init": "rewind", "rewind_step": 30})


def test_widths_stay_in_steps_while_channels_go(toy, tmp_path):  # noqa: F811
    run, job = found(toy, tmp_path, SLOW | {"removal": 3, "penalty_total": 3.0, "dead": 0.3, "round_to": 4})
    assert all(count % 4 == 0 for count in run.cut.mask.counts(job.graph))
    assert Mask.full(job.graph).counts(job.graph) != run.cut.mask.counts(job.graph)
