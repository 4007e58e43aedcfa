"""Networks with zeros among their weights: how their files know, and what people are told."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from torch import nn

from slimkit import provenance

NO_FASTER = (
    "the weights that were removed are zeros in dense layers: the network is no faster and its file no smaller. "
    "To gain time remove channels: slimkit compress"
)


def masked(model: nn.Module, left: Mapping[str, int], weights: Literal["ticket", "trained"]) -> None:
    """Write into a network's provenance how many weights of each parameter are left, and what they are."""
    known = provenance.of(model)
    edit = provenance.Masked(left=dict(left), weights=weights)
    provenance.attach(model, replace(known, edits=(*known.edits, edit)))
