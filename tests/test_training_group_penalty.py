"""The penalty on groups: its gradient, how far it pulls, and that units without a norm can go for nothing."""

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from training_sample import network, recipe, same, stripes

import slimkit
from slimkit import training
from slimkit.channels import Graph, trace
from slimkit.channels.coupled import Coupled
from slimkit.example import call, tensors
from slimkit.selection import ranking
from slimkit.surgery.remove import remove
from slimkit.training import group_penalty, penalise_gamma_, penalise_groups_, solve_strength, unit_norms
from slimkit.training.schedules import total
from tests.nets import RandomNet, example
from tests.test_channels_property import cases, random_mask


def written(model: nn.Module, graph: Graph, strength: float) -> Tensor:
    """The penalty as its definition reads: unit by unit, slice by slice."""
    parameters = dict(model.named_parameters())
    value = torch.zeros((), dtype=torch.float64)
    for unit in range(graph.units):
        slices = [
            parameters[axis.tensor].index_select(axis.dim, at)
            for axis in graph.axes
            if axis.tensor in parameters and len(at := (axis.unit_of == unit).nonzero().flatten())
        ]
        norm = torch.stack([part.square().sum() for part in slices]).sum().sqrt()
        if norm > 0:
            value = value + strength * len(slices) ** 0.5 * norm
    return value


@given(cases())
@settings(max_examples=40)
def test_the_gradient_is_that_of_the_written_penalty(case: tuple[RandomNet, int, int]) -> None:
    net, batch, seed = case
    graph = trace(net, example(net, batch))
    silence_(net, graph, random_mask(graph, seed, share=0.1).keep)  # units without a norm have no gradient
    value = written(net, graph, 0.03)
    expected = torch.autograd.grad(value, list(net.parameters()), allow_unused=True) if value.requires_grad else ()
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    penalise_groups_(net, graph, 0.03)
    for p, gradient in zip(net.parameters(), expected, strict=bool(expected)):
        wanted = torch.ones_like(p) if gradient is None else 1 + gradient
        torch.testing.assert_close(p.grad, wanted, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def silence_(net: nn.Module, graph: Graph, keep: Tensor) -> None:
    """Set everything that is coupled to the units that are not kept to zero."""
    gone = torch.cat([~keep, torch.zeros(1, dtype=torch.bool)])
    for name, parameter in net.named_parameters():
        for axis in graph.by_tensor.get(name, []):
            parameter.index_fill_(axis.dim, gone[axis.unit_of].nonzero().flatten(), 0.0)


@given(cases())
@settings(max_examples=40)
def test_units_without_a_norm_go_for_nothing(case: tuple[RandomNet, int, int]) -> None:
    net, batch, seed = case
    inputs = example(net, batch)
    graph = trace(net, inputs)
    mask = random_mask(graph, seed)
    silence_(net, graph, mask.keep)
    assert torch.equal(unit_norms(net, graph) > 0, mask.keep)
    before, after = (tensors(call(model, inputs)) for model in (net, remove(net, graph, mask)))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    scores = ranking.scores("group-norm", net, graph)
    assert torch.equal(scores > 0, mask.keep)


def one_group() -> tuple[nn.Module, Graph]:
    """A network in which each weight belongs to one unit: only the middle can be removed."""
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    return model, trace(model.eval(), torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_the_total_pull_is_what_the_strength_was_solved_for(schedule: str) -> None:
    """Where nothing defends a unit it loses S of its norm over the square root of its tensors, as a gamma does."""
    torch.manual_seed(0)
    model, graph = one_group()
    count = graph.coupled.tensors[:-1]
    assert graph.units == 6 and count.tolist() == [5.0] * 6  # filter, its bias, gamma, beta, what reads it
    settings = recipe(epochs=100, schedule=schedule, learning_rate=0.01)
    steps = settings.epochs * 6
    strength = solve_strength(0.4, settings.learning_rate * total(settings.rate_share, steps), 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9)
    before = unit_norms(model, graph) / count.sqrt()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * settings.rate_share(step, steps)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        penalise_groups_(model, graph, strength)
        optimizer.step()
    pulled = before - unit_norms(model, graph) / count.sqrt()
    torch.testing.assert_close(pulled, torch.full((6,), 0.4), rtol=0, atol=0.02)


def test_where_gamma_is_all_that_there_is_of_a_unit_the_penalties_are_one() -> None:
    model, graph = one_group()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(name == "1.weight")  # of five tensors only gamma has a norm
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    penalise_groups_(model, graph, 0.01)
    found = model[1].weight.grad.clone() / 5**0.5
    model[1].weight.grad.zero_()
    penalise_gamma_(model, 0.01)
    torch.testing.assert_close(found, model[1].weight.grad)
    assert not any(p.grad.any() for name, p in model.named_parameters() if name != "1.weight")


def test_the_more_it_is_penalised_the_smaller_a_network_gets() -> None:
    model, split = network(), stripes()
    graph = trace(model, torch.zeros(1, 1, 6, 6))
    norms = [
        unit_norms(training.train(model, split, recipe(), hooks=[group_penalty(graph, lambda _, w=w: w)]).model, graph)
        for w in (0.0, 0.02, 0.1)
    ]
    assert float(norms[0].sum()) > float(norms[1].sum()) > float(norms[2].sum())
    assert bool((norms[2] < norms[0]).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strength", [0.0, 1e-4, 1.0])
def test_a_pull_is_finite_and_bounded_however_small_or_large_a_unit_is(dtype: torch.dtype, strength: float) -> None:
    net = network().eval()
    graph = trace(net, torch.zeros(1, 1, 6, 6))
    finfo = torch.finfo(dtype)
    sizes = torch.logspace(-46, 4, 101).tolist() + [finfo.tiny, finfo.tiny**0.5, finfo.smallest_normal]
    largest = strength * max(graph.coupled.tensors).item() ** 0.5
    net = net.to(dtype)
    for size in sizes:
        for p in net.parameters():
            p.data.fill_(size)
            p.grad = torch.zeros_like(p)
        penalise_groups_(net, graph, strength)
        pulls = torch.cat([p.grad.double().flatten() for p in net.parameters() if p.grad is not None])
        assert bool(pulls.isfinite().all()) and float(pulls.abs().max()) <= 4 * largest, size


def test_parameters_without_a_gradient_stay_without() -> None:
    model, graph = one_group()
    penalise_groups_(model, graph, 0.1)
    assert all(p.grad is None for p in model.parameters())


def test_it_sees_through_distributed_data_parallel(tmp_path: Any) -> None:
    model, graph = one_group()
    other = copy.deepcopy(model)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        for network_ in (wrapped, other):
            network_(torch.ones(2, 2, 4, 4)).square().sum().backward()
            slimkit.penalise_groups_(network_, graph, 0.1)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
    finally:
        dist.destroy_process_group()


def test_sums_are_those_of_the_entries_of_each_unit() -> None:
    random = torch.Generator().manual_seed(0)
    rows = [torch.randint(-1, 9, (size,), generator=random) for size in (1, 30, 7, 200)]
    coupled = Coupled([("w", i) for i in range(4)], rows, 10)  # the last unit has no entry
    values = torch.rand(238, generator=random, dtype=torch.float64)
    flat = torch.cat(rows)
    expected = [float(values[flat == unit].sum()) for unit in range(10)]
    torch.testing.assert_close(coupled.sums(values), torch.tensor([*expected, 0.0], dtype=torch.float64))
    assert coupled.tensors[:-1].tolist() == [float(sum(bool((row == u).any()) for row in rows)) for u in range(10)]
    empty = Coupled([], [], 0)
    assert empty.sums(torch.zeros(0)).tolist() == [0.0]


def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Any) -> None:
    model, split = network(), stripes()
    graph = trace(model, torch.zeros(1, 1, 6, 6))
    hook = group_penalty(graph, lambda step: 0.01)
    whole = training.train(model, split, recipe(), hooks=[hook])

    class Killed(Exception):
        pass

    def kill(run: training.Run) -> None:
        if run.step == 10:
            raise Killed

    store = training.Store(tmp_path / "state", seconds=0)
    with pytest.raises(Killed):
        training.train(model, split, recipe(), hooks=[hook], progress=kill, store=store)
    resumed = training.train(
        model, split, recipe(), hooks=[hook], store=training.Store(tmp_path / "state", resume=True, seconds=0)
    )
    same(whole.model, resumed.model)
