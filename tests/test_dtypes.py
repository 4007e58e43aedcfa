"""Networks whose numbers are complex, or of several types: what comes back has them all."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from training_sample import recipe, stripes

import slimkit
from slimkit import models, training
from slimkit.channels import trace
from slimkit.errors import CheckpointError, DataError, TraceError
from slimkit.runs.folder import resume
from slimkit.selection import ranking
from slimkit.selection.ranking import Context
from slimkit.surgery import proof
from slimkit.training.group_penalty import penalise_groups_, unit_norms

X = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Filter(nn.Module):
    """A filter of every frequency, as in GFNet: [8, 6, 4] complex numbers, or as many pairs of real ones."""

    def __init__(self, pairs: bool = False, double: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.head = block(1, 8), block(8, 12), nn.Linear(12, 3)
        weight = torch.randn(8, 6, 4, 2, generator=torch.Generator().manual_seed(1))
        if double:
            self.double()
        weight = weight.to(self.head.weight.dtype)
        self.pairs, self.w = pairs, nn.Parameter(weight if pairs else torch.view_as_complex(weight))

    def forward(self, x: Tensor) -> Tensor:
        w = torch.view_as_complex(self.w) if self.pairs else self.w
        y = torch.fft.irfft2(torch.fft.rfft2(self.a(x), norm="ortho") * w, s=(6, 6), norm="ortho")
        return self.head(self.b(y).mean((2, 3)))


class Mixer(Filter):
    """Channels mixed frequency by frequency, as in an FNO."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8, 6, 4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bixy,ioxy->boxy", torch.fft.rfft2(self.a(x)), self.w)
        return self.head(self.b(torch.fft.irfft2(y, s=(6, 6))).mean((2, 3)))


class Turned(nn.Module):
    """Each of 8 channels times a complex number of its own, which may be written as two real ones."""

    def __init__(self, pairs: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)
        weight = torch.randn(8, 1, 1, dtype=torch.complex64)
        if pairs:
            self.real, self.imaginary = nn.Parameter(weight.real.clone()), nn.Parameter(weight.imag.clone())
        else:
            self.w = nn.Parameter(weight)
        self.pairs = pairs
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        parts = [y * self.real, y * self.imaginary] if self.pairs else [(y * self.w).abs()]
        return self.head(torch.stack([part.square() for part in parts]).sum(0).mean((2, 3)))


class Cast(nn.Module):
    """Each part is given numbers of the type that its weights have."""

    def __init__(self, *types: torch.dtype) -> None:
        super().__init__()
        self.parts = nn.Sequential(block(1, 8), block(8, 12), nn.Linear(12, 3))
        for part, dtype in zip(self.parts, types, strict=True):
            part.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        a, b, head = self.parts
        y = b(a(x.to(a[0].weight.dtype)).to(b[0].weight.dtype))
        return head(y.mean((2, 3)).to(head.weight.dtype))


def every_other(graph: Any) -> Any:
    return slimkit.Mask(torch.arange(graph.units) % 2 == 0)


def context() -> Context:
    return Context(batches=[(torch.rand(8, 1, 6, 6), torch.arange(8) % 3)])


OF_MANY_TYPES: dict[str, Callable[[], nn.Module]] = {
    "complex weights": Filter,
    "complex weights in double precision": lambda: Filter(double=True),
    "complex weights that mix channels": Mixer,
    "bfloat16 first": lambda: Cast(torch.bfloat16, torch.float32, torch.float32),
    "half last": lambda: Cast(torch.float32, torch.float32, torch.float16),
    "double last": lambda: Cast(torch.float32, torch.float32, torch.float64),
    "double first": lambda: Cast(torch.float64, torch.float32, torch.bfloat16),
}


@pytest.mark.parametrize("name", OF_MANY_TYPES)
def test_every_tensor_comes_back_in_its_own_type(name: str) -> None:
    net = OF_MANY_TYPES[name]().eval()
    example = X.to(net.head.weight.dtype) if isinstance(net, Filter) else X
    result = slimkit.compress(net, example, 0.5, round_to=1, constants="zero", recover=False, onnx=False)
    assert result.report.channels.removed
    types = {key: tensor.dtype for key, tensor in net.state_dict().items()}
    found = {key: tensor.dtype for key, tensor in result.model.state_dict().items()}
    assert {key: types[key] for key in found} == found
    with torch.no_grad():
        wanted = slimkit.remove(net, trace(net, example), result.mask)(example)
        assert proof.relative_error(wanted, result.model(example)) < 1e-4


def test_a_weight_that_was_computed_comes_back_in_the_type_of_its_module() -> None:
    net = Cast(torch.float32, torch.bfloat16, torch.float32).eval()
    nn.utils.parametrizations.weight_norm(net.parts[1][0])
    found = slimkit.compress(net, X, 0.5, round_to=1, onnx=False).model
    assert [part[0].weight.dtype for part in found.parts[:2]] == [torch.float32, torch.bfloat16]
    assert found.parts[2].weight.dtype == torch.float32


def test_the_proof_tells_imaginary_parts_apart() -> None:
    net = Filter().eval()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.w.imag.mul_(1.5)
    assert proof.evidence(net, other, proof.trials(X)).error > proof.TOLERANCE


class Named(Cast):
    """Casts to types by their names."""

    def __init__(self, body: torch.dtype, head: torch.dtype) -> None:
        super().__init__(body, body, head)
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        a, b, head = self.parts
        return head(b(a(x.to(self.body))).mean((2, 3)).to(self.head))


NAMED = {
    "double head": ((torch.float32, torch.float64), "in 'parts.2'"),
    "bfloat16 body": ((torch.bfloat16, torch.float32), "in 'parts.0.0'"),
    "all double": ((torch.float64, torch.float64), "in 'parts.0.0'"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_runs_in_its_own_types_alone_is_told_so(name: str) -> None:
    types, where = NAMED[name]
    net = Named(*types).eval()
    net(X)
    said = f"(?s){where}.*slimkit computes in float32.*weight.dtype"
    with pytest.raises(TraceError, match=said):
        slimkit.compress(net, X, 0.5)
    images, labels = torch.rand(24, 1, 6, 6), torch.arange(24) % 3
    with pytest.raises(DataError, match=said):
        slimkit.compress(net, X, 0.5, dataset=((images, labels), (images, labels)))


def test_an_input_that_is_wrong_in_itself_is_not_taken_for_that() -> None:
    with pytest.raises(TraceError, match="(?s)Give an input of the shape that it expects"):
        slimkit.trace(block(1, 8), torch.zeros(1, 2, 6, 6))


@pytest.mark.parametrize("name", ["group-norm", "taylor", "popup"])
def test_a_complex_weight_is_ranked_as_the_pair_of_real_ones_that_it_is(name: str) -> None:
    given = context()
    found, wanted = (ranking.scores(name, one, trace(one, X), context=given) for one in (Turned(), Turned(pairs=True)))
    torch.testing.assert_close(found, wanted)


def test_a_complex_weight_is_part_of_its_channel() -> None:
    net, pairs = Turned(), Turned(pairs=True)
    graph = trace(net, X)
    torch.testing.assert_close(unit_norms(net, graph), unit_norms(pairs, trace(pairs, X)))
    mask = every_other(graph)
    silent, small = proof.masked(net, graph, mask), slimkit.remove(net, graph, mask)
    assert not silent.get_parameter("w")[1::2].any()
    torch.testing.assert_close(small.get_parameter("w"), net.w[::2])
    torch.testing.assert_close(silent(X), small(X))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_complex_weight_is_trained_as_the_pair_of_real_ones_that_it_is(optimizer: str) -> None:
    made = []
    for pairs in (False, True):
        torch.manual_seed(0)
        net = Filter(pairs=pairs)
        how = recipe(optimizer=optimizer, learning_rate=0.01, weight_decay=0.1, clip=True)
        graph = trace(net.eval(), X)
        penalty = training.Hook(gradients=lambda run, graph=graph: penalise_groups_(run.model, graph, 0.01))
        made.append((net, training.train(net, stripes(), how, hooks=[penalty]).model, graph))
    (before, found, graph), (_, wanted, other) = made
    assert not torch.equal(before.w.imag, found.w.imag)
    torch.testing.assert_close(torch.view_as_real(found.w), wanted.w)
    torch.testing.assert_close(found.head.weight, wanted.head.weight)
    torch.testing.assert_close(unit_norms(found, graph), unit_norms(wanted, other))


RUNS: dict[str, dict[str, Any]] = {
    "sgd": {"epochs": 1, "optimizer": "sgd"},
    "adamw": {"epochs": 1, "optimizer": "adamw"},
    "fitted to inputs": {"calibration": True},
    "taylor": {"epochs": 1, "ranking": "taylor"},
}


@pytest.mark.long
@pytest.mark.parametrize("make", [Filter, Mixer])
@pytest.mark.parametrize("name", RUNS)
def test_networks_of_complex_weights_are_recovered(name: str, make: Callable[[], nn.Module]) -> None:
    images, labels = next(iter(stripes().batches(96)))
    settings = dict(RUNS[name])
    data = {"calibration": images} if settings.pop("calibration", None) else {"dataset": ((images, labels),) * 2}
    result = slimkit.compress(make().eval(), X, 0.5, round_to=1, onnx=False, device="cpu", **data, **settings)
    assert result.model.get_parameter("w").is_complex()
    assert result.report.channels.removed


FACTORY = "import sys\nsys.path.insert(0, {!r})\nfrom test_dtypes import Filter\n"


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".pt", torch.complex64), (".pt", torch.complex128), (".safetensors", torch.complex64)]
)
def test_complex_weights_are_read_from_files(suffix: str, dtype: torch.dtype, tmp_path: Path) -> None:
    net, path = Filter().eval(), tmp_path / f"net{suffix}"
    state = {key: t.to(dtype) if t.is_complex() else t for key, t in net.state_dict().items()}
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    (tmp_path / "made.py").write_text(FACTORY.format(str(Path(__file__).parent)))
    found = models.load(path, arch=f"{tmp_path}/made.py:Filter").model
    assert found.get_parameter("w").dtype == torch.complex64 and found.get_parameter("w").requires_grad
    torch.testing.assert_close(found(X), net(X))
    state["w"] = state["w"] * torch.nan
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    with pytest.raises(CheckpointError, match="'w' are NaN"):
        models.load(path, arch=f"{tmp_path}/made.py:Filter")


def test_an_exported_program_of_complex_weights_is_read_and_made_smaller(tmp_path: Path) -> None:
    result = slimkit.compress(Filter().eval(), X, 0.5, round_to=1, onnx=False, out=tmp_path / "out")
    again = models.load(tmp_path / "out" / "model.pt2").model
    torch.testing.assert_close(again(X), result.model(X))


def test_a_run_that_began_with_another_imaginary_part_is_another() -> None:
    net = Filter()
    before = resume.weights(net)
    with torch.no_grad():
        net.w.imag.add_(1)
    assert resume.weights(net) != before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("example", [True, False])
def test_an_exported_program_keeps_the_type_of_the_network(dtype: torch.dtype, example: bool, tmp_path: Path) -> None:
    net = nn.Sequential(*block(1, 8), nn.Conv2d(8, 3, 3)).to(dtype).eval()
    found = slimkit.compress(net, X.to(dtype), 0.5, onnx=False, recover=False).model

    slimkit.save(found, tmp_path / "net.pt2", X.to(dtype) if example else None)
    again = slimkit.load(tmp_path / "net.pt2")

    assert torch.equal(again(X.to(dtype)), found(X.to(dtype))) and again(X.to(dtype)).dtype == dtype


def test_bytes_are_said_to_be_of_another_type() -> None:
    """And not of another shape."""
    with pytest.raises(TraceError, match="Numbers of two types meet there"):
        trace(block(1, 4), torch.zeros(1, 1, 6, 6, dtype=torch.uint8))
