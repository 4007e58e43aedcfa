"""Networks whose code knows them by name: what copies compute is what they compute, or they are refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkit
from slimkit.errors import TraceError
from slimkit.modules import copied, private
from tests.blocks import conv_bn


class Features(nn.Module):
    """Reads in `forward` what `hooked` has noted of the first layer."""

    def __init__(self, hooked: Callable[["Features"], None]) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_bn(3, 8), conv_bn(8, 8))
        self.out = nn.Linear(16, 5)
        self.kept: dict[str, Tensor] = {}
        self.read: Callable[[], Tensor] | None = None
        hooked(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return self.out(torch.cat([y.mean((2, 3)), self.first.amax((2, 3))], 1))

    @property
    def first(self) -> Tensor:
        return self.kept["first"] if self.read is None else self.read()


class Saver:
    """Keeps what a layer returns, as in the lessons of fastai."""

    def __init__(self, layer: nn.Module) -> None:
        self.handle = layer.register_forward_hook(self.save)

    def save(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.found = output


def of_self(net: Features) -> None:
    def save(module: nn.Module, inputs: Any, output: Tensor) -> None:
        net.kept["first"] = output

    net.layers[0].register_forward_hook(save)


def by_name(net: Features) -> None:
    def noting(name: str) -> Callable[..., None]:
        def save(module: nn.Module, inputs: Any, output: Tensor) -> None:
            net.kept[name] = output

        return save

    net.layers[0].register_forward_hook(noting("first"))


def of_table(net: Features) -> None:
    kept = net.kept
    net.layers[0].register_forward_hook(lambda module, inputs, output: kept.update(first=output))


def before_the_next(net: Features) -> None:
    net.layers[1].register_forward_pre_hook(lambda module, inputs: net.kept.update(first=inputs[0]))


def of_default(net: Features) -> None:
    def save(module: nn.Module, inputs: Any, output: Tensor, owner: Features = net) -> None:
        owner.kept["first"] = output

    net.layers[0].register_forward_hook(save)


def in_partial(net: Features) -> None:
    def save(owner: Features, module: nn.Module, inputs: Any, output: Tensor) -> None:
        owner.kept["first"] = output

    net.layers[0].register_forward_hook(partial(save, net))


def of_another_function(net: Features) -> None:
    def keep(output: Tensor) -> None:
        net.kept["first"] = output

    net.layers[0].register_forward_hook(lambda module, inputs, output: keep(output))


def of_list(net: Features) -> None:
    owners = [net]
    net.layers[0].register_forward_hook(lambda module, inputs, output: owners[0].kept.update(first=output))


def by_saver(net: Features) -> None:
    net.saver = Saver(net.layers[0])  # type: ignore[assignment]
    net.read = lambda: net.saver.found


def by_local(net: Features) -> None:
    found: list[Tensor] = []

    def save(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found[:] = [output]

    net.layers[0].register_forward_hook(save)
    net.read = lambda: found[0]


def by_patch(net: Features) -> None:
    layer, usual = net.layers[0], net.layers[0].forward

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        net.kept["first"] = usual(x)
        return net.kept["first"]

    layer.forward = partial(forward, layer)


WAYS = (
    of_self, by_name, of_table, before_the_next, of_default, in_partial, of_another_function, of_list, by_saver,
    by_local, by_patch,
)  # fmt: skip


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_computes_of_its_own_input(way: Callable[[Features], None], ran: bool) -> None:
    net = Features(way).eval()
    a, b = torch.randn(2, 2, 3, 8, 8)
    if ran:
        net(a)
    for twin in (copied(net), private(net), copied(copied(net))):
        for x in (b, a):
            found = twin(x)
            torch.testing.assert_close(found, net(x))


@pytest.mark.parametrize("way", WAYS)
def test_a_smaller_network_reads_its_own_features(way: Callable[[Features], None]) -> None:
    net = Features(way).eval()
    x = torch.randn(1, 3, 8, 8)
    net(x)
    slim = slimkit.compress(net, x, 0.5, recover=False, onnx=False).model
    slim(x)
    assert slim.first.shape[1] < 8
    first = slim.first.clone()
    slim(x + 1)
    assert not torch.equal(slim.first, first)
    slim(torch.randn(4, 3, 8, 8))


def test_a_hook_that_writes_into_a_global_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Features(lambda net: None).eval()
    monkeypatch.setitem(globals(), "NET", net)
    net.layers[0].register_forward_hook(into_global)
    x = torch.randn(1, 3, 8, 8)
    net(x)
    before = net.kept["first"]
    for call in (slimkit.trace, slimkit.compress):
        with pytest.raises(TraceError, match=r"hook 'into_global' of 'layers.0'"):
            call(net, x)
    assert net.kept["first"] is before


def into_global(module: nn.Module, inputs: Any, output: Tensor) -> None:
    globals()["NET"].kept["first"] = output
