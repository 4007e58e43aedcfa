"""A network ready for slimming, with what is known and what was assumed about it."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Network:
    """What `load`, `build` and `of` give.

    Attributes:
        model: float32, on the CPU, in eval mode, with its `slimkit.provenance` attached.
        source: `state dict`, `slim file`, `exported program`, `pickled module`, `module` or `fresh`.
        assumptions: sentences about what the file did not tell and slimkit took for granted.
    """

    model: nn.Module
    source: str
    assumptions: tuple[str, ...]
