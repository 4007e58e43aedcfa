"""One cut by a criterion, for the benchmarks that compare criteria and what follows a cut."""

from collections.abc import Sequence

from torch import nn

from slimkit.channels import Graph
from slimkit.example import Example
from slimkit.methods import Selection
from slimkit.runs.start import allowed_widths, told_apart
from slimkit.selection.ranking import Context
from slimkit.settings import CompressSpec
from slimkit.surgery.prove import Slimmed


def slim(spec: CompressSpec, dense: nn.Module, graph: Graph, inputs: Sequence[Example], context: Context) -> Slimmed:
    """Rank channels, choose what goes, remove it and prove it, as the settings say; their ranking is no `auto`."""
    selection = Selection(
        budget=spec.budget,
        widths=allowed_widths(spec),
        ranking=spec.ranking,
        scope=spec.scope,
        context=context,
        inputs=told_apart(inputs),
        keep=spec.keep,
        without_bn=spec.without_bn,
    )
    return selection.slim(dense, graph)
