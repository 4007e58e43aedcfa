"""Whatever a network returns beside tensors, and in whatever nest: its files give it back, or are refused by name."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import slimkit
from slimkit.errors import ArchitectureError, CheckpointError
from slimkit.example import tensors
from slimkit.runs.folder.files import run_onnx
from slimkit.runs.result import Result
from tests.blocks import conv_bn

Pair = namedtuple("Pair", ["maps", "means"])  # noqa: PYI024 - what people write


@dataclass
class Found:
    """As some libraries return it."""

    maps: Tensor
    share: Any = 0.5
    aux: Any = None


class Bag:
    """Tensors in an object of no known kind."""

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps


Make = Callable[[Tensor], Any]
# What is made of maps [N, 4, H, W], and what a file gives back: classes of somebody's own become what they are made of.
HELD: dict[str, tuple[Make, Make | None]] = {
    "tensor": (lambda y: y, None),
    "tuple": (lambda y: (y, y.mean((2, 3))), None),
    "list": (lambda y: [y, [y.mean((2, 3))]], None),
    "dict": (lambda y: {"out": y, 1: y.mean((2, 3))}, None),
    "OrderedDict": (lambda y: OrderedDict(out=y), lambda y: {"out": y}),
    "namedtuple": (lambda y: Pair(y, y.mean((2, 3))), lambda y: (y, y.mean((2, 3)))),
    "dataclass": (lambda y: Found(y), lambda y: {"maps": y, "share": 0.5}),
    "None": (lambda y: (None, y, {"aux": None}), None),
    "numbers": (lambda y: (y, 3, -0.5, True, float("inf")), None),
    "empty": (lambda y: (y, [], {}, ()), None),
    "a size": (lambda y: (y, y.shape[2], y.shape[0]), None),
    "twice": (lambda y: (y, y), None),
    "a constant": (lambda y: (y, torch.arange(3.0)), None),
    "classes": (lambda y: (y, y.argmax(1)), None),
    "nested": (lambda y: (y, {"a": [y.sum(1), None, 3], "b": (1.5, (y,))}), None),
}
REFUSED: dict[str, tuple[Make, str]] = {
    "text": (lambda y: (y, 3.5, "text"), "'text'"),
    "text in a dataclass": (lambda y: Found(y, share="half"), "'half'"),
    "text in a nest": (lambda y: (y, {"a": [y.sum(1), None, 3], "b": ("deep", (y,))}), "'deep'"),
    "bytes": (lambda y: (y, b"text"), "a bytes"),
    "set": (lambda y: (y, {1, 2}), "a set"),
    "object": (Bag, "a Bag"),
    "type": (lambda y: (y, y.dtype), "a dtype"),
    "function": (lambda y: (y, len), "a builtin_function_or_method"),
    "no number": (lambda y: (y, float("nan")), "nan"),
}


class Returns(nn.Module):
    """Maps, and what is made of them."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.body, self.out, self.make = conv_bn(3, 16), nn.Conv2d(16, 4, 1), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.out(self.body(x)))


def compressed(make: Make, folder: Path) -> tuple[Result, Tensor]:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 8, 8)
    return slimkit.compress(Returns(make).eval(), image, 0.5, round_to=1, epochs=0, out=folder / "out"), image


def same(found: Any, wanted: Any) -> None:
    """Hold two nests against each other: their tensors, and all the rest of them."""
    torch.testing.assert_close(tensors(found), tensors(wanted), rtol=1e-4, atol=1e-4)
    assert tree_map_only(Tensor, lambda _: ..., found) == tree_map_only(Tensor, lambda _: ..., wanted)


@pytest.mark.long
@pytest.mark.parametrize("name", HELD)
def test_a_network_gives_back_what_it_returns_from_its_files(name: str, tmp_path: Path) -> None:
    make, plain = HELD[name]
    result, image = compressed(make, tmp_path)
    assert result.report.channels.removed > 0
    assert not [said for said in result.report.warnings if said.startswith("No ")]
    images = image.repeat(2, 1, 1, 1)
    again = slimkit.load(tmp_path / "out" / "model.pt2")
    with torch.no_grad():
        wanted = result.model(images)
        result.model.make = plain or make  # type: ignore[assignment]
        same(again(images), result.model(images))
    (found,) = run_onnx(tmp_path / "out" / "model.onnx", [images])
    torch.testing.assert_close(found, tensors(wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_file_cannot_hold_is_named_and_the_onnx_file_remains(name: str, tmp_path: Path) -> None:
    make, said = REFUSED[name]
    result, image = compressed(make, tmp_path)
    why = f"cannot export Returns: it returns {said} beside its tensors, which such a file cannot hold"
    (warning,) = (said for said in result.report.warnings if said.startswith("No "))
    assert warning.startswith(f"No slim file: {why}.\n  Say how it is built") and "damaged" not in warning
    with pytest.raises(ArchitectureError, match=f"^{why}"):
        slimkit.save(result.model, tmp_path / "model.pt2", image)
    (found,) = run_onnx(tmp_path / "out" / "model.onnx", [image])
    torch.testing.assert_close(found, tensors(result.model(image)), rtol=1e-4, atol=1e-4)


SOURCE = """
from torch import nn


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.out(self.body(x)), 3.5, "text", {"of": int}


def make():
    return Text()
"""


def test_code_of_somebodys_own_gives_back_anything(tmp_path: Path) -> None:
    (tmp_path / "text.py").write_text(SOURCE)
    arch = f"{tmp_path / 'text.py'}:make"
    net = slimkit.models.build(arch, input_shape=(3, 8, 8)).model.eval()
    image = torch.randn(1, 3, 8, 8)
    result = slimkit.compress(net, image, 0.5, round_to=1, epochs=0, out=tmp_path / "out")
    assert not [said for said in result.report.warnings if said.startswith("No ")]
    again = slimkit.load(tmp_path / "out" / "model.safetensors", arch)
    same(again(image), result.model(image))
    (found,) = run_onnx(tmp_path / "out" / "model.onnx", [image])
    torch.testing.assert_close(found, tensors(again(image)), rtol=1e-4, atol=1e-4)


def test_a_program_of_somebody_else_that_returns_text_is_told_as_such(tmp_path: Path) -> None:
    net = Returns(lambda y: (y, "text")).eval()
    torch.export.save(torch.export.export(net, (torch.randn(2, 3, 8, 8),)), tmp_path / "theirs.pt2")
    with pytest.raises(CheckpointError, match=r"theirs.pt2: the exported program returns 'text' .*\n  Export it with"):
        slimkit.models.load(tmp_path / "theirs.pt2")
