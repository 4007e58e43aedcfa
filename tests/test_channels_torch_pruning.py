"""Both engines read the same graph wherever torch-pruning succeeds: each checks the other."""

import pytest
import torch
import torchvision
from torch import nn

from slimkit.channels import Graph, torch_pruning, trace
from slimkit.errors import TraceError
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import remove
from tests.nets import random_net, randomise_
from tests.test_channels_property import random_mask

AGREE = ("Chain", "Residual", "PreActivation", "Dense", "SqueezeExcite", "LinearExcite", "Slopes")
SMALL = ("resnet18", "mobilenet_v2", "resnext50_32x4d", "efficientnet_b0")
TOO_MUCH = ("maxvit_t", "regnet_y_128gf")  # torch-pruning does not end on the one; the other is 2.6 GB
HAS_AUXILIARY = ("googlenet", "inception_v3")  # torch-pruning does not see the branches


def rows(graph: Graph) -> dict[tuple[str, int], list[int]]:
    return {(axis.tensor, axis.dim): axis.unit_of.tolist() for axis in graph.axes}


def translation(ours: Graph, theirs: Graph) -> dict[int, int]:
    """Return our unit -> their unit; fails where the two part the indices of a parameter differently."""
    mine, other = rows(ours), rows(theirs)
    assert mine.keys() == other.keys()
    pairs = {pair for key in mine for pair in zip(mine[key], other[key], strict=True)}
    there = dict(pairs)
    assert len(pairs) == len(there) == len({b for _, b in pairs})
    assert there.pop(-1, -1) == -1
    return there


def check_agreement(net: nn.Module, x: torch.Tensor) -> None:
    ours, theirs = trace(net, x), torch_pruning.trace(net, x)
    there = translation(ours, theirs)
    assert ours.units == theirs.units == len(there)
    assert [g.layers for g in ours.groups] == [g.layers for g in theirs.groups]
    assert [g.norms for g in ours.groups] == [g.norms for g in theirs.groups]
    assert ours.sinks == theirs.sinks
    mask = random_mask(ours, 0)
    keep = torch.ones(theirs.units, dtype=torch.bool)
    for unit, other in there.items():
        keep[other] = mask.keep[unit]
    assert (ours.macs(mask.keep), ours.params(mask.keep)) == (theirs.macs(keep), theirs.params(keep))
    expected, found = remove(net, ours, mask).state_dict(), remove(net, theirs, Mask(keep)).state_dict()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("block", AGREE)
def test_engines_agree_on_blocks(block: str) -> None:
    net = random_net([(block, 4), ("Chain", 5)], "pool", seed=0)
    check_agreement(net, torch.randn(1, 3, 6, 6, dtype=torch.float64))


@pytest.mark.parametrize("name", SMALL)
def test_engines_agree_on_networks(name: str) -> None:
    check_agreement(torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 32, 32))


def test_the_network_is_untouched() -> None:
    net = random_net([("Residual", 4)], "pool", seed=0)
    net.stem.train()
    net.fc[0].weight.requires_grad = False
    torch_pruning.trace(net, torch.randn(2, 3, 6, 6, dtype=torch.float64))
    assert net.stem.training and not net.training
    assert not net.fc[0].weight.requires_grad
    assert not any(module._forward_hooks for module in net.modules())


def test_channels_that_reach_the_output_or_a_layer_norm_are_kept() -> None:
    layers = (
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.LayerNorm(6),
        nn.Linear(6, 5),
    )
    net = nn.Sequential(*layers).eval()
    graph = torch_pruning.trace(net, torch.randn(2, 3, 2, 2))
    assert [(g.name, len(g.members)) for g in graph.groups] == [("0", 4)]
    reasons = {kept.layer: kept.reason for kept in graph.kept}
    assert reasons == {
        "3": "is normalised across channels (LayerNorm) (in 4)",
        "5": "reaches the output of the network",
    }


def test_layers_may_be_called_by_keyword_and_networks_wrapped() -> None:
    class Named(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[2](input=self[1](self[0](input=x)).mean((2, 3)))

    net, x = Named(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 5)).eval(), torch.randn(1, 3, 2, 2)
    for given in (net, nn.DataParallel(net)):
        graph = torch_pruning.trace(given, x)
        assert [(g.name, len(g.members)) for g in graph.groups] == [("0", 4)]
        assert remove(given, graph, random_mask(graph, 0))(x).shape == (1, 5)


def test_its_own_error_is_named() -> None:
    net = torchvision.models.shufflenet_v2_x0_5(weights=None)
    message = r"torch-pruning cannot trace this network: ZeroDivisionError: .*\n.*the default"
    with pytest.raises(TraceError, match=message):
        torch_pruning.trace(net, torch.randn(1, 3, 32, 32))


def test_a_wrong_count_is_refused() -> None:
    """It takes a gated linear unit for an element-wise operator."""
    net = random_net([("Gated", 4), ("Chain", 5)], "pool", seed=0)
    with pytest.raises(TraceError, match="ValueError: 'blocks.1.body.0.0' has 4 channels, of which it counts 8"):
        torch_pruning.trace(net, torch.randn(1, 3, 6, 6, dtype=torch.float64))


def test_a_network_that_does_not_run() -> None:
    with pytest.raises(TraceError, match=r"cannot run on its example input \[1, 5, 2, 2\]: in 'Conv2d', RuntimeError"):
        torch_pruning.trace(nn.Conv2d(3, 4, 1), torch.randn(1, 5, 2, 2))


NAMES = torchvision.models.list_models(module=torchvision.models)
NO_NORM = ("alexnet", "convnext", "squeezenet", "swin", "vit_")


def has_batch_norm(name: str) -> bool:
    return not name.startswith(NO_NORM) and (not name.startswith("vgg") or name.endswith("_bn"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if has_batch_norm(name) and name not in TOO_MUCH])
def test_engines_agree_on_torchvision(name: str) -> None:
    more = {"aux_logits": False, "init_weights": False} if name in HAS_AUXILIARY else {}
    net = torchvision.models.get_model(name, weights=None, **more).eval()
    randomise_(net)
    x = torch.randn(1, 3, 96, 96)
    try:
        torch_pruning.trace(net, x)
    except TraceError as error:
        assert "shufflenet" in name and "ZeroDivisionError" in str(error)
        pytest.skip("torch-pruning raises on it")
    check_agreement(net, x)
