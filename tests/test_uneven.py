"""Layers that a step of counts keeps from the one factor that all were to have are named."""

import pytest
import torch
from torch import nn

import slimkit
from slimkit.methods.scratch import scaled
from slimkit.selection.budget import Widths
from slimkit.selection.uneven import uneven


def chain(*widths: int, groups: int = 1) -> nn.Sequential:
    """3x3 convolutions, of which all but the first are grouped."""
    layers: list[nn.Module] = [nn.Conv2d(1, widths[0], 3, padding=1)]
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.ReLU(), nn.Conv2d(before, after, 3, padding=1, groups=groups)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def said(net: nn.Module, widths: Widths, share: float = 0.5, keep: str = "") -> str:
    graph = slimkit.trace(net, torch.zeros(1, 1, 8, 8))
    fixed = torch.zeros(graph.units, dtype=torch.bool)
    for group in graph.groups:
        fixed[group.members] = group.name == keep
    full = graph.macs(torch.ones_like(fixed))
    return uneven(graph, scaled(graph, share * full, graph.macs, widths=widths, fixed=fixed), widths, fixed)


@pytest.mark.parametrize(
    ("net", "widths", "named"),
    [
        (chain(64, 64, 64), Widths(16), []),
        (chain(64, 64, 64), Widths(1), []),
        (chain(64, 64, 16), Widths(16, adapt=False), ["4 keeps all"]),
        (chain(96, 96, 8, 96), Widths(8), ["4 keeps all"]),
        (chain(96, 96, 8, 96), Widths(1), []),
        (chain(32, 32, 64, groups=4), Widths(8), ["0 keeps all"]),
    ],
)
def test_layers_far_from_the_common_share(net: nn.Module, widths: Widths, named: list[str]) -> None:
    told = said(net, widths)
    assert bool(told) == bool(named)
    assert all(words in told for words in named) and ("round_to=1" in told) == bool(named)


def test_layers_that_stay_on_request_are_not_named() -> None:
    assert said(chain(64, 64, 64), Widths(16), keep="0") == ""


def test_a_run_says_so() -> None:
    torch.manual_seed(0)
    net = chain(32, 32, 64, groups=4)
    for round_to, told in (("auto", True), (1, False)):
        done = slimkit.train(net, "digits", ratio=0.5, epochs=1, round_to=round_to)
        assert any("not narrower by one factor" in note for note in done.report.warnings) == told
