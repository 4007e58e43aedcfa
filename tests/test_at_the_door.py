"""Public functions refuse what they cannot take where it is given, in words, and leave nothing behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import slimkit
from slimkit.channels import Graph
from slimkit.errors import ArchitectureError, MaskError, OutputError, SlimkitError, SpecError, TraceError
from slimkit.recovery import reestimate, widths
from slimkit.recovery.made_images import made_images
from slimkit.selection import mask as masks
from slimkit.selection import ranking
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask
from slimkit.surgery import ranks
from tests.training_sample import stripes

IMAGE = torch.zeros(1, 1, 6, 6)
Call = Callable[[nn.Module, Graph, Path], Any]


def least(graph: Graph, kind: str = "macs", limit: float = 1e6, scores: int | None = None) -> Mask:
    return widths.least_loss(graph, torch.rand(graph.units if scores is None else scores), kind, limit, Widths())


GIVEN: dict[str, tuple[Call, type[SlimkitError], str]] = {
    "no steps": (lambda net, graph, out: made_images(net, (1, 6, 6), 4, steps=0), SpecError, "steps is 0"),
    "no images": (lambda net, graph, out: made_images(net, (1, 6, 6), count=0), SpecError, "count is 0"),
    "images of no width": (lambda net, graph, out: made_images(net, (1, 0, 6)), SpecError, "shape is 0"),
    "batches below 0": (lambda net, graph, out: reestimate(net, stripes(), -1), SpecError, "batches is -1"),
    "a mask in no folder": (
        lambda net, graph, out: masks.save(Mask.full(graph), out / "no" / "m"),
        OutputError,
        "the mask cannot be written",
    ),
    "a budget of bytes": (lambda net, graph, out: least(graph, "bytes"), SpecError, "kind is 'bytes'"),
    "a limit that is no number": (lambda net, graph, out: least(graph, limit=torch.nan), SpecError, "limit is nan"),
    "scores of others": (lambda net, graph, out: least(graph, scores=2), MaskError, r"scores are float32 \[2\]"),
    "no masks": (lambda net, graph, out: widths.best(net, graph, [], []), MaskError, "masks is empty"),
    "metadata of numbers": (
        lambda net, graph, out: slimkit.export_onnx(net, out / "a.onnx", IMAGE, {"a": 1}),  # type: ignore[dict-item]
        SpecError,
        r"metadata\['a'\] is 1: it must be text",
    ),
    "layers of no input": (lambda net, graph, out: ranks.layers(net, None), TraceError, "without a tensor"),
}
NO_NETWORK: dict[str, Callable[[Any, Graph, Path], Any]] = {
    "save": lambda net, graph, out: slimkit.save(net, out / "a.safetensors"),
    "export_onnx": lambda net, graph, out: slimkit.export_onnx(net, out / "a.onnx", IMAGE),
    "trace": lambda net, graph, out: slimkit.trace(net, IMAGE),
    "remove": lambda net, graph, out: slimkit.remove(net, graph, Mask.full(graph)),
    "compress": lambda net, graph, out: slimkit.compress(net, IMAGE, ratio=0.5),
    "plain_weights": lambda net, graph, out: slimkit.plain_weights(net, IMAGE),
    "penalise_gamma_": lambda net, graph, out: slimkit.penalise_gamma_(net, 0.1),
    "penalise_groups_": lambda net, graph, out: slimkit.penalise_groups_(net, graph, 0.1),
    "scores": lambda net, graph, out: ranking.scores("gamma", net, graph),
    "layers": lambda net, graph, out: ranks.layers(net, IMAGE),
}


def network() -> tuple[nn.Module, Graph]:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()).eval()
    nn.init.normal_(net[1].running_mean)  # type: ignore[arg-type]
    return net, slimkit.trace(net, IMAGE)


@pytest.mark.parametrize("given", GIVEN)
def test_what_cannot_be_taken_is_refused_where_it_is_given(given: str, tmp_path: Path) -> None:
    call, kind, words = GIVEN[given]
    with pytest.raises(kind, match=words):
        call(*network(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NO_NETWORK)
def test_what_is_no_network_is_said_to_be_none(name: str, tmp_path: Path) -> None:
    _, graph = network()
    with pytest.raises(ArchitectureError, match="model is str, not a torch.nn.Module"):
        NO_NETWORK[name]("m", graph, tmp_path)
    assert not list(tmp_path.iterdir())
