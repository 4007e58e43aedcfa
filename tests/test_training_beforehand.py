"""What is found out about training before it begins: whether a network runs and learns in a precision."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_sample import network, recipe, stripes

import slimkit
from slimkit import compress, hardware, training
from slimkit.errors import TrainingError
from slimkit.methods import EarlyBirdConfig


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
