"""Networks made in Python, of operators that few use, are written and read again; crafted files still are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import slimkit
from slimkit.errors import ArchitectureError, CheckpointError
from slimkit.models.exported_operators import admitted
from slimkit.runs.folder import files
from tests.blocks import conv_bn


def _matrix(x: Tensor) -> Tensor:
    rows = x.flatten(2)
    return rows @ rows.transpose(1, 2) + torch.eye(x.shape[1])


LAST: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda x: F.cosine_similarity(x[:, :, :4], x[:, :, 4:], dim=1),
    "distance": lambda x: F.pairwise_distance(x.flatten(2).mean(-1), x.flatten(2).amax(-1)),
    "distances": lambda x: torch.cdist(x.flatten(2).transpose(1, 2), x.flatten(2).transpose(1, 2)),
    "rotated": lambda x: torch.rot90(x, 1, (2, 3)),
    "error function": torch.special.erf,
    "one hot": lambda x: F.one_hot(x.argmax(1), x.shape[1]).permute(0, 3, 1, 2).float() + x,
    "quantile": lambda x: x.flatten(2).quantile(0.5, -1)[..., None, None] + x,
    "spectrum": lambda x: torch.stft(
        x.mean(1).flatten(1), 16, 8, window=torch.hann_window(16), return_complex=True
    ).abs(),
    "inverse": lambda x: torch.linalg.inv(_matrix(x)),
    "singular values": lambda x: torch.linalg.svdvals(_matrix(x)),
    "scattered": lambda x: x.scatter_add(2, torch.zeros_like(x[:, :, :1]).long(), x[:, :, 1:2]),
    "diagonal": lambda x: torch.diagonal(x, dim1=2, dim2=3),
}


class Net(nn.Module):
    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(conv_bn(3, 8), conv_bn(8, 8)), last

    def forward(self, x: Tensor) -> Any:
        return self.last(self.body(x))


def kept(net: nn.Module, folder: Path) -> None:
    """Make a network smaller, and hold the file against it."""
    x = torch.randn(1, 3, 8, 8)
    slim = slimkit.compress(net.eval(), x, 0.5, out=folder, onnx=False, recover=False).model
    other = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(slimkit.load(folder / "model.pt2")(other), slim(other))


@pytest.mark.long
@pytest.mark.parametrize("name", LAST)
def test_weights_are_written_whatever_it_computes(name: str, tmp_path: Path) -> None:
    kept(Net(LAST[name]), tmp_path / "out")


def test_a_graph_of_fx_is_written_as_other_networks_are(tmp_path: Path) -> None:
    kept(fx.symbolic_trace(Net(torch.relu)), tmp_path / "out")


def test_the_width_of_one_hot_is_held_against_the_memory(tmp_path: Path) -> None:
    net = Net(lambda x: F.one_hot(x.argmax(1), 10**9).float())
    free = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(net.eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=free)
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(CheckpointError, match="GB"):
        slimkit.models.load(tmp_path / "net.pt2")


@pytest.mark.parametrize(
    "name",
    ["aten.as_strided.default", "aten.empty_strided.default", "aten._embedding_bag.default", "aten.from_file.default",
     "aten.segment_reduce.default", "aten._unsafe_index.Tensor", "torchvision.roi_align.default",
     "torchvision.deform_conv2d.default", "torchvision.decode_jpeg.default", "image.read_file.default"],
)  # fmt: skip
def test_what_may_read_other_memory_or_files_is_not_taken(name: str) -> None:
    assert not admitted(f"torch.ops.{name}")


def test_a_folder_without_a_network_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise ArchitectureError("no file has a place for it.\n  Change it")

    monkeypatch.setattr(files, "_reloaded", refuse)
    monkeypatch.setattr("slimkit.runs.cut.begun.check_kept", lambda *given: None)
    image = torch.randn(1, 3, 8, 8)
    found = slimkit.compress(Net(torch.relu).eval(), image, 0.5, out=tmp_path / "out", onnx=False)
    assert any(said.startswith("Nothing in the folder holds the smaller network") for said in found.report.warnings)
    assert found.model(image).shape[0] == 1
