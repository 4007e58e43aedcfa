"""Parts of training that are functions: schedules, penalty, BN statistics, loss, optimizer, recipe."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_sample import mean_and_variance, network, recipe, stripes

from slimkit import data, hardware, recovery, training
from slimkit.channels import trace
from slimkit.errors import EngineError, SpecError, TrainingError
from slimkit.runs import start
from slimkit.selection.mask import Mask
from slimkit.settings import CompressSpec
from slimkit.surgery.remove import kept_indices, remove
from slimkit.tasks import CLASSIFICATION, SEGMENTATION, Task
from slimkit.training import penalty, schedules
from slimkit.training.loss import Objective


@pytest.mark.parametrize("budget", [1, 7, 45, 160])
def test_schedules_begin_high_and_end_low(budget: int) -> None:
    for name, schedule in schedules.SCHEDULES.items():
        values = [schedule(step, budget) for step in range(budget)]
        assert all(0 < value <= 1 for value in values), name
        assert values == sorted(values, reverse=True), name
    assert schedules.cosine(0, budget) == schedules.milestones(0, budget + 1) == 1


def test_milestones_fall_also_where_the_budget_is_odd() -> None:
    values = [schedules.milestones(epoch, 45) for epoch in range(45)]  # 22.5 and 33.75 are no epochs
    assert [round(v, 6) for v in (values[22], values[23], values[33], values[34])] == [1, 0.1, 0.1, 0.01]


def test_warm_up_rises_on_a_line_and_leaves_the_rest() -> None:
    schedule = schedules.warmed_up(schedules.cosine, 0.1)
    assert [schedule(step, 100) / schedules.cosine(step, 100) for step in (0, 4, 9, 50)] == [0.1, 0.5, 1, 1]
    assert schedules.warmed_up(schedules.cosine, 0.05)(0, 4) == 1  # less than a step of warm-up is none
    closed_form = 50.5  # of sum (1 + cos(pi t / 100)) / 2 over t = 0 .. 99
    assert math.isclose(schedules.total(schedules.cosine, 100), closed_form)


def test_the_penalty_is_the_gradient_of_the_l1_norm() -> None:
    model = network()
    with torch.no_grad():
        model[1].weight[:3] = torch.tensor([-0.5, 0.0, 2.0])
    value = 0.03 * sum(p.abs().sum() for _, p in penalty.gammas(model))
    value.backward()
    expected = {name: p.grad.clone() for name, p in penalty.gammas(model)}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    training.penalise_gamma_(model, 0.03, only=["1"])
    torch.testing.assert_close(model[1].weight.grad, expected["1"])
    assert all(not p.grad.any() for p in model.parameters() if p is not model[1].weight)
    training.penalise_gamma_(model, 0.03, only=["4"])
    torch.testing.assert_close(model[4].weight.grad, expected["4"])


def test_a_penalty_that_reaches_no_gamma_says_so() -> None:
    model = network()
    with pytest.raises(TrainingError, match="none of them has a gradient"):
        training.penalise_gamma_(model, 0.03)
    training.penalise_gamma_(model, 0.0)
    with pytest.raises(TrainingError, match="no BatchNorm has one to train"):
        training.penalise_gamma_(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False)), 0.03)


def test_the_strength_pulls_an_undefended_gamma_by_s() -> None:
    rates = [0.1 * schedules.cosine(step, 400) for step in range(400)]
    strength = training.solve_strength(0.4, math.fsum(rates), 0.9)
    assert math.isclose(penalty.pull(strength, math.fsum(rates), 0.9), 0.4)
    gamma = nn.BatchNorm2d(1).double()
    optimizer = torch.optim.SGD(gamma.parameters(), lr=1, momentum=0.9)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        gamma.weight.grad = torch.zeros_like(gamma.weight)
        training.penalise_gamma_(gamma, strength)
        optimizer.step()
    assert abs(1 - gamma.weight.item() - 0.4) < 0.02  # momentum has to build up over the first 10 of 400 steps
    with pytest.raises(TrainingError, match="sum to 0"):
        training.solve_strength(2, 0.0, 0.9)


def test_a_gap_is_seen_where_small_gammas_end() -> None:
    values = torch.cat([torch.rand(40) * 1e-3, 0.5 + torch.rand(60)])[torch.randperm(100)]
    assert [penalty.has_gap(values, ratio) for ratio in (0.0, 0.3, 0.4, 0.5, 1.0)] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert penalty.share_near_zero(values) == 0.4


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_gamma_and_bias_never_decay(name: str) -> None:
    optimizer = training.make_optimizer(network(), training.Recipe(epochs=1, optimizer=name, weight_decay=0.01))
    decays = {group["weight_decay"]: [p.ndim for p in group["params"]] for group in optimizer.param_groups}
    assert decays == {0.01: [4, 4, 2], 0.0: [1, 1, 1, 1, 1]}


def test_statistics_are_the_exact_average_over_the_batches() -> None:
    model, split = network(dropout=0.5).train(), stripes(90)
    model[4].eval()
    model[4].momentum = 0.3
    modes = [m.training for m in model.modules()]
    recovery.reestimate(model, split, batch_size=30)
    assert [m.training for m in model.modules()] == modes
    assert (model[1].momentum, model[4].momentum, int(model[1].num_batches_tracked)) == (0.1, 0.3, 0)
    batches = [images for images, _ in split.batches(30, seed=0)]
    assert len(batches) == 3
    with torch.no_grad():
        parts = [mean_and_variance(model[0](images)) for images in batches]
    torch.testing.assert_close(model[1].running_mean.double(), sum(m for m, _ in parts) / 3)
    torch.testing.assert_close(model[1].running_var.double(), sum(v for _, v in parts) / 3)


def test_of_few_images_all_are_measured_in_batches_that_weigh_the_same() -> None:
    model, split = network(), stripes(100)
    recovery.reestimate(model, split, batch_size=64)  # of 50 and 50
    with torch.no_grad():
        mean, _ = mean_and_variance(model[0](next(iter(split.batches(100)))[0]))
    torch.testing.assert_close(model[1].running_mean.double(), mean)
    spec = CompressSpec(ranking="taylor", batch_size=64, data="digits")
    dataset = data.as_dataset({"train": split, "validation": split})
    assert [len(labels) for _, labels in start.context(spec, dataset).batches] == [50, 50]
    spec = CompressSpec(ranking="taylor", batch_size=8, data="digits")  # ten batches are enough
    assert [len(labels) for _, labels in start.context(spec, dataset).batches] == [8] * 10


def test_statistics_survive_a_batch_that_fails() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model[3].register_forward_hook(lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        recovery.reestimate(model, stripes())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert model[1].momentum == 0.1 and model[1].training


def test_loss_is_that_of_the_papers() -> None:
    logits, target = torch.randn(5, 4), torch.randn(5, 4)
    labels = torch.tensor([0, 1, 2, 3, 0])
    settings = recipe(label_smoothing=0.2, distillation=0.25, temperature=3.0)
    smooth = 0.8 * F.one_hot(labels, 4) + 0.2 / 4
    hard = -(smooth * logits.log_softmax(1)).sum(1).mean()
    p, q = (target / 3).softmax(1), (logits / 3).softmax(1)
    soft = 9 * (p * (p / q).log()).sum(1).mean()
    loss = Objective(CLASSIFICATION, settings)
    torch.testing.assert_close(loss(logits, labels), hard)
    torch.testing.assert_close(loss(logits, labels, target), 0.75 * hard + 0.25 * soft)
    heads = Objective(CLASSIFICATION, recipe())((logits, None, target), labels)
    torch.testing.assert_close(heads, F.cross_entropy(logits, labels) + 0.3 * F.cross_entropy(target, labels))


@pytest.mark.parametrize(("task", "shape"), [(CLASSIFICATION, (6, 4)), (SEGMENTATION, (6, 4, 3, 3))])
def test_labels_are_smoothed_for_auxiliary_heads_too(task: Task, shape: tuple[int, ...]) -> None:
    main, *others = (3 * torch.randn(shape, requires_grad=True) for _ in range(3))
    targets = torch.randint(0, 4, (shape[0], *shape[2:]))
    loss = Objective(task, recipe(label_smoothing=0.3))((main, *others), targets)
    each = [F.cross_entropy(scores, targets, label_smoothing=0.3) for scores in (main, *others)]
    torch.testing.assert_close(loss, each[0] + task.auxiliary * (each[1] + each[2]))


class Own(torch.optim.SGD):
    """Keeps a number and a function on itself, as optimizers of one's own do."""

    def __init__(self, params: Any, shrink: float) -> None:
        super().__init__(params, lr=0.05, momentum=0.9)
        self.shrink, self.settings = shrink, {"by": [abs, None], "rule": lambda value: value * shrink}

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = self.settings["rule"](parameter.grad) * self.shrink
        return super().step(closure)


class Around(torch.optim.SGD):
    """Holds another optimizer, as wrappers do."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        self.inner = torch.optim.SGD(self.param_groups, lr=0.1)


OPTIMIZERS = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    "SGD, dampened": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, dampening=0.5),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=1e-3),
    "Adam, amsgrad": lambda groups: torch.optim.Adam(groups, lr=1e-3, amsgrad=True, foreach=False),
    "NAdam": lambda groups: torch.optim.NAdam(groups, lr=1e-3),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-3, momentum=0.9, centered=True),
    "Adagrad": lambda groups: torch.optim.Adagrad(groups, lr=1e-2),
    "of one's own": lambda groups: Own(groups, 0.9),
    "Adadelta": lambda groups: torch.optim.Adadelta(groups),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_follows_surgery_so_that_the_loss_curve_goes_on(name: str) -> None:
    """Slim and masked network take the same steps: that is so only if what it remembers is sliced rightly."""
    model = network().train()
    graph = trace(model.eval(), torch.zeros(1, 1, 6, 6))
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    decayed: dict[str, Any] = {"params": weights, "weight_decay": 1e-3}
    optimizer = OPTIMIZERS[name]([decayed, {"params": rest, "weight_decay": 0.0}])
    batches = [batch for epoch in range(2) for batch in stripes().batches(16, seed=0, epoch=epoch)]

    def steps(net: nn.Module, own: torch.optim.Optimizer, part: slice) -> list[float]:
        losses = []
        for images, labels in batches[part]:
            value = F.cross_entropy(net.train()(images), labels)
            own.zero_grad()
            value.backward()
            own.step()
            losses.append(value.item())
        return losses

    steps(model, optimizer, slice(0, 6))
    keep = torch.arange(graph.units) % 3 > 0
    indices = kept_indices(graph, Mask(keep))
    slim = remove(model, graph, Mask(keep))
    followed = training.follow(optimizer, model, slim, indices)
    assert type(followed) is type(optimizer) and followed.state.keys() == set(slim.parameters())
    assert [{k: v for k, v in g.items() if k != "params"} for g in followed.param_groups] == [
        {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
    ]
    for index in ("1", "4"):  # mask: gamma and beta to zero, and nothing left that would move them
        for which in ("weight", "bias"):
            parameter = model.get_parameter(f"{index}.{which}")
            gone = torch.ones(len(parameter), dtype=torch.bool)
            gone[indices[f"{index}.{which}"][0]] = False
            with torch.no_grad():
                parameter[gone] = 0
                for value in optimizer.state[parameter].values():
                    if isinstance(value, torch.Tensor) and value.dim():
                        value[gone] = 0
    after = {key: value.clone() for key, value in slim.state_dict().items()}
    torch.testing.assert_close(
        steps(slim, followed, slice(6, 12)), steps(model, optimizer, slice(6, 12)), rtol=1e-4, atol=1e-5
    )
    assert any(not torch.equal(value, after[key]) for key, value in slim.state_dict().items())


SETTINGS = {
    "lr": lambda: torch.tensor(1e-3), "betas": lambda: (torch.tensor(0.9), torch.tensor(0.999)),
    "initial_lr": lambda: torch.tensor(0.5), "milestones": lambda: [3, 5],
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_two_optimizers_share_no_setting_that_can_be_changed_in_place(name: str) -> None:
    model = network()
    graph = trace(model.eval(), torch.zeros(1, 1, 6, 6))
    mask = Mask(torch.arange(graph.units) % 2 > 0)
    optimizer = torch.optim.Adam([{"params": list(model.parameters()), name: SETTINGS[name]()}], foreach=False)
    optimizer.defaults[name] = SETTINGS[name]()
    followed = training.follow(optimizer, model, remove(model, graph, mask), kept_indices(graph, mask))
    for theirs, ours in (
        (followed.param_groups[0], optimizer.param_groups[0]),
        (followed.defaults, optimizer.defaults),
    ):
        assert theirs is not ours and theirs[name] == ours[name]
        parts = zip(*((one if isinstance(one, tuple) else (one,)) for one in (theirs[name], ours[name])), strict=True)
        assert all(a is not b for a, b in parts)


def test_an_optimizer_keeps_its_groups_and_what_it_left_out_through_surgery() -> None:
    """A scheduler's hold on the old one does not come along; a head trained alone is trained alone."""
    model = network()
    graph = trace(model.eval(), torch.zeros(1, 1, 6, 6))
    mask = Mask(torch.arange(graph.units) % 2 > 0)
    slim = remove(model, graph, mask)
    head = [(name, p) for name, p in model.named_parameters() if p.ndim == 2]
    optimizer = torch.optim.AdamW([{"params": head, "lr": 0.5}])
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # puts a function of its own in place of `step`
    followed = training.follow(optimizer, model, slim, kept_indices(graph, mask))
    (group,) = followed.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in slim.parameters() if p.ndim == 2] and group["lr"] == 0.5
    assert group.get("param_names", [name for name, _ in head]) == [name for name, _ in head]
    before = [p.clone() for p in slim.parameters()]
    F.cross_entropy(slim(torch.randn(4, 1, 6, 6)), torch.tensor([0, 1, 2, 0])).backward()
    followed.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, slim.parameters(), strict=True)]
    assert moved == [p.ndim == 2 for p in slim.parameters()]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("learning_rate", -0.1),
        ("momentum", 1.0),
        ("warm_up", -0.1),
        ("label_smoothing", float("nan")),
        ("distillation", 1.1),
        ("temperature", 0),
        ("schedule", "cosinus"),
        ("precision", "fp8"),
        ("device", "tpu"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(setting: str, value: object) -> None:
    with pytest.raises(SpecError, match=rf"^{setting} is {value!r}: .*\n  "):
        recipe(**{setting: value})


def test_device_and_precision_are_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert hardware.pick_device("auto").type == "cpu"
    with pytest.raises(EngineError, match="finds none here"):
        hardware.pick_device("cuda")
    with pytest.raises(EngineError, match="`device='cuda:1'`: PyTorch"):
        hardware.pick_device("cuda:1")
    assert training.Recipe(epochs=1, device="cuda:1").device == "cuda:1"
    monkeypatch.setattr(hardware, "has_bf16", lambda device: False)
    cpu = torch.device("cpu")
    assert [hardware.pick_precision(name, cpu) for name in ("auto", "fp32", "bf16")] == [
        torch.float32,
        torch.float32,
        torch.bfloat16,
    ]


@pytest.mark.parametrize("make", [torch.optim.Adafactor, torch.optim.LBFGS, Around])
def test_an_optimizer_that_remembers_no_single_channels_is_refused(make: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = make(net.parameters())

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = net(torch.ones(1, 3)).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with pytest.raises(TrainingError, match=f"the optimizer is {make.__name__}: .* cannot follow the channels"):
        training.follow(optimizer, net, net, {})


def test_a_penalty_is_a_number() -> None:
    for strength in (float("nan"), float("inf"), -1.0):
        with pytest.raises(TrainingError, match="strength of the penalty"):
            training.penalise_gamma_(nn.BatchNorm2d(2), strength)


@pytest.mark.parametrize(("epochs", "varied"), [(0.2, False), (1, False), (10, False), (11, True), (100, True)])
def test_short_retraining_takes_images_as_they_are(epochs: float, varied: bool) -> None:
    assert recovery.recipe(epochs).augment is varied


def test_retraining_bounds_its_gradients() -> None:
    assert recovery.recipe(0.2).clip and not training.Recipe(epochs=1).clip


def test_groups_that_share_a_rate_share_it_in_the_new_optimizer() -> None:
    model = network()
    graph = trace(model.eval(), torch.zeros(1, 1, 6, 6))
    mask = Mask(torch.arange(graph.units) % 2 > 0)
    groups = [{"params": [parameter]} for parameter in model.parameters()]
    optimizer = torch.optim.Adam(groups, lr=torch.tensor(0.1), foreach=False)
    followed = training.follow(optimizer, model, remove(model, graph, mask), kept_indices(graph, mask))
    followed.defaults["lr"].fill_(0.5)
    assert {float(group["lr"]) for group in followed.param_groups} == {0.5}
    assert {round(float(group["lr"]), 3) for group in optimizer.param_groups} == {0.1}
