"""Images made from a network's own statistics: they meet them, and are enough to recover a cut."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import model_zoo
import slimkit
from slimkit import data, models, provenance
from slimkit.channels import trace
from slimkit.errors import DataError, TrainingError
from slimkit.measure.quality import quality as accuracy
from slimkit.recovery.made_images import made_images
from slimkit.recovery.norms import learned
from slimkit.recovery.reconstruct import reconstruct
from slimkit.surgery.remove import remove
from tests.test_reconstruct import half


def test_the_statistics_of_made_images_are_those_that_batch_norm_keeps() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        for _ in range(200):
            net(torch.randn(16, 2, 8, 8) * 0.5 + 1)
    net[0].weight.requires_grad_(False)
    state = copy.deepcopy(net.state_dict())
    images = made_images(net, (2, 8, 8), count=64, steps=80)
    assert images.shape == (64, 2, 8, 8)
    assert net.training and not net[0].weight.requires_grad and net[3].weight.requires_grad
    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
    net.eval()
    with torch.no_grad():
        read = net[:4](images)
    torch.testing.assert_close(read.mean((0, 2, 3)), net[4].running_mean, rtol=0.1, atol=0.1)
    torch.testing.assert_close(read.std((0, 2, 3)), net[4].running_var.sqrt(), rtol=0.2, atol=0.05)


def test_made_images_depend_on_nothing_but_network_and_seed() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    net(torch.randn(8, 1, 6, 6))
    first, again, other = (made_images(net, (1, 6, 6), count=10, steps=3, seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "net", [nn.Sequential(nn.Conv2d(1, 3, 3)), nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))]
)
def test_without_learned_statistics_nothing_can_be_made(net: nn.Module) -> None:
    with pytest.raises(DataError, match="no BatchNorm with learned statistics"):
        made_images(net, (1, 6, 6), count=8, steps=1)


@pytest.mark.parametrize(("mean", "variance", "found"), [(0.0, 1.0, False), (0.1, 1.0, True), (0.0, 0.9, True)])
def test_statistics_are_learned_where_either_has_moved(mean: float, variance: float, found: bool) -> None:
    norm = nn.BatchNorm2d(3)
    norm.running_mean[1], norm.running_var[2] = mean, variance
    assert ([one.module for one in learned(nn.Sequential(norm))] == [norm]) is found


class Own(nn.Module):
    """A small classifier that reads its inputs in units of its own."""

    def __init__(self, inside: bool, first: bool) -> None:
        super().__init__()
        self.inside = inside
        self.first = nn.BatchNorm1d(1) if first else nn.Identity()
        self.conv1, self.norm1 = nn.Conv1d(1, 12, 5, padding=2, bias=False), nn.BatchNorm1d(12)
        self.conv2, self.norm2 = nn.Conv1d(12, 12, 5, padding=2, bias=False), nn.BatchNorm1d(12)
        self.last = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first((x - 8192) / 1000 if self.inside else x)
        return self.last(self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu().mean(2))


@pytest.mark.parametrize(
    ("offset", "scale", "inside", "first"),
    [(8192, 1500, False, False), (8192, 1500, True, False), (0, 1e-3, False, False), (-500, 40, False, True)],
)
def test_made_images_are_in_the_units_that_the_network_reads(
    offset: float, scale: float, inside: bool, first: bool
) -> None:
    """Noise of variance 1 had been moved by 9 at the most: of signals around 8,192 nothing was left."""
    torch.manual_seed(0)
    net = Own(inside, first)
    with torch.no_grad():
        net.conv1.weight /= 1 if inside or first else scale  # as training would
        for _ in range(100):
            net(offset + scale * torch.randn(32, 1, 64))
    images = made_images(net.eval(), (1, 64), count=32)
    assert float(images.mean()) == pytest.approx(offset, abs=0.3 * scale)
    assert float(images.std()) == pytest.approx(scale, rel=0.3)


def test_channels_have_units_of_their_own() -> None:
    offset, scale = torch.tensor([[[0.0], [8192], [-0.5]]]), torch.tensor([[[1.0], [1000], [0.01]]])
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8))
    with torch.no_grad():
        for _ in range(100):
            net(offset + scale * torch.randn(32, 3, 32))
    images = made_images(net.eval(), (3, 32), count=32, steps=20)
    torch.testing.assert_close(
        (images.mean((0, 2)) - offset.flatten()) / scale.flatten(), torch.zeros(3), atol=0.3, rtol=0
    )
    torch.testing.assert_close(images.std((0, 2)) / scale.flatten(), torch.ones(3), atol=0.3, rtol=0)


def test_images_that_do_not_meet_the_statistics_are_not_used() -> None:
    """All agreed on such images, and the network that was fitted to them was told to be as good as the original."""
    torch.manual_seed(0)
    net = Own(False, False)
    with torch.no_grad():
        for _ in range(100):
            net(torch.randn(32, 1, 64))
        net.norm2.running_mean += 50 * net.norm2.running_var.sqrt() * torch.randn(12)  # which no input can do
    with pytest.raises(DataError, match="(?s)no images can be made: none were found.*Give calibration images"):
        made_images(net.eval(), (1, 64), count=32)
    result = slimkit.compress(net, torch.randn(1, 1, 64), ratio=0.4, onnx=False)
    assert result.mask.removed and result.report.fit is None
    said = result.report.verdict
    assert said.startswith("Not recovered") and "agrees" not in said
    assert said.endswith("was not measured: give --calibration or --data.")
    without = slimkit.compress(net, torch.randn(1, 1, 64), ratio=0.4, onnx=False, recover=False).report.verdict
    assert without.endswith("was not measured.")


class Odd(nn.Module):
    """A network that runs on its example input, and of which no images can be made."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.words = kind, nn.Embedding(20, 12)
        self.first, self.norm = nn.Conv1d(12 if kind == "words" else 3, 12, 3, padding=1), nn.BatchNorm1d(12)
        self.second, self.last = nn.Conv1d(12, 12, 3, padding=1), nn.Linear(12, 3)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "words":
            x = self.words(x).mT
        if self.kind == "rounded":
            x = x.to(torch.uint8).float()
        if self.kind == "detached":
            x = x.detach()
        with torch.set_grad_enabled(self.kind != "without gradients"):
            x = self.norm(self.first(x)).relu()
            if self.kind == "in place":
                x += 1
            if self.kind == "one at a time":
                x = x.reshape(1, 12, 8)
            return self.last(self.second(x).relu().mean(2))


KINDS = ("words", "in place", "rounded", "detached", "without gradients", "one at a time")


@pytest.mark.parametrize("kind", KINDS)
def test_where_no_images_can_be_made_the_run_goes_on_without(kind: str) -> None:
    torch.manual_seed(1)  # of some weights every output is the same
    example = torch.randint(20, (1, 8)) if kind == "words" else 9 * torch.rand(1, 3, 8)
    result = slimkit.compress(Odd(kind).eval(), example, ratio=0.4, onnx=False)
    assert result.mask.removed and result.report.fit is None
    assert "Not recovered" in result.report.verdict


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("words", "one at a time")])
def test_networks_without_gradients_are_fitted_to_what_is_given_and_not_trained(kind: str) -> None:
    inputs, net = 9 * torch.rand(64, 3, 8), Odd(kind).eval()
    result = slimkit.compress(net, inputs[:1], ratio=0.4, calibration=inputs, epochs=0, onnx=False)
    assert result.report.fit is not None
    if kind in ("in place", "without gradients"):
        with pytest.raises(TrainingError, match="(?s)Odd cannot be trained.*`epochs=0`"):
            slimkit.compress(net, inputs[:1], ratio=0.4, calibration=inputs, epochs=1, onnx=False)


def test_a_network_is_halved_with_nothing_but_its_checkpoint() -> None:
    net = models.load_slim(Path(model_zoo.__file__).parent / "resnet8-digits.safetensors").eval()
    digits = data.open("digits").normalised(provenance.of(net).normalisation)
    images = made_images(net, digits.input_shape, count=128, steps=40)
    graph = trace(net, images[:1])
    mask = half(graph)
    slim = remove(net, graph, mask)
    found = reconstruct(net, slim, graph, mask, [images])
    assert accuracy(slim, digits.validation) < 0.3
    assert accuracy(found.model, digits.validation) > 0.7


class Frozen(nn.Module):
    """A BatchNorm that is not trained any more, as DETR has them: no eps to be seen."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def _torchvision(norm: nn.BatchNorm2d) -> nn.Module:
    made = pytest.importorskip("torchvision").ops.FrozenBatchNorm2d(norm.num_features, norm.eps)
    made.load_state_dict(norm.state_dict(), strict=False)
    return made


def _timm(norm: nn.BatchNorm2d) -> nn.Module:
    made = pytest.importorskip("timm").layers.norm_act.FrozenBatchNormAct2d(
        norm.num_features, norm.eps, apply_act=False
    )
    made.load_state_dict(norm.state_dict(), strict=False)
    return made


@pytest.mark.long
@pytest.mark.parametrize("frozen", [Frozen, _torchvision, _timm])
def test_frozen_norms_keep_statistics_too(frozen: Callable[[nn.BatchNorm2d], nn.Module]) -> None:
    """Without data such networks had been left to the norms of their weights, though all was there."""
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(8)]
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        norms[0],
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        norms[1],
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    for _ in range(60):
        net(torch.rand(16, 1, 8, 8) + torch.randn(16, 1, 1, 1))
    net.eval()
    wanted = made_images(net, (1, 8, 8), count=8, steps=20)
    net[1], net[4] = map(frozen, norms)
    torch.testing.assert_close(made_images(net, (1, 8, 8), count=8, steps=20), wanted, rtol=1e-2, atol=1e-2)
    report = slimkit.compress(net, torch.rand(1, 1, 8, 8), ratio=0.3, round_to=1, epochs=0, onnx=False).report
    assert report.fit is not None and report.fit.made
