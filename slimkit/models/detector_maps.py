"""A detector whose maps somebody else computes: an engine that runs its ONNX file, which ends where its heads do."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from slimkit.errors import CheckpointError
from slimkit.models.detectors import Heads, exchanged

Compute = Callable[[Tensor], Sequence[Tensor]]  # images, as the layers get them -> maps, in the order of the heads


class ByEngine(Heads):
    """A detector of one stage that makes boxes of maps from elsewhere; the features of its own only say how large."""

    def __init__(self, net: nn.Module, compute: Compute) -> None:
        super().__init__(net)
        self.compute = compute

    def forward(self, images: Tensor, targets: Any = None) -> Any:
        """Return what `Heads.forward` does, of the maps that were computed elsewhere.

        Raises:
            CheckpointError: they are not those of this detector.
        """
        own, found = super().forward(images), self.compute(images)
        shapes = [tuple(map_.shape) for map_ in found]
        if shapes != [tuple(map_.shape) for map_ in own.values()]:
            raise CheckpointError(
                f"the ONNX file gives maps of {shapes}, and the detector beside it has "
                f"{ {name: tuple(map_.shape) for name, map_ in own.items()} }.\n  Give a file that was made of it"
            )
        maps = dict(zip(own, found, strict=True))
        if targets is None:
            return maps
        with exchanged(self.net, "head", _Said(maps)):
            return super().forward(images, targets)


class _Said(nn.Module):
    def __init__(self, maps: dict[str, Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, features: Any) -> dict[str, Tensor]:
        return self.maps


def has_second_stage(heads: Heads) -> bool:
    """Tell whether a detector looks again at regions that it has found, where its ONNX file looks at fixed ones."""
    return hasattr(heads.net, "rpn")
