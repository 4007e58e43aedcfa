"""A layer that stores its weight, for the place of one that computes it: how it is built from plain values."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from slimkit.errors import ArchitectureError


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow does: by what the size of its input lacks, the odd zero at the far end."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [N, C, ceil(H / stride), ceil(W / stride)]."""
        zeros: list[int] = []
        for dim in (1, 0):
            size, stride = input.shape[dim - 2], self.stride[dim]
            reach = self.dilation[dim] * (self.kernel_size[dim] - 1) + 1
            lacks = max((-(-size // stride) - 1) * stride + reach - size, 0)
            zeros += [lacks // 2, lacks - lacks // 2]
        return super().forward(F.pad(input, zeros))


KINDS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.Linear,
        nn.Conv1d, nn.Conv2d, nn.Conv3d, SameConv2d,
        nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    )
}  # fmt: skip


def build(said: Mapping[str, Any]) -> nn.Module:
    """Return a layer on the meta device: without values.

    Args:
        said: `kind`, a key of `KINDS`, and the arguments of its class, without device and type.

    Raises:
        ArchitectureError: there is no such kind, or an argument that its class does not take.
    """
    arguments = {name: value for name, value in said.items() if name != "kind"}
    kind = KINDS.get(said.get("kind", ""))
    if kind is None or not arguments.keys() <= _taken(kind):
        raise ArchitectureError(
            f"no layer that stores its weight is built by {dict(said)}.\n  Known: {', '.join(KINDS)}"
        )
    return kind(**arguments, device="meta")


def _taken(kind: type[nn.Module]) -> set[str]:
    return set(inspect.signature(kind).parameters) - {"device", "dtype"}
