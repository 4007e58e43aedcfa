"""The direct road to ONNX: every rule against torch, and what it must refuse."""

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimkit.export import direct
from slimkit.export.movement import averaging
from slimkit.export.recording import Batch, Unsupported, capture


class Apply(nn.Module):
    """A network that is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):  # [N, 8, H, W]
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


class Shuffle(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        left, right = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).chunk(2, dim=1)
        return torch.cat([left * 2, right], dim=1)


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x):
        gate = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.expand(F.relu(self.reduce(gate), inplace=True)))


class Masked(nn.Module):
    """Builds its mask in the forward pass, from the shape of what it gets."""

    def forward(self, x):
        mask = x.new_zeros((x.shape[2], x.shape[3]))
        mask[2:, 1:] = 1
        return x * mask


def activation(kind):
    return nn.Sequential(nn.Conv2d(8, 8, 1), kind)


NETWORKS = {
    "convolution": nn.Conv2d(8, 6, 3, stride=2, padding=1),
    "dilated, grouped": nn.Conv2d(8, 6, 3, padding=2, dilation=2, groups=2, bias=False),
    "depthwise": nn.Conv2d(8, 8, (3, 5), padding=(1, 2), groups=8),
    "same padding": nn.Conv2d(8, 4, 3, padding="same"),
    "transposed": nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1),
    "convolution, norm": nn.Sequential(nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(True)),
    "transposed, norm": nn.Sequential(nn.ConvTranspose2d(8, 4, 3), nn.BatchNorm2d(4)),
    "norm first": nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
    "norm without affine": nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4, affine=False)),
    "lone norm without affine": nn.BatchNorm2d(8, affine=False),
    "linear, norm": nn.Sequential(nn.Flatten(), nn.Linear(8 * 48, 5), nn.BatchNorm1d(5)),
    "linear without bias": nn.Sequential(nn.Flatten(), nn.Linear(8 * 48, 5, bias=False)),
    "linear on channels last": Apply(lambda x: F.linear(x.permute(0, 2, 3, 1), torch.eye(8)[:5])),
    "layer norm": nn.Sequential(nn.Flatten(2), nn.LayerNorm(48)),
    "layer norm, plain": nn.LayerNorm([6, 8], elementwise_affine=False),
    "group norm": nn.GroupNorm(4, 8),
    "relu6": activation(nn.ReLU6()),
    "hardswish": activation(nn.Hardswish(inplace=True)),
    "hardsigmoid": activation(nn.Hardsigmoid()),
    "silu": activation(nn.SiLU(inplace=True)),
    "mish": activation(nn.Mish()),
    "gelu": activation(nn.GELU()),
    "gelu, tanh": activation(nn.GELU(approximate="tanh")),
    "leaky relu": activation(nn.LeakyReLU(0.2)),
    "elu": activation(nn.ELU(0.7)),
    "selu": activation(nn.SELU()),
    "prelu": activation(nn.PReLU(8)),
    "softplus": activation(nn.Softplus()),
    "tanh": activation(nn.Tanh()),
    "softmax": nn.Softmax(dim=1),
    "log softmax": nn.LogSoftmax(dim=-1),
    "clamps": Apply(lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0.1) + torch.clamp_max(x, 0.2)),
    "arithmetic": Apply(lambda x: 1 - (x * 3 + x / 2) - x.neg().exp().sqrt() + (x.abs() + 1).log() ** 1.5),
    "powers": Apply(lambda x: (x**2 + 1).rsqrt() + (x**2 + 2).reciprocal() + torch.erf(x)),
    "integers join floats": Apply(lambda x: x + torch.arange(8) + torch.tensor(2)),
    "extremes": Apply(lambda x: torch.maximum(x, x.mean(1, keepdim=True)) - torch.minimum(x, x * x)),
    "max pool": nn.MaxPool2d(3, stride=2, padding=1),
    "max pool, ceil": nn.MaxPool2d(3, stride=2, ceil_mode=True),
    "average pool": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "global pool": nn.AdaptiveAvgPool2d(1),
    "adaptive pool, equal parts": nn.AdaptiveAvgPool2d((3, 4)),
    "adaptive pool, unequal parts": nn.AdaptiveAvgPool2d((4, 3)),
    "adaptive pool, enlarging": nn.AdaptiveAvgPool2d((7, 11)),
    "adaptive pool, same": nn.AdaptiveAvgPool2d((6, 8)),
    "nearest": nn.Upsample(scale_factor=2),
    "nearest, odd factor": nn.Upsample(size=(9, 13)),
    "bilinear": nn.Upsample(size=(9, 13), mode="bilinear"),
    "bilinear, aligned": nn.Upsample(size=(9, 13), mode="bilinear", align_corners=True),
    "bilinear, factor": Apply(lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear")),
    "bicubic": nn.Upsample(size=(9, 13), mode="bicubic"),
    "pixel shuffle": nn.PixelShuffle(2),
    "zero padding": Apply(lambda x: F.pad(x, (1, 2, 0, 3), value=0.5)),
    "reflection": nn.ReflectionPad2d((1, 2, 0, 3)),
    "replication": nn.ReplicationPad2d(1),
    "reductions": Apply(lambda x: x.mean((2, 3)) + x.sum((-1, -2)) + x.amax((2, 3)) + x.mean(2).mean(-1)),
    "unit vectors": Apply(lambda x: F.normalize(x, dim=1)),
    "slices": Apply(lambda x: x[:, 1:7:2] + x[:, :-5, :, :] * x[:, 0].unsqueeze(1)),
    "split, unbind": Apply(lambda x: sum(x.split([3, 5], dim=1)[1].unbind(1)) + x.narrow(1, 2, 3).sum(1)),
    "stack": Apply(lambda x: torch.stack([x, x * 2], dim=-1).unsqueeze(2).squeeze(2).flatten(1)),
    "roll": Apply(lambda x: torch.roll(x, (2, -3), (2, 3))),
    "expand": Apply(lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1) * 2),
    "class token": Apply(lambda x: torch.cat([torch.arange(8.0).expand(len(x), 1, 6, 8), x], dim=1)),
    "matmul": Apply(lambda x: x @ x.transpose(-1, -2) + torch.einsum("nchw,nciw->nhi", x, x).unsqueeze(1)),
    "attention": Attention(),
    "channel shuffle": Shuffle(),
    "squeeze-excite": SqueezeExcite(),
    "mask made on the way": Masked(),
    "dropout": nn.Sequential(nn.Dropout(0.5), nn.Conv2d(8, 4, 1), nn.Dropout2d(0.5)),
    "in place": Apply(lambda x: F.relu_(x * 2).add_(1).mul_(3)),
    "input is output": nn.Identity(),
    "addcmul": Apply(lambda x: torch.addcmul(x, x.exp(), x.tanh(), value=0.3)),
    "addcmul of a constant": Apply(lambda x: torch.addcmul(torch.ones(8, 1, 1), x, x)),
}


def randomise(model: nn.Module) -> nn.Module:
    """Give every norm statistics and factors that show when they are lost."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return model.eval()


def session(
    model: nn.Module, example: Tensor, path, outputs=("output",)
) -> tuple[onnx.ModelProto, onnxruntime.InferenceSession]:
    direct.translate(model, example, outputs).save(path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    return proto, onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_rule_computes_what_torch_computes(name, tmp_path):
    model = randomise(NETWORKS[name])
    _, run = session(model, torch.randn(1, 8, 6, 8), tmp_path / "net.onnx")
    for batch in (1, 4):
        x = torch.randn(batch, 8, 6, 8)
        with torch.no_grad():
            expected = model(x)
        (found,) = run.run(None, {"input": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


class Two(nn.Module):
    """Reads an image and a vector; the image's rows are repeated as often as the batch is large."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 4, 3), nn.Linear(5, 4)

    def forward(self, image, vector):
        gate = torch.sigmoid(self.gate(vector))[:, :, None, None]
        return {"map": self.conv(image) * gate.expand(len(image), -1, -1, -1), "gate": gate.flatten(1)}


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_are_read_by_their_names(as_dict, tmp_path):
    model = Two().eval()
    image, vector = torch.randn(1, 3, 6, 7), torch.randn(1, 5)
    example = {"vector": vector, "image": image} if as_dict else (image, vector)
    proto, run = session(model, example, tmp_path / "net.onnx", ["map", "gate"])
    names = ["vector", "image"] if as_dict else ["input_0", "input_1"]
    assert [entry.name for entry in proto.graph.input] == names
    for batch in (1, 3):
        image, vector = torch.randn(batch, 3, 6, 7), torch.randn(batch, 5)
        given = dict(zip(names, (vector, image) if as_dict else (image, vector), strict=True))
        found = run.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        for one, expected in zip(found, model(image, vector).values(), strict=True):
            torch.testing.assert_close(torch.from_numpy(one), expected.detach())


def test_an_input_that_all_images_share_is_left_to_the_general_road():
    class Bank(nn.Module):
        def forward(self, x, bank):
            return x @ bank.t()

    with pytest.raises(Unsupported, match="without the batch"):
        direct.translate(Bank(), (torch.randn(2, 4), torch.randn(5, 4)))


def test_norms_are_folded_where_that_is_exact_and_only_there(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.alone, self.twice = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 1)
            self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.twice(F.relu(self.first(self.alone(x))))
            return self.second(y) + y  # the convolution's own output is needed too

    model = randomise(Net())
    proto, run = session(model, torch.randn(1, 8, 3, 3), tmp_path / "net.onnx")
    norms = [node.name for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert norms == ["second/BatchNormalization"]
    assert {"second.running_mean", "second.running_var"} <= {t.name for t in proto.graph.initializer}
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(torch.from_numpy(run.run(None, {"input": x.numpy()})[0]), model(x).detach())


def test_a_shared_convolution_is_folded_with_each_of_its_norms(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.first, self.second = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

        def forward(self, x):
            return self.second(self.shared(self.first(self.shared(x))))

    model = randomise(Net())
    proto, run = session(model, torch.randn(1, 8, 3, 3), tmp_path / "net.onnx")
    assert [node.op_type for node in proto.graph.node] == ["Conv", "Conv"]
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(torch.from_numpy(run.run(None, {"input": x.numpy()})[0]), model(x).detach())


def test_nodes_and_weights_bear_the_names_of_the_network(tmp_path):
    head = nn.Linear(36, 2)
    model = randomise(nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), head))
    proto, _ = session(model, torch.randn(1, 8, 3, 3), tmp_path / "net.onnx")
    assert [node.name for node in proto.graph.node] == ["0/Conv", "2/Reshape", "3/Gemm"]
    names = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    expected = {"0.weight": (4, 8, 1, 1), "0.bias": (4,), "3.weight": (2, 36), "3.bias": (2,)}
    assert names.items() >= expected.items()


def test_outputs_may_be_read_again_and_returned_twice_and_what_is_not_needed_is_left_out(tmp_path):
    def function(x):
        x.exp().sum((2, 3))
        y = x * 2
        return y, y.relu(), y

    proto, run = session(Apply(function), torch.randn(1, 8, 3, 3), tmp_path / "net.onnx", list("abc"))
    assert sorted(node.op_type for node in proto.graph.node) == ["Identity", "Identity", "Mul", "Relu"]
    x = torch.randn(2, 8, 3, 3)
    for found, expected in zip(run.run(None, {"input": x.numpy()}), function(x), strict=True):
        torch.testing.assert_close(torch.from_numpy(found), expected)


def test_sizes_that_follow_the_batch_are_found():
    recording = capture(Apply(lambda x: x.view(x.shape[0] * 2, 4, -1)), torch.randn(1, 8, 6, 8))
    assert recording.outputs[0].shape == (Batch(2), 4, 48)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.cumsum(1), "cumsum"),
        (lambda x: x + torch.randn(x.shape[0], 1, 1, 1), "depends on the batch"),
        (lambda x: x * torch.tensor(float(x.shape[0])), "depends on the batch"),
        (lambda x: x / x.shape[0], "computes with Batch"),
        (lambda x: x[: x.shape[0] // 2], "a size is"),
        (lambda x: torch.ones(2), "does not depend on the input"),
        (lambda x: x if x.sum() > 0 else -x, "shapes alone"),
        (lambda x: torch.zeros(8, 6, 8).add_(x[0]), "into a constant"),
    ],
)
def test_what_the_direct_road_does_not_cover_it_refuses(function, reason):
    with pytest.raises(Unsupported, match=reason):
        direct.translate(Apply(function), torch.randn(1, 8, 6, 8))


def test_a_view_of_what_was_overwritten_is_refused_when_it_is_read():
    def overwrites(x):
        y = x * 2
        view = y[:, :4]
        y.add_(1)
        return view * 1

    with pytest.raises(Unsupported, match="overwritten"):
        direct.translate(Apply(overwrites), torch.randn(1, 8, 6, 8))


@pytest.mark.parametrize(("size", "target"), [(1, 7), (5, 3), (6, 4), (7, 7), (3, 10)])
def test_the_matrix_of_adaptive_pooling_is_that_of_torch(size, target):
    x = torch.randn(1, 1, size, dtype=torch.float64)
    torch.testing.assert_close(x @ averaging(size, target).T, F.adaptive_avg_pool1d(x, target))
