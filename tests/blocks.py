"""Blocks of small random networks: one class a way in which channels meet.

A block takes the channels that arrive, `c`, and a width, `w`; it says in `out` how many channels it gives, as
a float, so that surgery does not take it for a width to follow. All blocks take and give [N, C, H, W], H = W.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(c: int, w: int, k: int = 3, **more: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c, w, k, padding=k // 2, bias=False, **more), nn.BatchNorm2d(w), nn.ReLU())


class Chain(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.body = nn.Sequential(conv_bn(c, w), nn.Conv2d(w, w, 1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Residual(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(c)
        self.a, self.b = conv_bn(c, w), nn.Sequential(nn.Conv2d(w, c, 1), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(self.a(x)) + x)


class PreActivation(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.norm, self.conv, self.short = (
            nn.BatchNorm2d(c),
            nn.Conv2d(c, w, 3, padding=1),
            nn.Conv2d(c, w, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(x))
        return self.conv(y) + self.short(y)


class Dense(nn.Module):
    """Concatenation, as in DenseNet."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(c + w)
        self.body = conv_bn(c, w)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


class ChunkEqual(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.a, self.b = conv_bn(c, 2 * w), nn.Conv2d(w, w, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).chunk(2, 1)
        return a + self.b(b)


class SplitUnequal(nn.Module):
    """Sizes held in an attribute, as in Res2Net, DPN and MixNet."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.sizes = [w, w + 3]
        self.out = float(2 * w + 3)
        self.a, self.b = conv_bn(c, 2 * w + 3), conv_bn(w + 3, w + 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.a(x), self.sizes, 1)
        return torch.cat([a, self.b(b)], 1)


class Shuffle(nn.Module):
    """Channel shuffle by views, as in ShuffleNet."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(2 * w + 2)
        self.body = conv_bn(c, 2 * w + 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Grouped(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(2 * w)
        self.a, self.b = conv_bn(c, 2 * w), conv_bn(2 * w, 2 * w, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class Depthwise(nn.Module):
    """Depthwise convolution with two outputs a channel."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.a, self.b, self.c = conv_bn(c, w), conv_bn(w, 2 * w, groups=w), nn.Conv2d(2 * w, w, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(c)
        self.down, self.up = nn.Conv2d(c, w, 1), nn.Conv2d(w, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class LinearExcite(nn.Module):
    """Squeeze-excite through linear layers and a view back to [N, C, 1, 1]."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(c)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(c, w), nn.ReLU(), nn.Linear(w, c), nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        return x * self.fc(self.pool(x).view(n, c)).view(n, c, 1, 1).expand_as(x)


class Shared(nn.Module):
    """One module called twice, and one parameter under two names."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(c)
        self.conv, self.norms = (
            nn.Conv2d(c, c, 3, padding=1),
            nn.ModuleList([nn.BatchNorm2d(c), nn.BatchNorm2d(c)]),
        )
        self.twin = nn.Conv2d(c, c, 3, padding=1)
        self.twin.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = F.relu(norm(self.conv(x)))
        return self.twin(x)


class PixelShuffle(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.body = nn.Sequential(nn.Conv2d(c, 4 * w, 1), nn.PixelShuffle(2), nn.BatchNorm2d(w), nn.AvgPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class SpaceToDepth(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.body = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * c, w, 1), nn.BatchNorm2d(w))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.body(x), scale_factor=2.0)


class Transposed(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(2 * w)
        self.a, self.b = nn.ConvTranspose2d(c, 2 * w, 2, stride=2), nn.BatchNorm2d(2 * w)
        self.c = nn.ConvTranspose2d(2 * w, 2 * w, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.c(F.relu(self.b(self.a(x)))), 2)


class TransposedDepthwise(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(2 * w)
        self.a, self.b = conv_bn(c, w), nn.ConvTranspose2d(w, 2 * w, 3, padding=1, groups=w)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class LayerScale(nn.Module):
    """Channels-last linear layers and a scale, as in ConvNeXt, without its LayerNorm."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(c)
        self.norm, self.up, self.down = nn.BatchNorm2d(c), nn.Linear(c, 2 * w), nn.Linear(2 * w, c)
        self.scale = nn.Parameter(torch.rand(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(self.norm(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return x + self.scale * y


class ConvNext(nn.Module):
    """ConvNeXt's block, and V2's: LayerNorm over a residual stream, response normalisation in it."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(c)
        self.spread, self.norm = nn.Conv2d(c, c, 3, padding=1, groups=c), nn.LayerNorm(c)
        self.up, self.down = nn.Linear(c, 2 * w), nn.Linear(2 * w, c)
        self.gamma, self.beta = nn.Parameter(torch.rand(2 * w)), nn.Parameter(torch.rand(2 * w))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.up(self.norm(self.spread(x).permute(0, 2, 3, 1))))
        size = y.norm(dim=(1, 2), keepdim=True)
        y = y + self.gamma * y * size / (size.mean(-1, keepdim=True) + 1e-6) + self.beta
        return x + self.down(y).permute(0, 3, 1, 2)


class OneGroup(nn.Module):
    """GroupNorm of one group before each branch, as in PoolFormer; attention over space, as in CBAM."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(c)
        self.norm, self.a, self.b = nn.GroupNorm(1, c), nn.Conv2d(c, w, 1), nn.Conv2d(w, c, 1)
        self.gate = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.relu(self.a(self.norm(x))))
        return x + y * self.gate(torch.stack([y.mean(1), y.max(1).values], 1)).sigmoid()


class C2f(nn.Module):
    """YOLOv8's block: a list of chunks, appended to and joined."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.c, self.out = w, float(w)
        self.cv1, self.cv2 = conv_bn(c, 2 * w, 1), conv_bn(4 * w, w, 1)
        self.m = nn.ModuleList(conv_bn(w, w) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class Functional(nn.Module):
    """Bare parameters, functional calls, names of its own."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.kernel, self.shift = nn.Parameter(torch.randn(w, c, 3, 3) / 3), nn.Parameter(torch.randn(w))
        self.matrix = nn.Parameter(torch.randn(w, w))

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(F.conv2d(x, self.kernel, self.shift, padding=1))
        return torch.einsum("nchw,dc->ndhw", x, self.matrix)


class FunctionalDepthwise(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.channels, self.out = c, float(c)
        self.kernel = nn.Parameter(torch.randn(c, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, padding=1, groups=self.channels)


class Slopes(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.body = nn.Sequential(nn.Conv2d(c, w, 3, padding=1), nn.PReLU(w), nn.Conv2d(w, w, 1), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class InstanceNorm(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.a, self.b = nn.Conv2d(c, w, 1), nn.InstanceNorm2d(w, affine=True)
        self.c, self.d = nn.Conv2d(w, w, 1), nn.InstanceNorm2d(w)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(self.b(self.a(x))))


class Standardised(nn.Module):
    """Weights standardised over their inputs, which must therefore all stay."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.conv, self.after = nn.Conv2d(c, w, 3, padding=1), conv_bn(w, w)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        mean, std = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True)
        return self.after(F.conv2d(x, (weight - mean) / (std + 1e-3), self.conv.bias, padding=1))


class Gated(nn.Module):
    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.a = conv_bn(c, 2 * w)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.a(x), 1)


class SigmoidFirst(nn.Module):
    """A removed channel would not be zero after the sigmoid: it must stay."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w)
        self.a, self.b = nn.Conv2d(c, w, 1), nn.Conv2d(w, w, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.sigmoid(self.a(x)))


class Written(nn.Module):
    """Widths written into the code, and writes into slices: these channels must stay."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(w + 2)
        self.a = conv_bn(c, w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = torch.zeros(x.shape[0], x.shape[1] + 2, x.shape[2], x.shape[3], dtype=x.dtype)
        y[:, : x.shape[1]] = x
        y[:, 0] += x[:, -1]
        return y


class SpatialGate(nn.Module):
    """A map of weights over space, one for all channels, from a reduction over channels of a branch."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(c)
        self.a, self.b = conv_bn(c, w), nn.Conv2d(w, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.b(self.a(x)))


class Attention(nn.Module):
    """Attention over pixels, with projections."""

    def __init__(self, c: int, w: int) -> None:
        super().__init__()
        self.out = float(c)
        self.q, self.k, self.v, self.o = (
            nn.Conv2d(c, w, 1),
            nn.Conv2d(c, w, 1),
            nn.Conv2d(c, w, 1),
            nn.Conv2d(w, c, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (conv(x).flatten(2) for conv in (self.q, self.k, self.v))
        mix = torch.softmax(q.transpose(1, 2) @ k, -1)
        return x + self.o((v @ mix.transpose(1, 2)).view(x.shape[0], -1, *x.shape[2:]))


BLOCKS: dict[str, type[nn.Module]] = {
    block.__name__: block
    for block in (
        Chain, Residual, PreActivation, Dense, ChunkEqual, SplitUnequal, Shuffle, Grouped, Depthwise,
        SqueezeExcite, LinearExcite, Shared, PixelShuffle, SpaceToDepth, Transposed, TransposedDepthwise,
        LayerScale, C2f, Functional, FunctionalDepthwise, Slopes, InstanceNorm, Standardised, Gated,
        SigmoidFirst, Written, SpatialGate, Attention,
    )
}  # fmt: skip
ACROSS: dict[str, type[nn.Module]] = {block.__name__: block for block in (ConvNext, OneGroup)}  # statistics of channels
