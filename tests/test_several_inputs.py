"""A slim file of a network of several inputs, or one by name, says which: what reads it need not be told again."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import slimkit
from slimkit.cli import main
from slimkit.errors import ArchitectureError, CheckpointError
from slimkit.models import metadata
from slimkit.provenance import Provenance, attach, of
from slimkit.runs import start
from slimkit.settings import CompressSpec

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3))
        self.table, self.words, self.out = nn.Linear(7, 16), nn.Embedding(9, 16), nn.Linear(16, 4)

    def forward(self, image, table, words=None):
        made = self.image(image).mean((2, 3)) + self.table(table)
        return self.out(made if words is None else made + self.words(words).mean(1))

def make():
    return Net()
"""
EXAMPLE = {"image": torch.randn(1, 3, 20, 20), "table": torch.randn(1, 7), "words": torch.zeros(1, 5, dtype=torch.long)}
SHAPES = {"image": ((3, 20, 20), "float32"), "table": ((7,), "float32"), "words": ((5,), "int64")}


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return "net.py:make"


@pytest.mark.parametrize("example", [EXAMPLE, tuple(EXAMPLE.values())], ids=["by name", "by place"])
def test_a_slim_file_says_what_its_network_is_called_with(example, code, tmp_path):
    net = slimkit.models.build(code).model
    slimkit.compress(net, example, 0.5, round_to=1, onnx=False, out="slim")
    again = slimkit.load("slim/model.safetensors", arch=code)
    assert of(again).inputs == SHAPES and of(again).input_shape is None
    slim = ["slim/model.safetensors", "--arch", code]
    assert main(["export", *slim, "--to", "onnx", "--out", "made"]) == 0
    said = json.loads((tmp_path / "made" / "export.json").read_text())["usage"]["inputs"]
    assert {one["name"]: (tuple(one["shape"]), one["dtype"]) for one in said} == SHAPES
    assert main(["inspect", *slim]) == 0
    assert main(["compress", *slim, "--ratio", "0.2", "--round-to", "1", "--no-onnx", "--out", "again"]) == 0


def test_shapes_that_are_named_take_the_place_of_those_in_the_file(code, tmp_path):
    slimkit.compress(slimkit.models.build(code).model, EXAMPLE, 0.5, round_to=1, onnx=False, out="slim")
    words = ["--input-shape", "image=3,24,24", "--input-shape", "table=7"]
    assert main(["export", "slim/model.safetensors", "--arch", code, *words, "--to", "onnx", "--out", "made"]) == 0
    said = json.loads((tmp_path / "made" / "export.json").read_text())["usage"]["inputs"]
    assert {one["name"]: one["shape"] for one in said} == {"image": [3, 24, 24], "table": [7]}


def test_shapes_that_are_named_keep_the_types_in_the_file():
    net = torch.nn.Linear(2, 2)
    attach(net, Provenance(inputs={"image": ((3, 16, 16), "float32"), "kind": ((2,), "int64")}))
    example = start.example(net, CompressSpec(ratio=0.5, input_shape="image=3,32,32 kind=4 more=5"))
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in example.items()}
    assert found == {
        "image": ((1, 3, 32, 32), torch.float32), "kind": ((1, 4), torch.int64), "more": ((1, 5), torch.float32)
    }  # fmt: skip


@pytest.mark.parametrize(
    "odd",
    [
        {"shape": [2**40]},
        {"shape": [3, None]},
        {"shape": [1, 1, 1, 1, 1]},
        {"dtype": "Tensor"},
        {"name": "self.image"},
    ],
)
def test_inputs_of_no_kind_are_not_taken_from_a_file(odd, code, tmp_path):
    slimkit.compress(slimkit.models.build(code).model, EXAMPLE, 0.5, round_to=1, onnx=False, out="slim")
    with safe_open("slim/model.safetensors", "pt") as file:
        fields = json.loads(file.metadata()["slimkit"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del fields["digest"]
    fields["usage"]["inputs"][0].update(odd)
    text = json.dumps({**fields, "digest": metadata.digest(fields, tensors)})
    save_file(tensors, "odd.safetensors", metadata={"slimkit": text})
    with pytest.raises(CheckpointError, match="cannot be read .*input '"):
        slimkit.load("odd.safetensors", arch=code)


class Listed(nn.Module):
    """Takes a list of views."""

    def __init__(self) -> None:
        super().__init__()
        self.view, self.out = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU()), nn.Conv2d(48, 4, 1)

    def forward(self, views):
        return self.out(torch.cat([self.view(view) for view in views], 1))


VIEWS = [torch.randn(1, 3, 20, 20) for _ in range(3)]


@pytest.mark.long
@pytest.mark.parametrize("example", [{"views": VIEWS}, (VIEWS,), (tuple(VIEWS),)])
def test_a_network_that_takes_a_list_has_its_onnx_file_and_says_why_no_other(example, tmp_path):
    found = slimkit.compress(Listed(), example, 0.5, round_to=1, out=tmp_path / "slim").report
    assert found.proof.slim_vs_onnx < 1e-4 and len(found.usage.inputs) == 3
    kind = "tuple" if isinstance(example, tuple) and isinstance(example[0], tuple) else "list"
    assert found.warnings[0].startswith(f"No slim file: cannot export Listed: it takes a {kind} as one argument")
    with pytest.raises(ArchitectureError, match=r"(?s)as one argument.*leave out `onnx=False`"):
        slimkit.compress(Listed(), example, 0.5, round_to=1, out=tmp_path / "none", onnx=False)


class Pairs(torch.utils.data.Dataset):
    """Items ((image, table), class)."""

    def __init__(self, kind=tuple):
        self.kind = kind
        self.image, self.table = torch.randn(60, 1, 8, 8), torch.randn(60, 4)

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return self.kind((self.image[index], self.table[index])), index % 2


class ImageAndTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3))
        self.table, self.out = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, image, table):
        return self.out(self.image(image).mean((2, 3)) * self.table(table).sigmoid())


LOADERS = {
    "data set": Pairs,
    "data set of lists": lambda: Pairs(list),
    "loader": lambda: torch.utils.data.DataLoader(Pairs(), 20),
    "lists": lambda: [[list(inputs), y] for inputs, y in torch.utils.data.DataLoader(Pairs(), 20)],
}


@pytest.mark.long
@pytest.mark.parametrize("kind", LOADERS)
def test_several_inputs_are_arguments_however_a_loader_gives_them(kind, tmp_path):
    """PyTorch makes a list of the tuples that items hold."""
    given = (LOADERS[kind](), LOADERS[kind]())

    found = slimkit.data.as_dataset(given)
    made = slimkit.train(ImageAndTable(), given, 0.5, epochs=1, batch_size=20, out=tmp_path / "out", round_to=1)

    assert found.input_shape == (1, 8, 8)
    assert type(next(iter(found.train.batches(2)))[0]) is tuple
    assert type(next(iter(slimkit.data.as_inputs(LOADERS[kind]()).batches(2)))) is tuple
    assert made.report.channels.removed and (tmp_path / "out" / "model.onnx").exists()


IMAGE, TABLE = torch.randn(60, 1, 8, 8), torch.randn(60, 4)


@pytest.mark.long
@pytest.mark.parametrize(
    "inputs",
    [{"image": IMAGE, "table": TABLE}, (IMAGE, TABLE), [IMAGE.numpy(), TABLE.numpy()]],
    ids=["dict", "tuple", "arrays"],
)
def test_several_inputs_in_memory_with_their_targets_are_a_data_set(inputs):
    example = {"image": IMAGE[:1], "table": TABLE[:1]}
    pair = (inputs, torch.arange(60) % 2)

    found = slimkit.compress(ImageAndTable().eval(), example, 0.5, dataset=(pair, pair), epochs=1, onnx=False).report

    assert found.after.accuracy.validation_images == 60


def test_of_a_batch_to_calibrate_on_the_first_entry_is_the_input_and_a_refusal_says_so():
    with pytest.raises(slimkit.DataError, match="only the first entry is taken as inputs"):
        slimkit.compress(ImageAndTable().eval(), (IMAGE[:1], TABLE[:1]), 0.5, calibration=[(IMAGE, TABLE)])


def test_a_file_of_free_size_takes_numbers_that_mean_something(tmp_path: Path) -> None:
    """The larger input that the file is proven on was drawn for every tensor, a camera's number too: a traceback."""

    class Cameras(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
            self.camera, self.last = nn.Embedding(4, 16), nn.Linear(16, 5)

        def forward(self, image: Tensor, camera: Tensor) -> Tensor:
            x = torch.relu(self.norm(self.first(image)))
            return self.last(x.mean((2, 3)) + self.camera(camera))

    example = {"image": torch.randn(2, 3, 16, 16), "camera": torch.tensor([0, 3])}
    found = slimkit.compress(Cameras().eval(), example, 0.5, free_size=True, out=tmp_path / "out")
    assert found.report.proof.slim_vs_onnx is not None and (tmp_path / "out" / "model.onnx").exists()
