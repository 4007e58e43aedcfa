"""Networks of signals, volumes, vectors and several inputs, through the commands and their files."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import slimkit
from slimkit.cli import main
from slimkit.errors import ArchitectureError, SpecError, TraceError
from slimkit.settings import CompressSpec

NETS = """
import torch
from torch import nn

def net(conv, norm):
    body = conv(2, 16, 3, padding=1), norm(16), nn.ReLU(), conv(16, 16, 3, padding=1), nn.ReLU()
    return nn.Sequential(*body, conv(16, 4, 1))

def signal():
    return net(nn.Conv1d, nn.BatchNorm1d)

def volume():
    return net(nn.Conv3d, nn.BatchNorm3d)

def vector():
    return nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.more, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(5, 16), nn.Linear(16, 4)

    def forward(self, image, more):
        return self.out((self.image(image).mean((2, 3)) + self.more(more)).relu())

def two():
    return Two()
"""
CASES = {
    "signal": ["2,40"],
    "volume": ["2,4,6,5"],
    "vector": ["20"],
    "two": ["image=3,8,8", "more=5"],
}


def checkpoint(folder: Path, name: str) -> list[str]:
    """Write a checkpoint and the code of its network; return what names both."""
    code = folder / "nets.py"
    code.write_text(NETS)
    names: dict = {}
    exec(NETS, names)
    torch.manual_seed(0)
    torch.save(names[name]().state_dict(), folder / "net.pt")
    shapes = [word for shape in CASES[name] for word in ("--input-shape", shape)]
    return [str(folder / "net.pt"), "--arch", f"{code}:{name}", *shapes]


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_of_any_input_is_compressed_inspected_and_timed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, out = checkpoint(tmp_path, name), tmp_path / "out"
    assert main(["compress", *words, "--ratio", "0.5", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert not [warning for warning in report["warnings"] if "ONNX" in warning or "slim" in warning]
    assert report["channels"]["removed"] > 0 and report["proof"]["slim_vs_onnx"] <= 1e-4
    assert report["after"]["latency_ms"]["median"] > 0
    inputs = {entry["name"]: entry["shape"] for entry in report["usage"]["inputs"]}
    asked = [word.rpartition("=")[::2] for word in CASES[name]]
    assert inputs == {key.rstrip("=") or "input": [int(size) for size in sizes.split(",")] for key, sizes in asked}
    slim = slimkit.load(out / "model.safetensors", arch=words[2])
    slim(*(torch.randn(2, *shape) for shape in inputs.values()))
    capsys.readouterr()
    assert main(["inspect", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["channels"]["removable"] == report["channels"]["removable"]
    assert main(["bench", str(out / "model.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["latency_ms"]["median"] > 0


@pytest.mark.long
def test_a_file_of_several_free_inputs_is_timed_at_the_sizes_that_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Sum(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) + y.mean((2, 3))

    example = {"x": torch.randn(1, 3, 8, 8), "y": torch.randn(1, 3, 4, 4)}
    slimkit.export_onnx(Sum(), tmp_path / "net.onnx", example, free_size=True)
    assert main(["bench", str(tmp_path / "net.onnx")]) == 2
    assert "leaves more free" in capsys.readouterr().err
    words = ["--input-shape", "x=3,16,16", "--input-shape", "y=3,8,8", "--json"]
    assert main(["bench", str(tmp_path / "net.onnx"), *words]) == 0
    assert main(["bench", str(tmp_path / "net.onnx"), "--input-shape", "x=a"]) == 2
    assert "name=C,H,W of each input" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["", "0", "3,0,1", "a=", "a=1,2 b", "1,2 3", "x=1;y=2"])
def test_shapes_that_are_none(word: str) -> None:
    with pytest.raises(SpecError, match="input_shape is .* it must be C,H,W"):
        CompressSpec(input_shape=word)


def test_a_network_that_takes_no_images_is_not_guessed_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = checkpoint(tmp_path, "signal")[:3]
    assert main(["inspect", *words]) == 2
    assert "the network's input shape is not known" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("name", ["signal", "volume", "vector", "two"])
def test_a_live_network_of_any_input_leaves_a_file_that_comes_back(name: str, tmp_path: Path) -> None:
    names: dict = {}
    exec(NETS, names)
    net = names[name]().eval()
    shapes = [tuple(map(int, word.rpartition("=")[2].split(","))) for word in CASES[name]]
    example = tuple(torch.randn(1, *shape) for shape in shapes)
    result = slimkit.compress(net, example if len(example) > 1 else example[0], 0.5, out=tmp_path / "out")
    slim = slimkit.load(tmp_path / "out" / "model.pt2")
    more = [torch.randn(3, *shape) for shape in shapes]
    torch.testing.assert_close(slim(*more), result.model(*more), rtol=1e-4, atol=1e-5)


class Sized(torch.nn.Module):
    """Takes images of the size alone that it was run at."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 1))
        self.place, self.head = torch.nn.Parameter(torch.randn(1, 4, 10, 10)), torch.nn.Linear(400, 3)

    def forward(self, pixels: torch.Tensor, more: torch.Tensor | None = None) -> torch.Tensor:
        seen = self.head((self.body(pixels) + self.place).flatten(1))
        return seen if more is None else seen + more


@pytest.mark.long
@pytest.mark.parametrize("way", ["tensor", "tuple", "dict"])
def test_the_shape_that_a_network_was_compressed_with_is_that_of_its_file(way: str, tmp_path: Path) -> None:
    images = torch.randn(1, 3, 12, 12)
    ways = {"tensor": images, "tuple": (images,), "dict": {"pixels": images}}
    slim = slimkit.compress(Sized().eval(), ways[way], 0.5).model
    slimkit.save(slim, tmp_path / "slim.pt2")
    again = slimkit.load(tmp_path / "slim.pt2")
    torch.testing.assert_close(again(pixels=images), slim(images))


def test_what_a_network_is_called_with_is_asked_for_where_a_shape_does_not_say_it(tmp_path: Path) -> None:
    example = {"more": torch.randn(1, 3), "pixels": torch.randn(1, 3, 12, 12)}
    slim = slimkit.compress(Sized().eval(), example, 0.5).model
    with pytest.raises(ArchitectureError, match="unknown input shape.*\n.*example_input"):
        slimkit.save(slim, tmp_path / "slim.pt2")
    slimkit.save(slim, tmp_path / "slim.pt2", example)
    torch.testing.assert_close(slimkit.load(tmp_path / "slim.pt2")(**example), slim(**example))


class Scaled(torch.nn.Module):
    """Takes one number beside its images."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU())
        self.head = torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x * scale).mean((2, 3)))


def test_a_number_beside_the_images_is_taken_as_it_is() -> None:
    example = {"x": torch.randn(1, 3, 8, 8), "scale": torch.tensor(2.0)}
    result = slimkit.compress(Scaled().eval(), example, 0.5)
    assert result.report.channels.removed == 8 and result.model(**example).shape == (1, 3)


def test_a_network_that_gives_one_number_is_compressed_on_images_made_from_statistics() -> None:
    class Sum(Scaled):
        def forward(self, x: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
            return super().forward(x, scale).sum()

    net = Sum().eval()
    torch.nn.init.uniform_(net.body[1].running_var, 0.5, 2)  # as if trained, so that images are made
    assert slimkit.compress(net, torch.randn(1, 3, 8, 8), 0.5).report.channels.removed > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_networks_come_back_half(dtype: torch.dtype) -> None:
    names: dict = {}
    exec(NETS, names)
    net = names["signal"]().to(dtype).eval()
    result = slimkit.compress(net, torch.randn(1, 2, 40).to(dtype), 0.5)
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert result.report.proof.slim_vs_onnx is not None


class Chosen(nn.Module):
    """A network that runs `extra` for large images, and scales what it reads by a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.extra = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.last, self.out = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
        x = self.first(x) * scale
        if x.shape[-1] > 20:
            x = self.extra(x)
        return self.out(self.last(x).relu().mean((2, 3)))


@pytest.mark.parametrize(("size", "said"), [(8, True), (24, False)])
def test_layers_that_the_example_does_not_run_are_named(size: int, said: bool) -> None:
    found = slimkit.compress(Chosen(), torch.randn(1, 3, size, size), 0.5, recover=False)
    assert (
        any("The example does not run these layers: extra.0 (1 in all)" in text for text in found.report.warnings)
        is said
    )


@pytest.mark.long
def test_a_single_number_among_the_inputs_stays_as_it_is(tmp_path: Path) -> None:
    given = {"x": torch.randn(2, 3, 24, 24), "scale": torch.tensor(0.5)}
    found = slimkit.compress(Chosen(), given, 0.5, out=tmp_path / "out")
    assert found.report.after.latency_ms is not None and found.report.proof.slim_vs_onnx is not None
    torch.testing.assert_close(slimkit.load(tmp_path / "out" / "model.pt2")(**given), found.model(**given))


class Alternates(nn.Module):
    """Another layer at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)
        self.one, self.two = nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        layer = self.one if self.calls % 2 else self.two
        return self.out(layer(self.first(x).relu()).relu().mean((2, 3)))


def test_a_network_that_runs_another_way_at_each_call_is_not_fitted() -> None:
    with pytest.raises(TraceError, match=r"runs another way each time(?s:.*)`recover=False`"):
        slimkit.compress(Alternates(), torch.randn(1, 3, 12, 12), 0.5, calibration=torch.randn(64, 3, 12, 12))


@pytest.mark.long
def test_what_is_no_tensor_among_the_inputs_of_a_file_is_named(tmp_path: Path) -> None:
    example = {"x": torch.randn(1, 3, 24, 24), "scale": None}
    found = slimkit.compress(Optional(), example, 0.5, recover=False, out=tmp_path / "out")
    assert any(text.startswith("No slim file: ") and "takes None beside" in text for text in found.report.warnings)


class Optional(nn.Module):
    """A network with an input that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Chosen()

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        return self.net(x, 1.0 if scale is None else scale)
