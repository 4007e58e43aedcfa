"""Network slimming: train, remove, train again, in passes, Liu et al. 2017, arXiv:1708.06519."""

from slimkit.channels import Graph
from slimkit.selection.mask import Mask


def ratio_of_pass(ratio: float, passes: int) -> float:
    """Return what each pass removes of what is left, so that `ratio` of the beginning is gone after all."""
    return 1.0 - float((1 - ratio) ** (1 / passes))


def composed(graph: Graph, first: Mask, smaller: Graph, second: Mask) -> Mask:
    """Return the mask over a network of two cuts, the second of which was made on the smaller network.

    Args:
        graph: of the network that `first` belongs to.
        smaller: of that network without the units that `first` removes.
    """
    keep = first.keep.clone()
    later = {group.name: group for group in smaller.groups}
    for group in graph.groups:
        if group.name in later:
            left = group.members[keep[group.members]]
            keep[left[~second.keep[later[group.name].members]]] = False
    return Mask(keep)
