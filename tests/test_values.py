"""Outputs of the shape of class scores that are values in some unit: fitted and compared as what they are."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit import data, provenance, tasks
from slimkit.channels import trace
from slimkit.errors import DataError, SpecError
from slimkit.example import are_values
from slimkit.measure.agreement import agreement, disagreement_with
from slimkit.recovery.calibration import Chunk
from slimkit.recovery.elimination import losses
from slimkit.recovery.gap import divergence, spreads_of
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
    assert are_values(other(images).detach())
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
    other = within(net, unit)
    assert agreement(other, other, [images]) is None
    with pytest.raises(DataError, match="what the network returns is no classes"):
        disagreement_with(other, [images])
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


SOME = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))


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
        (SOME[:, :1] + torch.tensor([-1.3, 0.0, 1.3]), True),  # quantiles: always in this order
        (nn.functional.normalize(SOME, dim=1), True),  # an embedding
        (SOME, True),  # numbers that say little of a class, and are none's
        (SOME - SOME.mean(1, keepdim=True), False),  # no surer, and no sum moves: as training by softmax leaves it
        (0.1 * (SOME - SOME.mean(1, keepdim=True)), False),
        ((SOME + torch.tensor([1.0, 0, 0, 0, 0, 0])).log_softmax(1), False),
        (SOME.softmax(1), False),
        (torch.tensor([[6.0, 0.0], [0.0, 1.0]]).repeat_interleave(torch.tensor([980, 20]), 0), False),  # 2 %, and sure
    ],
)
def test_what_values_are(rows: Tensor, values: bool) -> None:
    assert are_values(rows) is values


class Fields(nn.Module):
    """Gives maps of three quantities, as [N, 3, H, W] or, of tokens, as [N, H W, 3]."""

    def __init__(self, tokens: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()
        )  # fmt: skip
        self.head = nn.Conv2d(12, 3, 1)
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.body(x))
        return out.flatten(2).transpose(1, 2) if self.tokens else out


@pytest.mark.parametrize("tokens", [False, True])
def test_units_of_maps_do_not_matter(tokens: bool) -> None:
    """Kelvins, a share and metres a second in one tensor: losses, the fit and what is said of it are of each alike."""
    net, images = Fields(tokens).eval(), torch.randn(128, 2, 8, 8)
    factors, offsets = torch.tensor([8.0, 0.02, 3.0]), torch.tensor([293.0, 0.5, 5.0])
    other = copy.deepcopy(net)
    with torch.no_grad():
        deviation = net(images).flatten(0, 1).std(0) if tokens else net(images).transpose(0, 1).flatten(1).std(1)
        for one, factor, offset in ((net, 1 / deviation, 0.0), (other, factors / deviation, offsets)):
            one.head.weight.mul_(factor[:, None, None, None])
            one.head.bias.mul_(factor).add_(offset)
    graph = trace(net, images[:1])
    found, also = losses(net, graph, [images]), losses(other, graph, [images])
    torch.testing.assert_close(found.measured, also.measured, rtol=0.02, atol=1e-4)
    torch.testing.assert_close(found.estimated, also.estimated, rtol=0.02, atol=1e-4)
    mask = half(graph)
    made = [reconstruct(one, remove(one, graph, mask), graph, mask, [images]) for one in (net, other)]
    assert made[0].after == pytest.approx(made[1].after, rel=0.02)
    along = (0, 1) if tokens else (0, 2, 3)
    with torch.no_grad():
        wanted, fitted = other(images), made[1].model(images)
    lost = ((fitted - wanted).square().mean(along) / wanted.var(along)).mean()
    assert 0.5 * lost == pytest.approx(made[1].after, rel=0.3)


def test_what_a_task_says_decides_on_maps() -> None:
    """A segmentation network's maps are scores, by a task that is said, where their numbers might be anything."""
    net, images = Fields(tokens=False).eval(), torch.randn(8, 2, 8, 8)
    chunks = [Chunk(images, False)]
    assert list(spreads_of(net, chunks)) == [0]
    provenance.attach(net, replace(provenance.of(net), use=provenance.Use(task="segmentation")))
    assert not spreads_of(net, chunks)


def test_a_constant_among_outputs_counts_by_its_size() -> None:
    wanted = torch.cat([torch.full((64, 1), 293.0), torch.randn(64, 1)], 1)
    found = wanted + torch.tensor([2.93, 0.0])
    assert divergence(wanted, found) == pytest.approx(0.01**2 / 4, rel=1e-4)


def quantiles() -> tuple[nn.Module, Tensor]:
    """Return a network whose third output is always its largest, and inputs."""
    net, images = network()
    with torch.no_grad():
        net[-1] = nn.Linear(108, 3)
        net[-1].weight.copy_(net[-1].weight[:1].expand(3, -1))
        net[-1].bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    return net.eval(), images


def test_a_drop_of_agreement_is_refused_where_it_tells_nothing(tmp_path: Path) -> None:
    """Quantiles in their order agree on 100 %, whatever is left of them: 5 % of the network had been delivered."""
    net, images = quantiles()
    inputs = torch.randn(1024, 2, 8, 8)

    def told(what: str, share: float | None) -> None:
        assert "looking for" not in what and "ranking" not in what

    with pytest.raises(DataError, match="(?s)no classes, or nearly always the same.*`task='classification'`"):
        slimkit.compress(net, images[:1], calibration=inputs, max_drop=2.0, epochs=0, progress=told)
    with pytest.raises(DataError, match="(?s)nearly always the same one.*Give labelled data and a task$"):
        own = tmp_path / "own.py"
        own.write_text(
            "from slimkit.tasks import Task\n"
            "def make(): return Task.of(loss=lambda o, y: o.mean(), metrics={'m': lambda o, y: o}, better='lower')"
        )
        slimkit.compress(net, images[:1], calibration=inputs, max_drop=2.0, epochs=0, task=f"{own}:make")


def test_a_task_says_of_calibration_alone_what_outputs_are() -> None:
    """Scores that look like values: no agreement is told, unless they are said to be of classes."""
    net, images = network()
    fit = slimkit.compress(net, images[:1], 0.4, calibration=images, epochs=0).report.fit
    assert fit is not None and fit.agreement is None
    fit = slimkit.compress(net, images[:1], 0.4, calibration=images, epochs=0, task="classification").report.fit
    assert fit is not None and fit.agreement is not None
    with pytest.raises(SpecError, match="task is 'segment': unknown"):
        slimkit.compress(net, images[:1], 0.4, calibration=images, epochs=0, task="segment")


def test_nearly_one_class_tells_nothing_by_agreement() -> None:
    """Of a classifier as well: one that never says the rare class agrees with it on 98 %."""
    scores = torch.tensor([[3.0, -3.0], [-1.0, 1.0]]).repeat_interleave(torch.tensor([990, 10]), 0)
    assert agreement(nn.Identity(), nn.Identity(), [scores], task="classification") is None
    scores = torch.tensor([[3.0, -3.0], [-1.0, 1.0]]).repeat_interleave(torch.tensor([900, 100]), 0)
    found = agreement(nn.Identity(), nn.Identity(), [scores])
    assert found is not None and found.value == 1.0
