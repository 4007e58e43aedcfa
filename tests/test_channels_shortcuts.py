"""The pass without arithmetic sees the same operators and shapes; where values matter, it computes them."""

from typing import Any

import pytest
import torch
import torchvision  # noqa: F401, registers its operators
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimkit.channels import shortcuts, trace
from slimkit.errors import TraceError


class Compare(TorchDispatchMode):
    """Runs every operator, and checks that its short cut has the same shape and strides."""

    def __init__(self) -> None:
        super().__init__()
        self.compared = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        short = shortcuts.zeros(func, args)
        if short is not None:
            self.compared += 1
            assert (short.shape, short.stride(), short.dtype) == (out.shape, out.stride(), out.dtype)
        return out


@st.composite
def convolutions(draw: Any) -> tuple[nn.Module, Tensor]:
    rank = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kinds = [(nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d)]
    transposed = draw(st.booleans())
    small = st.integers(1, 3)
    stride, dilation, kernel = (draw(st.tuples(*[small] * rank)) for _ in range(3))
    padding = draw(st.tuples(*[st.integers(0, 2)] * rank))
    more = {"output_padding": tuple(min(s, d) - 1 for s, d in zip(stride, dilation, strict=True))} if transposed else {}
    layer = kinds[rank - 1][transposed](
        groups * draw(small), groups * draw(small), kernel, stride, padding, dilation=dilation, groups=groups,
        bias=draw(st.booleans()), **more,
    )  # fmt: skip
    x = torch.randn(draw(st.integers(1, 2)), layer.in_channels, *draw(st.tuples(*[st.integers(7, 9)] * rank)))
    if rank == 2 and draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    return layer, x


@given(convolutions())
def test_shapes_are_those_of_the_convolution(case: tuple[nn.Module, Tensor]) -> None:
    layer, x = case
    with torch.no_grad(), Compare() as mode:
        layer(x)
    assert mode.compared == 1


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_padding_in_words_is_one_number_for_all_dimensions(kind: Any) -> None:
    layer = kind(2, 3, kernel_size=3, stride=2, padding="valid")
    rank = layer.weight.dim() - 2
    with torch.no_grad(), Compare() as mode:
        layer(torch.randn(1, 2, *(range(7, 7 + rank))))
    assert mode.compared == 1


def test_shapes_are_those_of_the_product() -> None:
    with torch.no_grad(), Compare() as mode:
        nn.Linear(3, 4)(torch.randn(5, 3))
        nn.Linear(3, 4, bias=False)(torch.randn(2, 5, 3))
        torch.addmm(torch.randn(1), torch.randn(2, 3), torch.randn(3, 4))
    assert mode.compared == 3


WRONG: dict[str, tuple[nn.Module, Tensor]] = {
    "channels": (nn.Conv2d(4, 2, 1), torch.zeros(1, 3, 4, 4)),
    "transposed channels": (nn.ConvTranspose2d(4, 2, 1), torch.zeros(1, 3, 4, 4)),
    "kind of numbers": (nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 4, 4).double()),
    "kernel larger than the image": (nn.Conv2d(3, 2, 5), torch.zeros(1, 3, 4, 4)),
    "features": (nn.Linear(4, 2), torch.zeros(1, 3)),
    "kind of numbers in a product": (nn.Linear(3, 2), torch.zeros(1, 3).double()),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_those_of_torch(case: str) -> None:
    net, x = WRONG[case]
    with pytest.raises(RuntimeError) as expected:
        net(x)
    with pytest.raises(TraceError) as found:
        trace(net, x)
    assert f"RuntimeError: {str(expected.value).splitlines()[0]}" in str(found.value)


class Choice(nn.Module):
    """Goes another way where the values are zero."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b, self.zero, self.c = (nn.Conv2d(i, o, 1) for i, o in ((3, 4), (4, 5), (4, 5), (5, 2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.how == "truth":
            some = bool((x != 0).any())
        elif self.how == "number":
            some = x.abs().sum().item() > 0
        elif self.how == "shape":
            some = len(x.nonzero()) > 0
        else:
            some = x[x != 0].numel() > 0
        try:
            x = self.b(x) if some else self.zero(x).softmax(1)
        except Exception:  # must not see the signal to start again
            x = self.zero(x)
        y: Tensor = self.c(x)
        return y


@pytest.mark.parametrize("how", ["truth", "number", "shape", "mask"])
def test_values_are_computed_where_they_matter(how: str) -> None:
    net = Choice(how).eval()
    graph = trace(net, torch.randn(1, 3, 4, 4))
    assert "b" in {kept.layer for kept in graph.kept} | {group.name for group in graph.groups}
    assert "zero" not in {kept.layer for kept in graph.kept} | {group.name for group in graph.groups}
    assert not net.training and not any(vars(p) for p in net.parameters())


def test_operators_of_others_may_need_values() -> None:
    nms: Any = torch.ops.torchvision.nms.default
    assert shortcuts.needs_values(nms, ())
    assert not shortcuts.needs_values(torch.ops.aten.add.Tensor, ())
