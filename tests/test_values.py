"""Outputs of the shape of class scores that are values in some unit: fitted and compared as what they are."""

import copy

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit import data, tasks
from slimkit.channels import trace
from slimkit.errors import DataError
from slimkit.example import are_values
from slimkit.measure.quality import agreement, disagreement
from slimkit.recovery.elimination import losses
from slimkit.recovery.reconstruct import reconstruct
from slimkit.report.verdict import verdict
from slimkit.surgery.remove import remove
from tests.test_reconstruct import half

UNITS = {  # factor and offset of each of four outputs
    "one far away": ((10.0, 10.0, 10.0, 10.0), (1000.0, 0.0, 0.0, 0.0)),
    "pixels, a share, grams": ((60.0, 60.0, 0.3, 60.0), (120.0, 120.0, 0.5, 500.0)),
    "temperature and humidity": ((5.0, 10.0, 1e-3, 1e-3), (20.0, 60.0, 0.0, 0.0)),
    "large, about zero": ((1e4, 1e3, 1e4, 1e3), (0.0, 0.0, 0.0, 0.0)),
}


def network(seed: int = 0) -> tuple[nn.Sequential, Tensor]:
    """Return a network of four outputs that vary about zero by about one, and inputs."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12),
        nn.ReLU(), nn.Flatten(), nn.Linear(12 * 9, 4),
    )  # fmt: skip
    images = torch.randn(256, 2, 8, 8)
    with torch.no_grad():
        for _ in range(30):
            net.train()(images)
        out = net.eval()(images)
        head = net[-1]
        head.weight.div_(out.std(0)[:, None])
        head.bias.sub_(out.mean(0)).div_(out.std(0))
    return net.eval(), images


def within(net: nn.Sequential, unit: str) -> nn.Sequential:
    """Return the network with its outputs in other units."""
    factors, offsets = map(torch.tensor, UNITS[unit])
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[-1].weight.mul_(factors[:, None])
        other[-1].bias.mul_(factors).add_(offsets)
    return other


@pytest.mark.parametrize("unit", UNITS)
def test_units_do_not_matter(unit: str) -> None:
    """What channels are worth, the fit and its error are those of outputs that are told one by one."""
    net, images = network()
    other = within(net, unit)
    graph = trace(other, images[:1])
    assert are_values(other(images).detach()) and not are_values(net(images).detach())
    found = losses(other, graph, [images])
    mask = half(graph)
    slim = remove(other, graph, mask)
    made = reconstruct(other, slim, graph, mask, [images])
    with torch.no_grad():
        wanted, cut, fitted = (one(images) for one in (other, slim, made.model))
    spread = wanted.var(0)
    errors = [((one - wanted).square().mean(0) / spread).mean() for one in (cut, fitted)]
    assert errors[1] < 0.5 * errors[0] and made.before > made.after > 1e-3
    like = within(net, "one far away")
    also = losses(like, trace(like, images[:1]), [images])
    torch.testing.assert_close(found.measured, also.measured, rtol=0.05, atol=1e-4)
    torch.testing.assert_close(found.estimated, also.estimated, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("unit", UNITS)
def test_values_agree_on_no_class(unit: str) -> None:
    net, images = network()
    assert agreement(net, net, [images]) is not None
    other = within(net, unit)
    assert agreement(other, other, [images]) is None
    with pytest.raises(DataError, match="what the network returns is no classes"):
        disagreement(other, other, [images])
    made = slimkit.compress(other, images[:1], 0.4, calibration=images, epochs=0)
    fit = made.report.fit
    assert fit is not None and fit.agreement is None and fit.after < fit.before
    said = verdict(made.report).sentence
    assert "agrees" not in said and said.startswith("Not retrained" if fit.after <= 0.05 else "Not recovered")


def test_a_task_of_its_own_agrees_on_no_class() -> None:
    net, images = network()
    targets = torch.randn(256, 4)
    task = tasks.Task.of(
        loss=nn.functional.mse_loss, metrics={"error": lambda out, y: (out - y).square().mean(1)}, better="lower"
    )
    pairs = torch.utils.data.TensorDataset(images, targets)
    given = data.as_dataset((pairs, pairs), task=task)
    fit = slimkit.compress(net, images[:1], 0.4, dataset=given, epochs=0).report.fit
    assert fit is not None and fit.agreement is None


@pytest.mark.parametrize(
    ("rows", "values"),
    [
        (torch.eye(4).repeat(4, 1) * 20, False),  # a classifier that is sure, of all classes
        (torch.tensor([[12.0, 0.0]]).repeat(16, 1), True),  # always the first
        (torch.tensor([[12.0, 0.0]]).repeat(4, 1), False),  # of so few inputs that may be
        (torch.tensor([[12.0, 0.0], [0.0, 1.0]]).repeat_interleave(torch.tensor([9, 1]), 0), False),  # a rare class
        (torch.tensor([[0.5, 0.0]]).repeat(16, 1), False),  # always the first, and not sure
        (torch.eye(4).repeat(4, 1) * 200, True),
        (torch.zeros(0, 4), False),
    ],
)
def test_what_values_are(rows: Tensor, values: bool) -> None:
    assert are_values(rows) is values
