"""Kinds of files, told by content; what bad files get."""

import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from slimkit import models
from slimkit.errors import CheckpointError
from slimkit.models import files

onnx = pytest.importorskip("onnx")


def state_dict_bytes(legacy=False):
    torch.manual_seed(0)
    buffer = io.BytesIO()
    state = models.build("zoo:resnet8", classes=3).model.state_dict()
    torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def test_kind_is_told_by_content_not_by_suffix(tmp_path):
    network = models.build("zoo:resnet8").model
    wrong = tmp_path / "weights.onnx"
    models.save(network, wrong)
    assert files.kind(wrong) is files.Kind.SAFETENSORS
    wrong.write_bytes(state_dict_bytes())
    assert files.kind(wrong) is files.Kind.TORCH
    wrong.write_bytes(state_dict_bytes(legacy=True))
    assert files.kind(wrong) is files.Kind.TORCH
    assert models.load(wrong).source == "state dict"


def archive(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for name, content in members.items():
            written.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def onnx_bytes():
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", [value], [other])
    return onnx.helper.make_model(graph).SerializeToString()


def torchscript_bytes():
    return archive(net__data="", net__constants_pkl="", **{"net__code/__torch__.py": "x"}).replace(
        b"constants_pkl", b"constants.pkl"
    )


def tar_bytes():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as written:
        written.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return buffer.getvalue()


def npz_bytes():
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.ones(3))
    return buffer.getvalue()


BAD = {
    "empty": (lambda: b"", "is empty"),
    "onnx": (onnx_bytes, "batch normalisation is already folded"),
    "torchscript": (torchscript_bytes, "TorchScript"),
    "protobuf": (lambda: b"\n" + b"\xff" * 9 + b"\x7f" + b"rest of a file", "no checkpoint that slimkit knows"),
    "keras": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "numpy": (npz_bytes, "NumPy"),
    "old torch": (tar_bytes, "before 0.4"),
    "plain pickle": (lambda: pickle.dumps({"a": 1}), "could run any code"),
    "web page": (lambda: b"\n<!DOCTYPE html><html>404</html>", "web page"),
    "git lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(60), "compressed"),
    "tflite": (lambda: b"\x1c\0\0\0TFL3" + bytes(60), "TensorFlow Lite"),
    "gguf": (lambda: b"GGUF" + bytes(60), "GGUF"),
    "text": (lambda: b"conv1.weight 1 2 3", "no checkpoint that slimkit knows"),
    "other zip": (lambda: archive(readme="x"), "without a network"),
    "old export": (
        lambda: archive(**{"serialized_exported_program.json": "{}", "version": "1"}),
        "torch 2.7 and before",
    ),
    "compiled": (lambda: archive(p__data__aotinductor__model="x"), "AOTInductor"),
    "truncated zip": (lambda: state_dict_bytes()[:5000], "damaged or incomplete"),
    "truncated legacy": (lambda: state_dict_bytes(legacy=True)[:5000], "damaged or incomplete"),
    "cut safetensors header": (lambda: (999).to_bytes(8, "little") + b"{", "cut off"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_gets_a_message_that_says_what_it_is(case, tmp_path):
    make, message = BAD[case]
    path = tmp_path / "net.pt"
    path.write_bytes(make())
    with pytest.raises(CheckpointError, match=message) as caught:
        models.load(path)
    assert str(path) in str(caught.value)
    assert "\n  " in str(caught.value)  # what to do


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        models.load(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        models.load(tmp_path)


def test_really_scripted_network_is_refused(tmp_path, recwarn):
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)), path)
    with pytest.raises(CheckpointError, match="TorchScript"):
        models.load(path)


@pytest.mark.parametrize("kind", ["zip", "slim"])
def test_every_flipped_bit_is_noticed_or_harmless(kind, tmp_path):
    path = tmp_path / "net"
    if kind == "zip":
        path.write_bytes(state_dict_bytes())
    else:
        models.save(models.build("zoo:resnet8").model, path)
    whole = path.read_bytes()
    before = models.load(path).model.state_dict()
    places = torch.randint(len(whole), (40,), generator=torch.Generator().manual_seed(0)).tolist()
    noticed = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            after = models.load(path).model.state_dict()
        except CheckpointError:
            noticed += 1
        else:
            assert all(torch.equal(after[name], before[name]) for name in before)
    assert noticed > 35


def test_a_file_without_checksums_still_loads(tmp_path):
    path = tmp_path / "net.pt"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path.write_bytes(state_dict_bytes())
    finally:
        torch.serialization.set_crc32_options(before)
    assert models.load(path).source == "state dict"
