"""What a run found out about channels and layers, as rows of the report."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from slimkit import results
from slimkit.channels import Graph
from slimkit.example import Example
from slimkit.measure.macs import macs_by_layer
from slimkit.measure.size import params_by_layer
from slimkit.results import Channels, Gammas, KeptEntry
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import CONVOLUTIONS

FAILED = "fails the proof: its code holds the width as a number, or the channel leaves a trace when silent"
NO_NORM = "no BatchNorm scales it, and such channels were to be kept (without_bn = keep)"
ON_REQUEST = "was to be kept (keep)"
_BINS = 40


def channels(
    graph: Graph, mask: Mask, fixed: Tensor, failing: Sequence[str], asked: float | None, without_bn: str = "norm"
) -> Channels:
    """Return the channels of the network: how many, how many could go, how many went, and why the rest stays.

    A channel that several layers share counts once; the network's outputs are not counted, only listed.
    `without_bn`: `keep` where channels that no BatchNorm scales were to stay.
    """
    removable = graph.units - int(fixed.sum())
    kept = [KeptEntry(layer=k.layer, channels=k.channels, reason=k.reason) for k in graph.kept]
    for group in graph.groups:
        if bool(fixed[group.members].any()):
            no_norm = without_bn == "keep" and not bool(graph.has_norm[group.members].all())
            reason = FAILED if group.name in failing else NO_NORM if no_norm else ON_REQUEST
            kept.append(KeptEntry(layer=group.name, channels=len(group.members), reason=reason))
    return Channels(
        total=graph.units + sum(k.channels for k in graph.kept if not k.output),
        removable=removable,
        removed=mask.removed,
        asked=asked,
        kept=tuple(kept),
    )


def groups(graph: Graph, mask: Mask, widths: Widths) -> tuple[results.GroupEntry, ...]:
    """Return one row a group: layers, channels before and after, and what limited the cut."""
    rows = []
    for group, after in zip(graph.groups, mask.counts(graph), strict=True):
        least = min(widths.of(group))
        limit: Literal["cap", "floor"] | None = None
        if after == least and after < len(group.members):
            limit = "cap" if least > len(group.members) * (1 - widths.cap) - widths.step > 0 else "floor"
        rows.append(
            results.GroupEntry(
                name=group.name,
                layers=tuple(group.layers),
                before=len(group.members),
                after=after,
                batch_norm=bool(group.norms),
                limit=limit,
            )
        )
    return tuple(rows)


def layers(dense: nn.Module, slim: nn.Module, inputs: Example) -> tuple[results.LayerEntry, ...]:
    """Return one row a convolution or linear layer, in order of execution: channels, MACs, parameters."""
    macs_before, macs_after = macs_by_layer(dense, inputs), macs_by_layer(slim, inputs)
    params_before, params_after = params_by_layer(dense), params_by_layer(slim)
    small = dict(slim.named_modules())
    rows = []
    modules = dict(dense.named_modules())
    for name in macs_before:
        module = modules.get(name)
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)):
            rows.append(
                results.LayerEntry(
                    name=name,
                    kind=type(module).__name__,
                    channels_before=_width(module),
                    channels_after=_width(small[name]),
                    macs_before=macs_before[name],
                    macs_after=int(summed(macs_after, name)),
                    params_before=params_before.get(name, 0),
                    params_after=int(summed(params_after, name)),
                )
            )
    return tuple(rows)


def summed(figures: Mapping[str, float], name: str) -> float:
    """Return the figure of a layer, by its path; of one that was made two, what the two come to."""
    return sum(value for path, value in figures.items() if path == name or path in (f"{name}.0", f"{name}.1"))


def _width(module: nn.Module) -> int:
    module = module[-1] if isinstance(module, nn.Sequential) else module  # a layer that was made two
    return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)  # type: ignore[arg-type]


def gammas(dense: nn.Module, slim: nn.Module) -> Gammas | None:
    """Return histograms of |gamma| over all BatchNorms before and after, on common edges; None without any."""
    before, after = _gammas(dense), _gammas(slim)
    if not len(before):
        return None
    top = max(float(before.max()), float(after.max()) if len(after) else 0.0) or 1.0
    edges = torch.linspace(0, top, _BINS + 1)
    return Gammas(
        edges=tuple(edges.tolist()),
        before=tuple(torch.histogram(before, edges).hist.int().tolist()),
        after=tuple(torch.histogram(after, edges).hist.int().tolist()),
    )


def _gammas(model: nn.Module) -> Tensor:
    found = [
        module.weight.detach().abs().flatten().float().cpu()
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
    ]
    return torch.cat(found) if found else torch.zeros(0)
