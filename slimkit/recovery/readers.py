"""A weight that reads activations, as a linear system: rows of what it reads, rows of what it makes.

N images, P positions of the output, G convolution groups (1 for a matrix product), F values read for one output
(channels of a group x positions of the kernel), O outputs of a group. A weight is a matrix [G, F, O].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

aten = torch.ops.aten
WeightNames = dict[int, tuple[str, Tensor]]  # data pointer of each parameter -> its name and itself
_BLOCK = 1 << 23  # numbers unfolded at a time
# Places for each value read: with 30 to all of them a ResNet-20, a MobileNetV2 and a VGG-8 come out the same but for
# what another draw of images does, and neighbours are no draws of their own.
_ENOUGH = 100


@dataclass(frozen=True)
class Reader:
    """One call of a convolution of any rank, or of a matrix product, with a stored weight.

    Attributes:
        name: the weight's dotted name.
        groups: G.
        makes: dimension of the weight that its outputs lie along.
        kernel, stride, padding, dilation, extra: of a convolution, one number a dimension; empty for a product.
            `extra` is the output padding of a transposed one.
        transposed: a transposed convolution.
        left: a product of the weight with the activations, not of the activations with the weight.
        bias: name of the bias that the operator adds.
    """

    name: str
    groups: int = 1
    makes: int = 0
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()
    transposed: bool = False
    left: bool = False
    bias: str | None = None

    @property
    def way(self) -> tuple[int, int]:
        """What calls of one weight have in common that read as one matrix."""
        return self.makes, self.groups

    def channels(self, out: Tensor) -> int:
        """Return the dimension of an output, or of what is read, along which channels lie."""
        return 1 if self.kernel else out.dim() - (2 if self.left else 1)

    def rows_of(self, x: Tensor) -> tuple[int, ...]:
        """Return the sizes of what is read along which its rows lie: all but those of the values of one row."""
        read = self.channels(x)
        return tuple(size for dim, size in enumerate(x.shape) if dim != read)

    def kept(self, weight: Tensor, indices: dict[int, Tensor], groups: int) -> Tensor | None:
        """Return which channels of the output a smaller weight makes, None where it makes them all.

        Args:
            weight: as it is.
            indices: what is kept along its dimensions.
            groups: of the smaller convolution.
        """
        made = indices.get(self.makes)
        if not self.transposed or self.groups == 1:
            return made
        each = int(weight.shape[1])
        made = torch.arange(each) if made is None else made
        of_group = torch.arange(groups) if groups == self.groups else indices[0]  # depthwise: one input channel each
        return (of_group[:, None] * each + made).flatten()

    def matrix(self, weight: Tensor) -> Tensor:
        """Return a weight as [G, F, O]."""
        if not self.kernel:
            return (weight.T if self.makes == 0 else weight)[None]
        if self.transposed:
            spatial = tuple(range(2, weight.dim()))
            inputs, outputs = weight.shape[0] // self.groups, weight.shape[1]
            split = weight.flip(spatial).reshape(self.groups, inputs, outputs, -1)  # [G, I, O, K]
            return split.transpose(2, 3).flatten(1, 2)
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1).transpose(1, 2)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """Return a matrix [G, F, O] in the form of the weight `like`."""
        if not self.kernel:
            return matrix[0].T if self.makes == 0 else matrix[0]
        if self.transposed:
            positions = prod(self.kernel)
            inputs = like.shape[0] // self.groups
            split = matrix.reshape(self.groups, inputs, positions, -1).transpose(2, 3)  # [G, I, O, K]
            return split.reshape(like.shape).flip(tuple(range(2, like.dim())))
        return matrix.transpose(1, 2).reshape(like.shape)

    def rows(self, x: Tensor, out: Tensor, chunk: int = 0, chunks: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Give what was read [G, n, F] and what was made [G, n, O], some images at a time; n = images x P.

        Where positions abound some are drawn: neighbours say nearly the same, and least squares need no more rows.

        Args:
            x, out: what the call reads and makes, of one chunk of inputs.
            chunk: its number; each has positions of its own.
            chunks: how many there are.
        """
        if not self.kernel:
            x, out = (x.mT, out.mT) if self.left else (x, out)
            x, out = x.reshape(1, -1, x.shape[-1]), out.reshape(1, -1, out.shape[-1])
            drawn = _drawn(x.shape[1], x.shape[2] / chunks, chunk, x.device)
            yield (x, out) if drawn is None else (x[:, drawn], out[:, drawn])
            return
        read, rank = x.shape[1] // self.groups * prod(self.kernel), len(self.kernel)
        drawn = _drawn(out[0, 0].numel(), read / (chunks * len(out)), chunk, x.device)
        size = (out[0, 0].numel() if drawn is None else len(drawn)) * self.groups * read
        for part, made in zip(*(torch.split(side, max(1, _BLOCK // max(1, size))) for side in (x, out)), strict=True):
            patches, made = self._patches(part), made.flatten(2)  # [N, C, *P, *K], [N, G x O, P]
            if drawn is not None:
                places: Any = torch.unravel_index(drawn, out.shape[2:])
                patches, made = patches[(slice(None), slice(None), *places)], made[:, :, drawn]  # *P is P
            images, channels = patches.shape[:2]
            patches = patches.reshape(images, self.groups, channels // self.groups, *patches.shape[2:])
            patches = patches.movedim(1, 0).movedim(2, -1 - rank)  # [G, N, *P, I, *K]
            split = made.reshape(images, self.groups, made.shape[1] // self.groups, -1)  # [N, G, O, P]
            split = split.permute(1, 0, 3, 2).reshape(self.groups, -1, split.shape[2])
            yield patches.reshape(*split.shape[:2], read), split

    def _patches(self, x: Tensor) -> Tensor:
        """Return, for each output, the values under the kernel: [N, C, *P, *K]."""
        stride, padding = self.stride, [(p, p) for p in self.padding]
        if self.transposed:
            apart = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)))
            apart[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = x
            reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
            padding = [(r - p, r - p + e) for r, p, e in zip(reach, self.padding, self.extra, strict=True)]
            x, stride = apart, (1,) * len(stride)
        x = pad(x, [side for sides in reversed(padding) for side in sides])
        for number, (k, s, d) in enumerate(zip(self.kernel, stride, self.dilation, strict=True)):
            x = x.unfold(2 + number, d * (k - 1) + 1, s)[..., ::d]
        return x


def _drawn(places: int, wanted: float, chunk: int, device: torch.device) -> Tensor | None:
    """Return which of many places are looked at, in order; None: all of them.

    Args:
        places: so many there are.
        wanted: values read, for each of which `_ENOUGH` places are wanted.
        chunk: a seed.
    """
    enough = ceil(wanted * _ENOUGH)
    if enough >= places:
        return None
    generator = torch.Generator().manual_seed(chunk)
    return torch.randperm(places, generator=generator)[:enough].sort().values.to(device)


def reader(func: Any, args: tuple[Any, ...], names: WeightNames) -> tuple[Reader, Tensor] | None:
    """Return the reader that an operator call is, with the activations it reads; None for other operators.

    Args:
        func, args: the ATen operator and its arguments.
        names: the network's parameters.
    """
    packet = func.overloadpacket
    if packet is aten.convolution:
        return _convolution(args, names)
    if packet in (aten.mm, aten.bmm, aten.addmm):
        bias = names.get(args[0].data_ptr()) if packet is aten.addmm else None
        found = _product(args[-2], args[-1], names)
        return (replace(found[0], bias=bias[0]), found[1]) if found and bias else found
    return None


def _convolution(args: tuple[Any, ...], names: WeightNames) -> tuple[Reader, Tensor] | None:
    x, weight, bias, stride, padding, dilation, transposed, extra, groups = args
    found = names.get(weight.data_ptr())
    if found is None or found[1].shape != weight.shape:
        return None
    kernel = tuple(weight.shape[2:])
    rank = len(kernel)
    added = names.get(bias.data_ptr()) if bias is not None else None
    made = Reader(
        name=found[0],
        groups=groups,
        makes=int(transposed),
        kernel=kernel,
        stride=_each(stride, rank),
        padding=_each(padding, rank),
        dilation=_each(dilation, rank),
        extra=_each(extra, rank),
        transposed=transposed,
        bias=added[0] if added else None,
    )
    return made, x


def _each(given: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return a number a dimension; one may stand for all."""
    return tuple(given) * (rank if len(given) == 1 else 1)


def _product(a: Tensor, b: Tensor, names: WeightNames) -> tuple[Reader, Tensor] | None:
    """Return the reader that a product of matrices is, one factor a stored matrix or its transpose."""
    for x, weight, left in ((a, b, False), (b, a, True)):
        found = names.get(weight.data_ptr())
        if found is None or found[1].dim() != 2 or found[1].numel() != weight.numel():
            continue
        if weight.dim() == 3 and len(weight) > 1:
            continue
        straight = weight.shape[-2:] == found[1].shape and weight.stride()[-2:] == found[1].stride()
        return Reader(found[0], makes=int(straight != left), left=left), x
    return None


def parameters(model: nn.Module) -> WeightNames:
    """Return the data pointer of each parameter -> its first name and itself."""
    found: WeightNames = {}
    for name, parameter in model.named_parameters():
        found.setdefault(parameter.data_ptr(), (name, parameter))
    return found
