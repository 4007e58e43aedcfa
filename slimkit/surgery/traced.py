"""The channels of a network, without those that its code cannot do without.

A tracing pass sees operators, not the numbers that code computes beside them: attention that takes its heads out of the
width of the stream reads that width wherever it likes. Streams under LayerNorms are where that is common, so networks
that take statistics across channels are run once at half of their width; what does not run narrower is kept.
"""

import torch
from torch import nn

from slimkit import channels
from slimkit.channels import Graph
from slimkit.example import Example
from slimkit.selection.mask import Mask
from slimkit.surgery.evidence import runs
from slimkit.surgery.proof import breaking_groups
from slimkit.surgery.remove import remove
from slimkit.surgery.trials import Trial

BREAKS = "does not run when narrower: its code holds the width as a number, or computes another from it"


def trace(model: nn.Module, example_input: Example) -> Graph:
    """Find which channels of a network live and die together.

    Args:
        model: any `nn.Module`, untouched: the pass runs on a copy. `torch.compile` and `DataParallel` are looked
            through.
        example_input: what the model is called with: a tensor [N, ...] (an image is [N, C, H, W]), a tuple of
            arguments, or a dict of keyword arguments. One image is enough.

    Returns:
        The graph: removable units in groups, and everything that must stay, with the reason.

    Raises:
        TraceError: the model raises on this input (the message has its own line and the module it came from), gives
            no tensor, or is a compiled TorchScript.
    """
    graph = channels.trace(model, example_input)
    trial = Trial("as given", example_input)
    while bool(graph.statistics.any()):
        half = _half(graph)
        if runs(remove(model, graph, half), trial):
            break
        breaking = breaking_groups(model, graph, half, trial)
        if not breaking:  # it ran when asked again
            break
        graph = graph.keeping(breaking, BREAKS)
    return graph


def _half(graph: Graph) -> Mask:
    """Return the mask that removes every other unit of every group."""
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.groups:
        keep[group.members[1::2]] = False
    return Mask(keep)
