"""The size of an ONNX file is that of all its weights, wherever it keeps them."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import slimkit
from slimkit.cli import main
from slimkit.measure import probe
from slimkit.measure.onnx_bytes import bytes_of_onnx


def test_bench_counts_the_weights_that_a_file_keeps_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = nn.Sequential(nn.Conv2d(1, 40, 3), nn.ReLU(), nn.Conv2d(40, 40, 3)).eval()
    whole, apart = tmp_path / "whole.onnx", tmp_path / "apart" / "model.onnx"
    slimkit.export_onnx(network, whole, torch.randn(1, 1, 8, 8))
    apart.parent.mkdir()
    onnx.save_model(onnx.load(str(whole)), str(apart), save_as_external_data=True, location="weights", size_threshold=0)
    assert apart.stat().st_size < 0.2 * whole.stat().st_size
    assert main(["bench", str(whole), str(apart), "--json"]) == 0
    one, other = (row["bytes"] for row in json.loads(capsys.readouterr().out)["models"])
    assert one == whole.stat().st_size
    assert other == apart.stat().st_size + apart.with_name("weights").stat().st_size > 0.9 * one


def kept_in(location: str, name: str) -> TensorProto:
    """Return a tensor whose numbers are in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def scattered() -> onnx.ModelProto:
    """A model of which every kind of place for a tensor names a file of its own."""

    def graph(name: str, nodes: list[Any], *tensors: TensorProto) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [], list(tensors))

    constant = helper.make_node("Constant", [], ["c"], value=kept_in("constant", "c"))
    inner = graph("inner", [constant], kept_in("inner", "w"))
    branch = helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=graph("other", []))
    whole = graph("whole", [branch], kept_in("./deep/main", "a"), kept_in("deep/main", "b"))
    sparse = helper.make_sparse_tensor(kept_in("values", "s"), kept_in("indices", ""), [9])
    whole.sparse_initializer.append(sparse)
    of_function = helper.make_node("Constant", [], ["f"], value=kept_in("function", "f"))
    function = helper.make_function("own", "F", [], ["f"], [of_function], [helper.make_opsetid("", 17)])
    return helper.make_model(whole, functions=[function])


def test_tensors_of_subgraphs_constants_and_functions_count_and_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    names = ("constant", "inner", "deep/main", "values", "indices", "function")
    for place, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes(10**place))
    path = tmp_path / "model.onnx"
    path.write_bytes(scattered().SerializeToString())
    assert bytes_of_onnx(path) == path.stat().st_size + 111_111


@pytest.mark.parametrize(
    "location", ["../outside", "{}/outside", "deep/../../outside", "none", ".", "", "a" * 999, "\0", "model.onnx"]
)
def test_no_file_outside_the_folder_counts_and_none_twice(location: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(bytes(1000))
    path = tmp_path / "home" / "model.onnx"
    (path.parent / "deep").mkdir(parents=True)
    tensor = kept_in(location.format(tmp_path), "w")
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString())
    assert bytes_of_onnx(path) == path.stat().st_size


def test_what_is_no_onnx_file_has_its_own_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff" * 77)
    assert bytes_of_onnx(tmp_path / "file") == 77


def test_the_memory_that_an_engine_may_take_is_by_all_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[int] = []
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: bounds.append(limits[0]))
    monkeypatch.setattr(probe, "open_runner", lambda *_: sys.exit())
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], [kept_in("w", "w")])).SerializeToString())
    with (tmp_path / "w").open("wb") as file:
        file.truncate(10**9)  # takes no room
    with pytest.raises(SystemExit):
        probe._try(str(path), "onnxruntime", None, 1)
    assert bounds[-1] > 16 * 10**9
