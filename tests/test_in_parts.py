"""What is bound to a batch computes in parts what it would in one: inputs and outputs of every form, and real files."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

import slimkit
from slimkit import data, provenance
from slimkit.example import Example, batch_size, call, in_parts, mapped, tensors
from slimkit.export import export_onnx
from slimkit.export.int8 import quantise
from slimkit.measure.quality import evaluate
from slimkit.models.reference import EXPORTED
from slimkit.runs.export import export_model
from slimkit.settings import ExportSpec
from slimkit.tasks import Task, psnr
from tests.blocks import conv_bn

EXAMPLES: dict[str, Callable[[Tensor, Tensor], Example]] = {
    "a tensor": lambda x, other: x,
    "a tuple": lambda x, other: (x, other, torch.tensor(2.0)),
    "by name": lambda x, other: {"x": x, "scale": other},
    "a nest": lambda x, other: {"x": [x, x + 1], "scale": other},
}


def outputs(example: Example) -> list[Tensor]:
    """Outputs of every form: one row an image, two, one number an image, and what is of no batch."""
    x, *rest = tensors(example)
    y = x * sum(float(one.sum()) for one in rest if one.dim() == 1) + x
    return [y, torch.stack([y, -y], 1).flatten(0, 1), y.sum((1, 2)), torch.arange(11.0), torch.tensor(7.0)]


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(sorted(EXAMPLES)), st.integers(0, 99))
@settings(max_examples=150)
def test_parts_make_the_whole(images: int, bound: int, form: str, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    other = torch.rand(images + 1 + seed % 5, generator=random)  # of no batch, but now and then as long as a part
    example = EXAMPLES[form](torch.rand(images, 2, 3, generator=random), other)

    def compute(part: Example) -> list[Tensor]:
        assert batch_size(part) == bound
        assert all(a is b for a, b in zip(tensors(part), tensors(example), strict=True) if b is other)
        return outputs(part)

    torch.testing.assert_close(in_parts(compute, example, bound), outputs(example))
    torch.testing.assert_close(in_parts(outputs, example, None), outputs(example))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6))
@settings(max_examples=40)
def test_as_many_rows_as_there_happen_to_be_are_all_there(counts: list[int]) -> None:
    def found(example: Example) -> list[Tensor]:
        return [torch.cat([number.expand(int(number), 4) for number in tensors(example)[0]])]

    numbers = torch.tensor([float(count) for count in counts])
    if len(set(counts)) > 1:
        torch.testing.assert_close(in_parts(found, numbers, 1), found(numbers))


class Two(nn.Module):
    """Two inputs, of which the second is as wide as the first is high."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = conv_bn(3, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = self.out(self.body(x) * y[:, :1, None, None])
        return found


class Several(nn.Module):
    """Maps, means and classes of one image."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Sequential(conv_bn(3, 8), conv_bn(8, 8)), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.out(self.body(x))
        return {"out": y, "means": y.mean((2, 3)), "class": y.mean((2, 3)).argmax(1)}


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "chain": (lambda: nn.Sequential(conv_bn(3, 8), nn.Conv2d(8, 2, 1)), ((3, 8, 8),)),
    "transposed": (lambda: nn.Sequential(conv_bn(3, 8), nn.ConvTranspose2d(8, 2, 2, stride=2)), ((3, 8, 8),)),
    "several outputs": (Several, ((3, 8, 8),)),
    "two inputs": (Two, ((3, 8, 8), (4,))),
    "of one dimension": (lambda: nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 2, 1)), ((2, 16),)),
}


def made(name: str, images: int) -> tuple[nn.Module, Example]:
    torch.manual_seed(0)
    build, shapes = NETWORKS[name]
    inputs = tuple(torch.randn(images, *shape) for shape in shapes)
    return build().eval(), inputs if len(inputs) > 1 else inputs[0]


@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_one_image_is_judged_as_the_network_is(name: str, tmp_path: Path) -> None:
    net, inputs = made(name, 7)
    export_onnx(net, tmp_path / "one.onnx", inputs, fixed_batch=True)
    task = Task.of(loss=nn.functional.mse_loss, metrics={"PSNR": psnr()}, better="higher")
    with torch.no_grad():
        wanted = tensors(call(net, inputs))[0]
    split = data.as_dataset([[(inputs, wanted + 0.1 * torch.randn(wanted.shape))]] * 2, task=task).validation
    for batch in (2, 7):
        found = evaluate(tmp_path / "one.onnx", split, task, batch_size=batch)["PSNR"]
        assert found.value == pytest.approx(evaluate(net, split, task)["PSNR"].value, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, (_, shapes) in NETWORKS.items() if len(shapes) == 1])
def test_a_format_of_one_image_is_held_against_the_network_on_several(name: str, tmp_path: Path) -> None:
    net, inputs = made(name, 1)
    provenance.attach(net, provenance.Provenance(arch=EXPORTED))
    slimkit.save(net, tmp_path / "net.pt2", inputs)
    shape = ",".join(map(str, NETWORKS[name][1][0]))
    spec = ExportSpec(to=("onnx",), fixed_batch=True, input_shape=shape)
    (file,) = export_model(tmp_path / "net.pt2", spec, tmp_path / "out", False).files
    assert file.batch == 1 and file.error is not None and file.error < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("bound", [1, 2, 4])
@pytest.mark.parametrize("name", ["chain", "two inputs"])
def test_int8_is_calibrated_on_every_image_whatever_a_file_is_bound_to(name: str, bound: int, tmp_path: Path) -> None:
    net, inputs = made(name, 7)
    export_onnx(net, tmp_path / "one.onnx", inputs)
    model = onnx.load(tmp_path / "one.onnx")
    for port in model.graph.input:
        port.type.tensor_type.shape.dim[0].dim_value = bound
    onnx.save(model, tmp_path / "bound.onnx")
    for number in range(7):  # the one that is the largest must be among those that were seen
        factors = 1 + 9.0 * (torch.arange(7) == number)
        shown = mapped(inputs, lambda one, factors=factors: one * factors.view(-1, *[1] * (one.dim() - 1)))
        quantise(tmp_path / "bound.onnx", tmp_path / "int8.onnx", [shown])
        made_of = onnx.load(tmp_path / "int8.onnx").graph
        (node,) = [
            one for one in made_of.node if one.op_type == "QuantizeLinear" and one.input[0] == model.graph.input[0].name
        ]
        (scale,) = [numpy_helper.to_array(one) for one in made_of.initializer if one.name == node.input[1]]
        first = tensors(shown)[0]
        assert float(scale) == pytest.approx(float(first.clamp_min(0).max() - first.clamp_max(0).min()) / 255, rel=1e-4)
