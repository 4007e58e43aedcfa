"""Which channels can go, and why others cannot: `slimkit inspect`."""

from pathlib import Path

import torch

from slimkit import models
from slimkit._version import __version__
from slimkit.progress import Progress, quiet
from slimkit.results import InspectedGroup, Inspection
from slimkit.runs.figures import architecture
from slimkit.runs.start import example, traced
from slimkit.selection.mask import Mask
from slimkit.settings import CompressSpec
from slimkit.surgery import rows


def inspect_checkpoint(path: Path, spec: CompressSpec, progress: Progress = quiet) -> Inspection:
    """Return what can be removed from the network in a file, and what cannot and why; writes nothing."""
    progress("reading the checkpoint", None)
    network = models.load(path, arch=spec.arch, trust_pickle=spec.trust_pickle, max_memory=spec.memory)
    given = example(network.model, spec)
    progress("tracing channels", None)
    network, graph = traced(spec, network, given)
    keep = Mask.full(graph)
    fixed = torch.zeros(graph.units, dtype=torch.bool) if spec.without_bn == "norm" else ~graph.has_norm
    work: dict[str, float] = {}
    for item in graph.works:
        work[item.layer] = work.get(item.layer, 0) + item.whole
    groups = tuple(
        InspectedGroup(
            name=group.name,
            layers=group.layers,
            channels=len(group.members),
            batch_norm=bool(group.norms),
            macs=round(sum(work.get(layer, 0) for layer in group.layers)),
        )
        for group in graph.groups
    )
    return Inspection(
        slimkit=__version__,
        arch=architecture(network, given, shape_given=spec.input_shape is not None),
        channels=rows.channels(graph, keep, fixed, (), None, spec.without_bn),
        groups=groups,
        gammas=rows.gammas(network.model, network.model),
        macs=graph.macs(keep.keep),
        params=graph.params(keep.keep),
    )
