"""Which channels stay: one bit a unit.

U = units of a graph; a unit is a set of channels that live and die together.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from slimkit.channels import Graph, stays
from slimkit.dtypes import differentiable
from slimkit.errors import MaskError
from slimkit.modules import named_tensors, unwrapped
from slimkit.whole_file import write_whole


@dataclass(frozen=True)
class Mask:
    """The units of one graph that stay.

    Attributes:
        keep: bool [U], true where the unit stays.

    Raises:
        MaskError: `keep` is not of this kind.
    """

    keep: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.keep, Tensor):
            raise MaskError(f"keep is {type(self.keep).__name__}, not a tensor.\n  Give torch.tensor(keep)")
        if self.keep.dtype != torch.bool or self.keep.dim() != 1:
            kind = f"{str(self.keep.dtype).removeprefix('torch.')} {list(self.keep.shape)}"
            raise MaskError(f"keep is {kind}: it must be bool, one entry a unit.\n  Give scores > a threshold")

    def __repr__(self) -> str:
        return f"Mask({self.removed} of {len(self.keep)} units removed)"

    @classmethod
    def full(cls, graph: Graph) -> "Mask":
        """Return the mask that keeps everything."""
        return cls(torch.ones(graph.units, dtype=torch.bool))

    @property
    def removed(self) -> int:
        """Number of units removed."""
        return int((~self.keep).sum())

    def counts(self, graph: Graph) -> list[int]:
        """Return the units kept in each group, in the order of `graph.groups`.

        Raises:
            MaskError: the mask has another number of units than the graph.
        """
        if len(self.keep) != graph.units:
            raise MaskError(
                f"a mask of {len(self.keep)} units was given for a network of {graph.units}.\n"
                "  Make the mask from the graph of this very network."
            )
        return [int(self.keep[group.members].sum()) for group in graph.groups]

    def check_fits(self, graph: Graph) -> None:
        """Check that this mask belongs to a graph and leaves at least one unit in every group.

        Raises:
            MaskError: it has another number of units, or empties a group.
        """
        for group, count in zip(graph.groups, self.counts(graph), strict=True):
            if count == 0:
                raise MaskError(
                    f"the mask removes all {len(group.members)} channels of {group.name!r}: "
                    "nothing would be computed.\n"
                    "  Lower the ratio, or the cap on what one group may lose."
                )


def distance(a: Mask, b: Mask, among: Tensor | None = None) -> float:
    """Return the share of units, all or those `among` (int64 [n]), on which two masks differ, in [0, 1]."""
    if len(a.keep) != len(b.keep):
        raise MaskError(f"masks of {len(a.keep)} and {len(b.keep)} units cannot be compared: give two of one network.")
    differ = a.keep != b.keep if among is None else (a.keep != b.keep)[among]
    return float(differ.float().mean()) if len(differ) else 0.0


@torch.no_grad()
def apply_(model: nn.Module, graph: Graph, mask: Mask) -> None:
    """Silence the removed units in place: the reference that a smaller network must equal.

    BatchNorm's gamma and beta are set to zero, and so are the weights and biases that make the channel, so
    that units without a BatchNorm are silent too. Weights that only read a channel stay as they are, but for
    `graph.loud`: where a sigmoid, or a bias of the activation, makes a constant of a silent channel they are
    set to zero, too. What something is divided by stays as it is.
    """
    mask.check_fits(graph)
    model = unwrapped(model)
    tensors = named_tensors(model)
    for axis in graph.axes:
        tensor = tensors[axis.tensor]
        if differentiable(tensor) and not axis.divides:
            still = mask.keep | ~graph.loud if axis.reads else mask.keep
            gone = ~stays(still, axis.unit_of)
            tensor.index_fill_(axis.dim, gone.nonzero().flatten().to(tensor.device), 0.0)


def save(mask: Mask, path: Path | str) -> None:
    """Write a mask to a safetensors file.

    Raises:
        OutputError: it cannot be written.
    """
    content = serialised({"keep": mask.keep}, metadata={"format": "slimkit.mask/1"})
    write_whole(Path(path), content, "the mask")


def load(path: Path | str) -> Mask:
    """Read a mask that `save` wrote.

    Raises:
        MaskError: the file is missing, damaged, or holds something else.
    """
    try:
        with safe_open(str(path), "pt") as file:
            keep = file.get_tensor("keep")
    except (OSError, SafetensorError) as error:
        raise MaskError(
            f"{path}: not a mask file ({error}).\n  Give a file that slimkit.selection.mask.save wrote."
        ) from error
    if keep.dtype != torch.bool or keep.dim() != 1:
        raise MaskError(f"{path}: holds {keep.dtype} {list(keep.shape)}, but a mask is a row of bool, one a unit.")
    return Mask(keep)
