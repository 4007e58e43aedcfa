"""A network ready for slimming, with what is known and what was assumed about it."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Network:
    """What `load`, `build` and `as_network` give.

    Attributes:
        model: float32, on the CPU, in eval mode, with its `slimkit.provenance` attached.
        source: `state dict`, `slim file`, `exported program`, `pickled module`, `Ultralytics checkpoint`, `module` or
            `fresh`.
        said: sentences about what the file did not tell and slimkit took for granted.
        guess: such a sentence about the shape of the images, which may yet be given; empty where it is known.
        file: that it was read from, as `Architecture.file` says it.
    """

    model: nn.Module
    source: str
    said: tuple[str, ...]
    guess: str = ""
    file: str = ""

    @property
    def assumptions(self) -> tuple[str, ...]:
        """All that was taken for granted, where nothing else is given."""
        return (self.guess, *self.said) if self.guess else self.said

    def assumed(self, sized: bool) -> tuple[str, ...]:
        """Return all that was taken for granted; `sized`: settings or data say the shape of the images."""
        return self.said if sized else self.assumptions
