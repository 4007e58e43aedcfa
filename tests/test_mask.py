"""Masks: counts, distance, files, and what silencing does."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from slimkit.channels import Graph, trace
from slimkit.errors import MaskError
from slimkit.selection import mask as masks
from slimkit.selection.mask import Mask
from tests.blocks import conv_bn
from tests.nets import randomise_


@pytest.fixture
def net() -> nn.Module:
    net = nn.Sequential(conv_bn(3, 4), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1)).eval()
    randomise_(net)
    return net


@pytest.fixture
def graph(net: nn.Module) -> Graph:
    return trace(net, torch.zeros(1, 3, 4, 4))


def keep(*bits: int) -> Mask:
    return Mask(torch.tensor(bits, dtype=torch.bool))


def test_counts(graph: Graph) -> None:
    assert Mask.full(graph).removed == 0
    assert Mask.full(graph).counts(graph) == [4, 5]
    mask = keep(1, 0, 0, 1, 1, 1, 0, 1, 1)
    assert mask.removed == 3
    assert mask.counts(graph) == [2, 4]


def test_distance_is_the_share_of_bits_that_differ() -> None:
    assert masks.distance(keep(1, 1, 0, 0), keep(1, 0, 1, 0)) == 0.5
    assert masks.distance(keep(1, 0), keep(1, 0)) == 0.0
    assert masks.distance(keep(), keep()) == 0.0
    with pytest.raises(MaskError, match="masks of 1 and 2 units cannot be compared"):
        masks.distance(keep(1), keep(1, 0))


def test_a_file_gives_the_same_mask(tmp_path: Path) -> None:
    mask = Mask(torch.rand(1001, generator=torch.Generator().manual_seed(0)) > 0.5)
    masks.save(mask, tmp_path / "mask.safetensors")
    assert torch.equal(masks.load(tmp_path / "mask.safetensors").keep, mask.keep)


def test_files_that_hold_no_mask(tmp_path: Path) -> None:
    missing, damaged, other, floats = (tmp_path / name for name in ("missing", "damaged", "other", "floats"))
    damaged.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    save_file({"weight": torch.ones(2)}, str(other))
    save_file({"keep": torch.ones(2)}, str(floats))
    for path in (missing, damaged, other):
        with pytest.raises(MaskError, match=f"{path.name}: not a mask file .*\n.*slimkit.selection.mask.save"):
            masks.load(path)
    with pytest.raises(MaskError, match=r"holds torch.float32 \[2\], but a mask is a row of bool"):
        masks.load(floats)


def test_a_mask_must_fit(graph: Graph) -> None:
    with pytest.raises(MaskError, match="a mask of 2 units was given for a network of 9"):
        keep(1, 0).check_fits(graph)
    with pytest.raises(MaskError, match="removes all 4 channels of '0.0': nothing would be computed.\n  Lower"):
        keep(0, 0, 0, 0, 1, 1, 1, 1, 1).check_fits(graph)


def test_silencing_zeroes_what_makes_a_channel_and_nothing_else(net: nn.Module, graph: Graph) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    masks.apply_(net, graph, keep(1, 0, 1, 1, 0, 1, 1, 1, 1))
    for name, tensor in net.state_dict().items():
        expected = before[name].clone()
        if name.startswith("0.") and expected.dim():
            expected[1] = 0  # the convolution's row, gamma, beta, mean and variance
        elif name in ("1.weight", "1.bias"):
            expected[0] = 0  # no BatchNorm: weight and bias; columns that read a removed channel stay
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)
    channels = net[0](torch.randn(2, 3, 4, 4))
    assert channels[:, 1].abs().max() == 0 and channels[:, 0].abs().max() > 0


def test_what_reads_a_constant_is_zeroed_too() -> None:
    """sigmoid(0) is no zero: the second convolution must not read it; the third reads nothing but zeros."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1)
    ).eval()  # fmt: skip
    graph = trace(net, torch.randn(1, 3, 4, 4))
    assert graph.loud.tolist() == [True] * 4 + [False] * 5
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    masks.apply_(net, graph, keep(1, 0, 1, 1, 0, 1, 1, 1, 1))
    assert net[2].weight[:, 1].abs().max() == 0 and net[2].weight[1:, 0].abs().min() > 0
    torch.testing.assert_close(net[4].weight, before["4.weight"], rtol=0, atol=0)


def test_silencing_refuses_a_mask_that_does_not_fit(net: nn.Module, graph: Graph) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(MaskError):
        masks.apply_(net, graph, keep(0, 0, 0, 0, 1, 1, 1, 1, 1))
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
