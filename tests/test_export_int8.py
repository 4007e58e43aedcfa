"""INT8: the kind of quantisation, its error, and its refusals."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from slimkit.errors import CheckpointError, DataError, OutputError
from slimkit.export import export_onnx
from slimkit.export.int8 import quantise


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 9, 5),
    ).eval()


@pytest.fixture(scope="module")
def source(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    export_onnx(model, path, torch.randn(1, 3, 8, 8), {"arch": "zoo:test"})
    return path


def images(seed: int, count: int = 32):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_weights_are_signed_per_channel_and_activations_unsigned(source, tmp_path):
    quantise(source, tmp_path / "int8.onnx", images(1).split(16))
    model = onnx.load(tmp_path / "int8.onnx")
    onnx.checker.check_model(model)
    tensors = {t.name: t for t in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 2
    for node in convolutions:
        activation, weight = makers[node.input[0]], makers[node.input[1]]
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        stored = tensors[weight.input[0]]
        assert stored.data_type == onnx.TensorProto.INT8
        assert list(tensors[weight.input[1]].dims) == [stored.dims[0]]  # one scale an output channel
        assert tensors[activation.input[2]].data_type == onnx.TensorProto.UINT8
        assert not tensors[activation.input[1]].dims  # one scale in all
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["arch"] == "zoo:test" and "int8" in metadata
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_it_computes_nearly_the_same_on_images_it_was_not_calibrated_on(model, source, tmp_path):
    quantise(source, tmp_path / "int8.onnx", images(1, 128).split(32))
    session = onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": images(2, 64).numpy()})
    expected = model(images(2, 64)).detach()
    error = (torch.from_numpy(found) - expected).square().mean().sqrt() / expected.std()
    assert 1e-5 < error < 0.05  # not the float file, and far from noise


def test_without_images_it_is_refused(source, tmp_path):
    for nothing in ([], [torch.empty(0, 3, 8, 8)]):
        with pytest.raises(DataError, match=r"(?s)no images to calibrate on.*`data`"):
            quantise(source, tmp_path / "int8.onnx", nothing)
    assert not list(tmp_path.iterdir())


def test_a_damaged_or_missing_file_is_named(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x00not onnx")
    for name in ("bad.onnx", "missing.onnx"):
        with pytest.raises(CheckpointError, match=name):
            quantise(tmp_path / name, tmp_path / "int8.onnx", [images(1)])


def test_a_place_that_is_not_there_is_named(source, tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        quantise(source, tmp_path / "nowhere" / "int8.onnx", [images(1)])
