"""Layers that compute their weights: what can be is stored and computes the same; then their channels can go."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import slimkit
from slimkit import cli, plain_weights, provenance, remove, trace
from slimkit.models.plain_layers import SameConv2d
from slimkit.surgery import proof
from slimkit.surgery.plain_weights import replaced
from tests.test_channels_property import random_mask

X = torch.randn(1, 3, 13, 12)
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")


class Standardised(nn.Conv2d):
    """A convolution whose weights have mean 0 and deviation `gain`, channel by channel."""

    def __init__(self, *args: Any, gain: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), gain))

    def standard(self) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return (self.weight - mean) / (deviation + 1e-5) * self.gain

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.standard(), self.bias)


class PaddedLikeTensorFlow(Standardised):
    def forward(self, x: Tensor) -> Tensor:
        for dim in (0, 1):
            size, stride, reach = (
                x.shape[dim + 2],
                self.stride[dim],
                (self.kernel_size[dim] - 1) * self.dilation[dim] + 1,
            )
            outputs = (size + stride - 1) // stride
            zeros = max((outputs - 1) * stride + reach - size, 0)
            both = (zeros // 2, zeros - zeros // 2)
            x = F.pad(x, both if dim else (0, 0, *both))
        return F.conv2d(x, self.standard(), self.bias, self.stride, 0, self.dilation, self.groups)


class Around(nn.Module):
    """A module around a layer, whose weight it standardises: the layer itself never runs."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        self.layer = Standardised(*args)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.layer.standard(), padding="same")


class StandardisedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, 1, keepdim=True)
        return F.linear(x, (self.weight - mean) / deviation, self.bias)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "plain numbers": lambda: Standardised(6, 8, 3),
    "no bias": lambda: Standardised(6, 8, 3, bias=False),
    "everything differs": lambda: Standardised(6, 8, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "groups": lambda: Standardised(6, 8, 3, groups=2),
    "same": lambda: Standardised(6, 8, (3, 5), padding="same"),
    "circular": lambda: Standardised(6, 8, 3, padding=(1, 2), padding_mode="circular"),
    "a gain": lambda: Standardised(6, 8, 3, gain=0.3),
    "as TensorFlow pads": lambda: PaddedLikeTensorFlow(6, 8, (3, 4), stride=2),
    "as TensorFlow pads, strides differ": lambda: PaddedLikeTensorFlow(6, 8, (2, 5), stride=(3, 1), dilation=(2, 1)),
    "a module around": lambda: Around(6, 8, 3),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(6, 8, 3, padding=1)),
    "weight norm, by hooks": lambda: nn.utils.weight_norm(nn.Conv2d(6, 8, 3, padding=1)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(6, 8, 3)),
    "spectral norm, by hooks": lambda: nn.utils.spectral_norm(nn.Conv2d(6, 8, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Conv2d(6, 8, 3)),
    "transposed": lambda: parametrizations.weight_norm(nn.ConvTranspose2d(6, 8, 3, 2, 1, 1, dilation=2), dim=1),
    "transposed, groups": lambda: parametrizations.weight_norm(nn.ConvTranspose2d(6, 8, 3, groups=2), dim=1),
}  # fmt: skip


def around(layer: nn.Module, head: type[nn.Linear] = nn.Linear) -> nn.Sequential:
    """Return a network with a layer of 6 channels to 8, convolutions on either side."""
    before = (nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
    after = (nn.ReLU(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(5, 6), nn.ReLU())
    return nn.Sequential(*before, layer, *after, nn.Linear(6, 4)).eval()


@pytest.mark.parametrize("case", LAYERS)
def test_a_computed_weight_is_stored_and_its_channels_can_go(case: str) -> None:
    torch.manual_seed(0)
    net = around(LAYERS[case]())
    held = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert trace(net, X).computed == ("2",)

    plain = plain_weights(net, X)

    assert type(plain[2]) in (nn.Conv2d, nn.ConvTranspose2d, SameConv2d) and replaced(plain) == ["2"]
    for side in (12, 13, 15):
        image = torch.randn(2, 3, side, side + 1)
        assert torch.equal(plain(image), net(image))
    assert all(torch.equal(tensor, held[name]) for name, tensor in net.state_dict().items())
    graph = trace(plain, X)
    assert not graph.computed and {kept.output for kept in graph.kept} == {True}
    assert proof.evidence_for(plain, graph, random_mask(graph, 1), proof.trials(X)).error <= proof.TOLERANCE


@pytest.mark.long
@settings(max_examples=15)
@given(case=st.sampled_from(sorted(LAYERS)), seed=st.integers(0, 99))
def test_the_smaller_network_is_the_masked_one_as_a_module_and_in_onnx(case: str, seed: int) -> None:
    torch.manual_seed(seed)
    plain = plain_weights(around(LAYERS[case](), StandardisedLinear), X)
    graph = trace(plain, X)
    result = slimkit.compress(plain, X, ratio=0.5, seed=seed)
    assert result.report.proof.slim_vs_onnx is not None and result.report.proof.slim_vs_onnx <= proof.TOLERANCE
    mask = random_mask(graph, seed)
    assert proof.compare(proof.outputs(proof.masked(plain, graph, mask), [X]), remove(plain, graph, mask), [X]) < 1e-5


class Routed(nn.Conv2d):
    """A convolution whose weight is scaled by what it reads."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.flip(1) * x.mean().sigmoid(), self.bias)


class Rectified(Standardised):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Regained(Standardised):
    """Its gain, 1 so far, comes behind the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.flip(1), self.bias) * self.gain.flatten()[:, None, None]


class Held(nn.Conv2d):
    """Weights that a mask holds at 0: tracing follows it, and so does the mask."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * (torch.arange(3) < 2).float(), self.bias)


class ReadElsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Standardised(6, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.inner.gain.mean()


LEFT: dict[str, Callable[[], nn.Module]] = {
    "depends on the input": lambda: Routed(6, 8, 3),
    "an activation behind it": lambda: Rectified(6, 8, 3),
    "a gain behind it": lambda: Regained(6, 8, 3),
    "a mask": lambda: Held(6, 8, 3),
    "pruned": lambda: prune.l1_unstructured(nn.Conv2d(6, 8, 3), "weight", 0.5),
    "its parts are read elsewhere": ReadElsewhere,
    "stored": lambda: nn.Conv2d(6, 8, 3),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_no_plain_layer_is_left_as_it_is(case: str) -> None:
    torch.manual_seed(0)
    net = around(LEFT[case]())
    plain = plain_weights(net, X)
    assert plain is not net and not replaced(plain) and repr(plain) == repr(net)


def test_fake_quantised_weights_are_left() -> None:
    net = around(Standardised(6, 8, 3))
    net[2].weight_fake_quant = nn.Identity()
    assert not replaced(plain_weights(net, X))


def test_a_gain_of_zero_hides_nothing() -> None:
    assert replaced(plain_weights(around(Standardised(6, 8, 3, gain=0.0)), X)) == ["2"]
    assert not replaced(plain_weights(around(Rectified(6, 8, 3, gain=0.0, bias=False)), X))


def test_one_module_in_two_places_is_one_layer_again() -> None:
    shared = Standardised(6, 6, 3, padding=1)
    net = around(nn.Sequential(shared, nn.ReLU(), shared, nn.Conv2d(6, 8, 1)))
    plain = plain_weights(net, X)
    assert plain[2][0] is plain[2][2] and replaced(plain) == ["2.0"]
    assert torch.equal(plain(X), net(X))


def test_modes_and_flags_are_kept() -> None:
    net = around(Standardised(6, 8, 3)).train()
    net[2].eval().requires_grad_(False)
    plain = plain_weights(net, X)
    assert plain.training and not plain[2].training
    assert [p.requires_grad for p in plain[2].parameters()] == [False, False] and plain[0].weight.requires_grad


def test_a_reason_says_what_stores_a_weight() -> None:
    reasons = [kept.reason for kept in trace(around(Standardised(6, 8, 3)), X).kept if not kept.output]
    assert reasons and all("; slimkit.plain_weights stores what a layer computes" in reason for reason in reasons)


def test_compress_stores_weights_and_says_so() -> None:
    torch.manual_seed(0)
    net = around(Standardised(6, 8, 3), StandardisedLinear)
    result = slimkit.compress(net, X, ratio=0.5)
    said = [words for words in result.report.arch.assumptions if "2 layers may store the weights" in words]
    assert len(said) == 1 and result.report.channels.removable == 25
    plain = plain_weights(net, X)
    slim = remove(plain, trace(plain, X), result.mask)
    assert slim[2].weight.shape == result.model[2].weight.shape != net[2].weight.shape


@pytest.mark.parametrize("case", ["plain numbers", "groups", "a module around", "weight norm", "spectral norm"])
def test_torch_pruning_sees_stored_weights_too(case: str) -> None:
    pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    net = around(LAYERS[case](), StandardisedLinear)
    found = [slimkit.compress(net, X, ratio=0.5, tracer=engine).report for engine in ("slimkit", "torch-pruning")]
    assert found[0].channels.removable == found[1].channels.removable >= 18
    assert all(not report.proof.kept_after_failing and "2 layers may store" in str(report.arch) for report in found)


CODE = """
import torch
from torch import nn
from torch.nn import functional as F

class Standardised(nn.Conv2d):
    def forward(self, x):
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        x = F.pad(x, (0, 1, 0, 1)) if x.shape[-1] % 2 == 0 else F.pad(x, (1, 1, 1, 1))
        return F.conv2d(x, (self.weight - mean) / deviation, self.bias, self.stride)

def make():
    shared = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 3, padding=1))
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), Standardised(6, 8, 3, stride=2),
        nn.ReLU(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    )
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code that makes a network, its weights, and what `slimkit compress` makes of them."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CODE)
    space: dict[str, Any] = {}
    exec(CODE, space)
    torch.save(space["make"]().state_dict(), "net.pt")
    assert cli.main(["compress", "net.pt", "--arch", "net.py:make", "--input-shape", "3,14,14", "--ratio", "0.5"]) == 0
    return tmp_path / "net-slim"


def test_the_command_stores_weights_and_its_file_rebuilds_them(written: Path, capsys: pytest.CaptureFixture) -> None:
    report = json.loads((written / "report.json").read_text())
    assert report["channels"]["removable"] == 19 and report["proof"]["slim_vs_reloaded"] == 0
    assert any("2 layers may store the weights" in words for words in report["arch"]["assumptions"])
    slim = slimkit.load(written / "model.safetensors", arch="net.py:make")
    assert type(slim[2]) is nn.Conv2d and slim[2] is slim[4] and type(slim[6]) is SameConv2d
    assert [type(edit).__name__ for edit in provenance.of(slim).edits] == ["Replaced", "Narrowed"]
    slimkit.save(slim, "again.safetensors")
    assert torch.equal(slimkit.load("again.safetensors", arch="net.py:make")(X), slim(X))
    assert cli.main(["inspect", "net.pt", "--arch", "net.py:make", "--input-shape", "3,14,14"]) == 0
    assert "layers may store the weights" in " ".join(capsys.readouterr().out.split())


def test_networks_of_timm_are_recognised_and_read_again(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("nf_resnet26", num_classes=5).eval()
    image = torch.randn(1, 3, 64, 64)
    result = slimkit.compress(net, image, ratio=0.5, out=tmp_path / "out")
    assert result.report.channels.kept and {kept.reason for kept in result.report.channels.kept} == {
        "reaches the output of the network"
    }
    assert result.report.after.macs < 0.3 * result.report.before.macs
    slim = slimkit.load(tmp_path / "out" / "model.safetensors")
    assert torch.equal(slim(image), result.model.eval()(image))
