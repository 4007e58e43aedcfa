"""The channels of a network, without those that its code cannot do without.

A tracing pass sees operators, not the numbers that code computes beside them: attention that takes its heads out of the
width of the stream reads that width wherever it likes. Streams under LayerNorms are where that is common, so networks
with attention, or statistics across channels, or channels cut in equal parts by slices, are run at other widths, each
group at one of its own. Where that raises, the counts of the modules to blame are taken to be those of their
input; what still does not run, or computes something else, is kept.
"""

import torch
from torch import nn

from slimkit import channels
from slimkit.channels import Graph
from slimkit.example import Example
from slimkit.modules import unwrapped
from slimkit.selection.mask import Mask
from slimkit.surgery import proof
from slimkit.surgery.evidence import raised
from slimkit.surgery.faithful import check_copies
from slimkit.surgery.proof import breaking_groups
from slimkit.surgery.remove import remove
from slimkit.surgery.trials import Trial

DIFFERS = "computes something else when narrower: its code divides by the width or the root of it, or cuts at a number"
BREAKS = "does not run when narrower: its code holds the width as a number, or computes another from it"
_TRIES = 2  # masks; of one, widths that ought to be alike, or a multiple of each other, may be so by chance


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
            no tensor, is a compiled TorchScript, or copies of it compute something else.
        ArchitectureError: it is no module.
    """
    model = unwrapped(model)
    check_copies(model, example_input)
    graph = channels.trace(model, example_input)
    trial = Trial("as given", example_input)
    sized: frozenset[type[nn.Module]] = frozenset()
    while bool((graph.statistics | graph.products | graph.cuts).any()):
        masks = [_uneven(graph, seed) for seed in range(_TRIES)]
        errors = ((mask, raised(remove(model, graph, mask), trial)) for mask in masks)
        mask, error = next(((mask, error) for mask, error in errors if error is not None), (None, None))
        if mask is None or error is None:
            other = _computing_else(model, graph, masks[0], trial) if bool((graph.products | graph.cuts).any()) else []
            if not other:
                break
            graph = graph.keeping(other, DIFFERS)
            continue
        more = _classes(error, sized)
        if more:
            sized |= more
            graph = channels.trace(model, example_input, sized)
            continue
        breaking = breaking_groups(model, graph, mask, trial)
        if not breaking:  # it ran when asked again
            break
        graph = graph.keeping(breaking, BREAKS)
    return graph


def _computing_else(model: nn.Module, graph: Graph, mask: Mask, trial: Trial) -> list[int]:
    """Return the groups (by index) of a network that runs narrower, but computes something else."""
    found = proof.evidence_for(model, graph, mask, [trial])
    if not found.on or found.error <= proof.TOLERANCE:
        return []
    return proof.failing_groups(model, graph, mask, [trial])


def _uneven(graph: Graph, seed: int) -> Mask:
    """Return a mask that leaves each group a share of its own, so that widths are alike by chance only."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.groups:
        count = len(group.members)
        least = 1 + count // 4
        left = int(torch.randint(least, max(least + 1, count), (1,), generator=generator))
        keep[group.members[left:]] = False
    return Mask(keep)


def _classes(error: BaseException, known: frozenset[type[nn.Module]]) -> frozenset[type[nn.Module]]:
    """Return the class of the innermost module in whose own code an exception was raised; if known, of those inside."""
    found: nn.Module | None = None
    frame = error.__traceback__
    while frame is not None:
        module = frame.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module) and not _is_of_torch(type(module)):
            found = module
        frame = frame.tb_next
    if found is None:
        return frozenset()
    if type(found) not in known:
        return frozenset([type(found)])
    return frozenset(type(m) for m in found.modules() if not _is_of_torch(type(m))) - known


def _is_of_torch(kind: type) -> bool:
    return kind.__module__.startswith("torch.")
