"""Which channels can go, and why others cannot: `slimkit inspect`."""

from pathlib import Path
from typing import Any

import torch

from slimkit import models
from slimkit.results import records
from slimkit.runs.figures import head
from slimkit.runs.result import Progress, quiet
from slimkit.runs.start import image_shape, trace_with
from slimkit.selection.mask import Mask
from slimkit.settings import CompressSpec


def inspect_checkpoint(path: Path, spec: CompressSpec, progress: Progress = quiet) -> dict[str, Any]:
    """Return what can be removed from the network in a file, and what cannot and why; writes nothing."""
    progress("reading the checkpoint", None)
    network = models.load(path, arch=spec.arch, trust_pickle=spec.trust_pickle, max_memory=spec.memory)
    shape = image_shape(network.model, spec)
    progress("tracing channels", None)
    graph = trace_with(spec, network.model, torch.randn(1, *shape))
    keep = Mask.full(graph)
    fixed = torch.zeros(graph.units, dtype=torch.bool) if spec.without_bn == "norm" else ~graph.has_norm
    work: dict[str, float] = {}
    for item in graph.works:
        work[item.layer] = work.get(item.layer, 0) + item.each * len(item.outputs) * len(item.inputs)
    rows = [row | {"macs": round(sum(work.get(layer, 0) for layer in row["layers"]))} for row in graph.describe()]
    report = head("inspect", spec, network, torch.empty(1, *shape))
    return report | {
        "channels": records.channels(graph, keep, fixed, (), None),
        "groups": rows,
        "gammas": records.gammas(network.model, network.model),
        "macs": graph.macs(keep.keep),
        "params": graph.params(keep.keep),
    }
