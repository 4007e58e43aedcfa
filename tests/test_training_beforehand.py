"""What is found out about training before it begins: whether a network runs and learns in a precision."""

import collections
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from training_sample import network, recipe, stripes

import slimkit
from slimkit import compress, hardware, training
from slimkit.errors import TrainingError
from slimkit.example import in_float32, tensors
from slimkit.methods import EarlyBirdConfig
from slimkit.tasks import Task


class Complex(nn.Module):
    """Computes in complex numbers, of which there are none in bf16."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return torch.complex(y, y).real


def test_a_retraining_says_that_it_ran_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)
    images, labels = next(iter(stripes().batches(96)))
    dataset = {part: (images, labels) for part in ("train", "validation")}
    found = compress(Complex(network()), images[:1], 0.5, dataset=dataset, epochs=1, round_to=1, device="cpu")
    assert [note for note in found.report.warnings if "training ran in fp32" in note]
    assert found.report.recovery and found.report.recovery.precision == "fp32"


class _Gradients(torch.autograd.Function):
    """Passes what goes forward; its gradient is written for wider numbers alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(True)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        if grads[0].dtype == torch.bfloat16:
            raise RuntimeError("not implemented for BFloat16")
        return grads[0]


class _NotFinite(_Gradients):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * torch.nan if grads[0].dtype == torch.bfloat16 else grads[0]


class Wrong(Complex):
    """Computes in bf16, but its gradients are not finite, as those of some convolutions of three dimensions on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = _NotFinite.apply(self.body(x))
        return found


class OnlyForward(Complex):
    """Runs in bf16, but does not learn in it."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = _Gradients.apply(self.body(x))
        return found


@pytest.mark.parametrize("kind", [Complex, OnlyForward, Wrong])
def test_a_network_that_does_not_run_in_bf16_is_trained_in_fp32_or_refused(
    monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)
    trained = training.train(kind(network()), stripes(), recipe(epochs=1, precision="auto"))
    assert trained.precision == "fp32" and len(trained.notes) == 1
    assert trained.notes[0].startswith("training ran in fp32, which is slower: the network does not run in bf16 (")
    assert training.train(network(), stripes(), recipe(epochs=1, precision="auto")).precision == "bf16"
    with pytest.raises(TrainingError, match="is 'bf16': the network does not run in it: .*\n  Give `precision='fp32'`"):
        training.train(kind(network()), stripes(), recipe(epochs=1, precision="bf16"))


Asked = Callable[[nn.Module, Any], Any]


def _late(what: str, share: float | None) -> None:
    raise AssertionError(f"it was {what} already")


def _train(**settings: Any) -> Asked:
    return lambda net, data: slimkit.train(net, (data, data), 0.5, epochs=1, round_to=1, progress=_late, **settings)


def _compress(labelled: int) -> Asked:
    def asked(net: nn.Module, data: Any) -> Any:
        given = {"dataset": (data, data)} if labelled else {"calibration": data[0]}
        return compress(net, data[0][:1], 0.5, **given, epochs=1, precision="bf16", progress=_late)  # type: ignore[arg-type]

    return asked


class OnlyWide(Complex):
    """Convolves complex numbers, which nobody rounds to 8 bits."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x).float()
        weight = torch.eye(y.shape[1], dtype=torch.complex64)[..., None]
        return torch.conv1d(torch.complex(y, y)[..., None], weight)[..., 0].real


REFUSED: list[tuple[Any, Asked, str]] = [
    *((kind, _train(precision="bf16"), "precision is 'bf16'") for kind in (Complex, OnlyForward)),
    *((kind, _compress(labelled), "precision is 'bf16'") for kind in (Complex, OnlyForward) for labelled in (0, 1)),
    (Complex, _train(method="early-bird", search_precision="bf16"), "search_precision is 'bf16'"),
    (OnlyForward, _train(method="network-slimming", search_precision="bf16"), "search_precision is 'bf16'"),
    (OnlyWide, _train(method="early-bird", search_precision="int8-emulated"), "search_precision is 'int8-emulated'"),
]


@pytest.mark.parametrize(("kind", "asked", "said"), REFUSED)
def test_a_precision_that_a_network_cannot_train_in_is_refused_before_work_begins(
    kind: Any, asked: Asked, said: str
) -> None:
    with pytest.raises(TrainingError, match=f"^{said}: the network does not run in it: .*\n  Give `.*='fp32'`"):
        asked(kind(network()), next(iter(stripes().batches(96))))


def test_a_search_in_fp32_is_followed_by_fp32_where_the_network_does_not_run_in_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)
    data = next(iter(stripes().batches(96)))
    method = EarlyBirdConfig(at=1, search_precision="fp32")
    found = slimkit.train(Complex(network()), (data, data), 0.5, epochs=2, round_to=1, device="cpu", method=method)
    assert [note for note in found.report.warnings if "training ran in fp32" in note]


class Pair(NamedTuple):
    scores: Tensor
    others: Any


@dataclass(frozen=True)
class Frozen:
    scores: Tensor
    others: Any


class Attributes(collections.OrderedDict[str, Any]):
    """A dict whose entries are attributes too, as Hugging Face's outputs are."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)


class Plain:
    def __init__(self, scores: Tensor, others: Any) -> None:
        self.scores, self.others = scores, others


NESTS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda y: y,
    "tuple": lambda y: (y, y.argmax(1)),
    "list": lambda y: [y, {"deep": [(y * 2,)]}],
    "dict": lambda y: {"out": y, "features": y * 2, "count": 3, "none": None},
    "named tuple": lambda y: Pair(y, (y * 2, "word")),
    "dataclass": lambda y: Frozen(y, [y]),
    "attributes": lambda y: Attributes(scores=y, others=Plain(y, y * 2)),
    "object": lambda y: Plain(y, Frozen(y, None)),
    "mapping": lambda y: types.MappingProxyType({"out": y, "again": y}),
    "distribution": lambda y: torch.distributions.Normal(y, y.exp()),
    "sorted": lambda y: y.sort(1),
}


class Returning(nn.Module):
    def __init__(self, body: nn.Module, nest: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.nest = body, nest

    def forward(self, x: Tensor) -> Any:
        return self.nest(self.body(x))


@pytest.mark.parametrize("name", NESTS)
def test_losses_get_float32_whatever_a_network_returns(name: str) -> None:
    seen: list[torch.dtype] = []

    def loss(outputs: Any, targets: Any) -> Tensor:
        numbers = [tensor for tensor in tensors(outputs) if tensor.is_floating_point()]
        seen.extend(tensor.dtype for tensor in numbers)
        return torch.stack([tensor.square().mean() for tensor in numbers]).sum()

    task = replace(
        Task.of(loss=loss, metrics={"right": loss}, better="lower", name="own"), outputs=lambda given: (given,)
    )
    found = training.train(
        Returning(network(), NESTS[name]), stripes(), recipe(epochs=1, precision="bf16", learning_rate=1e-3), task=task
    )
    assert found.precision == "bf16" and set(seen) == {torch.float32}


@pytest.mark.parametrize("name", NESTS)
def test_a_nest_in_float32_is_of_the_same_kind_and_leaves_the_other_alone(name: str) -> None:
    half = NESTS[name](torch.randn(4, 3, dtype=torch.bfloat16))
    before = [(id(tensor), tensor.dtype) for tensor in tensors(half)]
    found = in_float32(half)
    assert type(found) is type(half) or name == "mapping"
    assert [(id(tensor), tensor.dtype) for tensor in tensors(half)] == before
    for one, other in zip(tensors(found), tensors(half), strict=True):
        assert one.dtype == (torch.float32 if other.is_floating_point() else other.dtype)
        torch.testing.assert_close(one, other.to(one.dtype), rtol=0, atol=0)
    ids = [id(tensor) for tensor in tensors(found)]
    assert [ids.index(one) for one in ids] == [[i for i, _ in before].index(one) for one, _ in before]  # still shared
    wide = NESTS[name](torch.randn(4, 3))
    assert in_float32(wide) is wide


def _ctc(outputs: Tensor, targets: Tensor) -> Tensor:
    scores = outputs.log_softmax(1)[None].expand(4, -1, -1)  # 4 steps of the same
    lengths = torch.ones(len(targets), dtype=torch.long)
    return nn.functional.ctc_loss(scores, targets[:, None], 4 * lengths, lengths, blank=0, zero_infinity=True)


def test_a_loss_that_knows_no_half_precision_is_no_reason_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)
    task = Task.of(loss=_ctc, metrics={"error": _ctc}, better="lower", name="strings")
    found = training.train(network(), stripes(), recipe(epochs=1, precision="auto"), task=task)
    assert found.precision == "bf16" and not found.notes


def _exact(outputs: Tensor, targets: Tensor) -> Tensor:
    """Refuses what bf16 has rounded, as a distribution does whose probabilities make no 1."""
    if torch.equal(outputs, outputs.bfloat16().float()):
        raise ValueError("expected probabilities that make 1")
    return nn.functional.cross_entropy(outputs, targets)


def _endless(outputs: Tensor, targets: Tensor) -> Tensor:
    spoilt = torch.equal(outputs, outputs.bfloat16().float())
    return nn.functional.cross_entropy(outputs / (0 if spoilt else 1), targets)


@pytest.mark.parametrize(("loss", "why"), [(_exact, "expected prob"), (_endless, "its gradients are not finite")])
def test_a_loss_that_does_not_go_with_bf16_is_named_and_not_the_network(
    monkeypatch: pytest.MonkeyPatch, loss: Any, why: str
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)
    task = Task.of(loss=loss, metrics={"error": loss}, better="lower", name="own")
    whose = "the loss of the task 'own' cannot be computed of what the network gives in"
    trained = training.train(network(), stripes(), recipe(epochs=1, precision="auto"), task=task)
    assert trained.precision == "fp32" and trained.notes[0].startswith(
        f"training ran in fp32, which is slower: {whose} bf16 ({why}"
    )
    with pytest.raises(TrainingError, match=f"^precision is 'bf16': {whose} it: {why}.*\n  Give `precision='fp32'`"):
        training.train(network(), stripes(), recipe(epochs=1, precision="bf16", learning_rate=1e-3), task=task)
