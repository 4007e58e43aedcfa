"""Latency: what is timed, in which order, what it is made of, and the refusals."""

import re
import resource
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from slimkit.errors import CheckpointError, EngineError, SpecError
from slimkit.export import export_onnx
from slimkit.measure import engines, latency
from slimkit.measure.engines import Port, Runner, open_runner
from slimkit.measure.latency import measure
from slimkit.measure.node_times import NodeTime, latency_by_node, layers_of, unprofiled
from slimkit.runs import bench as benching


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small and a large network, exported."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("onnx")
    for name, width in (("small", 8), ("large", 128)):
        model = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.Hardswish(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 5),
        )
        export_onnx(model, folder / f"{name}.onnx", torch.randn(1, 3, 32, 32))
    return folder / "small.onnx", folder / "large.onnx"


def free_shape(path):
    """Write a file that leaves height and width free."""
    node = onnx.helper.make_node("Relu", ["input"], ["output"])
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
        for name in ("input", "output")
    ]
    graph = onnx.helper.make_graph([node], "free", values[:1], values[1:])
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


def test_more_work_takes_longer_and_the_record_is_complete(files):
    small, large = measure(files, seconds=0.1)
    assert small.fastest_ms < large.fastest_ms and small.cpu_ms < large.cpu_ms
    assert 0 < small.fastest_ms <= small.q25_ms <= small.median_ms <= small.q75_ms
    assert 9 <= small.repeats <= 2001 and small.repeats == large.repeats
    assert small.engine.startswith("onnxruntime ") and small.cpu
    assert set(small.record().to_dict()) >= {"median", "q25", "q75", "cpu", "engine", "threads", "batch", "repeats"}


def test_a_batch_is_timed_as_a_whole(files):
    (one,), (eight,) = measure(files[1:], seconds=0.05), measure(files[1:], seconds=0.05, batch=8)
    assert (one.batch, eight.batch) == (1, 8)
    assert eight.cpu_ms > 3 * one.cpu_ms


def test_files_take_turns_after_their_warm_ups(monkeypatch):
    ran = []

    def fake(path, engine, threads):
        return Runner(lambda images: ran.append(path), (Port("x", (None, 3), np.dtype("f4")),), "fake 1")

    monkeypatch.setattr(latency, "open_runner", fake)
    found = measure(["a", "b"], seconds=0)
    warm_ups = ["a"] * 5 + ["b"] * 5
    turn = ["a"] * 4 + ["b"] * 4  # one that fills the caches, three that are timed
    assert ran == warm_ups + ["a", "b"] + turn * 3
    assert [f.repeats for f in found] == [9, 9]


@pytest.mark.parametrize(
    ("wall", "cpu", "threads", "noisy"),
    [
        ([10.0] * 8, [9.9] * 8, 1, False),
        ([10.0] * 8, [5.0] * 8, 1, True),  # half the time it was not running
        ([10.0] * 8, [5.0] * 8, 2, False),  # two threads that wait for each other may
        ([10.0] * 5 + [20.0] * 3, [10.0] * 8, 1, True),  # quartiles far apart
    ],
)
def test_a_busy_machine_is_called_noisy(wall, cpu, threads, noisy):
    found = latency.summary(np.array(wall) / 1e3, np.array(cpu) / 1e3, None, ("engine", threads, 1))
    assert found.noisy is noisy


def test_one_wrong_reading_of_the_cpu_clock_decides_nothing():
    """Seen on a virtual machine: one of 2,001 inferences of 13.3 us had 4.4 us of CPU time, and its energy."""
    cpu = np.full(2001, 13.7)
    cpu[1000] = 4.4
    found = latency.summary(np.full(2001, 13.8) / 1e3, cpu / 1e3, None, ("engine", 1, 1))
    assert found.cpu_ms == pytest.approx(13.7)


def test_what_a_profiler_adds_is_left_out_so_that_nodes_take_no_longer_than_the_network():
    nodes = [NodeTime(layer="conv", operator="Conv", fastest_ms=0.001, turn_ms=us / 1e3) for us in (3, 5, 4)]
    own, between = unprofiled(nodes, 0.006)
    assert [node.turn_ms * 1e3 for node in own] == pytest.approx([1, 3, 2]) and between == 0
    own, between = unprofiled(nodes, 0.015)
    assert [node.turn_ms * 1e3 for node in own] == pytest.approx([3, 5, 4]) and between == pytest.approx(0.001)


def test_cpu_time_is_the_least_since_neighbours_lengthen_it_too():
    found = latency.summary(np.array([3.0, 2, 4]) / 1e3, np.array([2.0, 1, 3]) / 1e3, None, ("engine", 2, 1))
    assert (found.median_ms, found.fastest_ms, found.cpu_ms) == (3.0, 2.0, 1.0)


def test_a_fixed_batch_stays_and_a_free_size_must_be_given(tmp_path):
    path = free_shape(tmp_path / "free.onnx")
    with pytest.raises(EngineError, match=r"(?s)free\.onnx: .*`input_shape"):
        measure([path])
    (found,) = measure([path], (3, 8, 8), seconds=0.01, batch=2)
    assert found.batch == 2
    proto = onnx.load(path)
    for value in (proto.graph.input[0], proto.graph.output[0]):
        for dim, size in zip(value.type.tensor_type.shape.dim, (4, 3, 8, 8), strict=True):
            dim.dim_value = size
    onnx.save(proto, tmp_path / "fixed.onnx")
    assert measure([tmp_path / "fixed.onnx"], seconds=0.01, batch=2)[0].batch == 4


@pytest.mark.parametrize(
    ("given", "error", "why"),
    [
        ({"batch": 0}, SpecError, "batch is 0"),
        ({"threads": 0}, SpecError, "threads is 0"),
        ({"threads": "2"}, SpecError, "threads is '2'"),
        ({"seconds": -1.0}, SpecError, "seconds is -1"),
        ({"seconds": float("nan")}, SpecError, "seconds is nan"),
        ({"input_shape": (3, 17, 17)}, EngineError, r"input_shape is \(3, 17, 17\).*takes \(3, 32, 32\)"),
        ({"input_shape": (4, 32, 32)}, EngineError, r"input_shape is \(4, 32, 32\)"),
        ({"input_shape": (3, 32)}, EngineError, r"input_shape is \(3, 32\)"),
        ({"input_shape": {"input": (3, 16, 16)}}, EngineError, r"input_shape is \(3, 16, 16\)"),
        ({"paths": []}, SpecError, "nothing to time"),
    ],
)
def test_nothing_is_timed_otherwise_than_asked(files, given, error, why):
    with pytest.raises(error, match=why):
        measure(**{"paths": files[:1], "seconds": 0.01, **given})
    assert measure(files[:1], (3, 32, 32), seconds=0.01)[0].batch == 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"nonsense": (3, 8, 8)}, "input_shape names 'nonsense': the inputs of .* are image, mask"),
        ((3, 99, 99), r"input_shape is \(3, 99, 99\): .* takes image \(3, 8, 8\), mask \(1, 8, 8\)"),
        ({"image": (3, 9, 9)}, r"input_shape is \(3, 9, 9\)"),
    ],
)
def test_a_shape_of_no_input_is_refused(tmp_path, given, why):
    helper, path = onnx.helper, tmp_path / "two.onnx"
    ports = [helper.make_tensor_value_info(name, 1, ["n", count, 8, 8]) for name, count in (("image", 3), ("mask", 1))]
    result = helper.make_tensor_value_info("out", 1, ["n", 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Mul", ["image", "mask"], ["out"])], "two", ports, [result])
    onnx.save(
        helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "two.onnx"
    )
    with pytest.raises(EngineError, match=why):
        measure([path], given, seconds=0.01)
    for fits in ((3, 8, 8), {"mask": (1, 8, 8)}, {"image": (3, 8, 8), "mask": (1, 8, 8), "unread": (2,)}):
        assert measure([path], fits, seconds=0.01)


def timed_alike(path, heaviest, **how):
    """Time layers and whole until the layers take about as long as the whole, and one layer the most of all: each is
    the least of few runs, and a neighbour on the core may come in between any of them."""
    for _ in range(10):
        nodes = latency_by_node(path, repeats=5, **how)
        (whole,) = measure([path], seconds=0.1, **how)
        total = sum(node.fastest_ms for node in nodes)
        most = max(nodes, key=lambda node: node.fastest_ms)
        if 0.3 * whole.fastest_ms < total < 3 * whole.fastest_ms and most.layer == heaviest:
            return nodes
    pytest.fail(f"layers take {total} ms, {most.layer} the most of it, the whole {whole.fastest_ms}")


def test_the_time_of_every_layer_is_found(files):
    nodes = timed_alike(files[1], "3")
    layers = [node.layer for node in nodes if node.operator == "Conv"]
    assert layers == ["0", "3"]
    assert [n.layer for n in nodes if "Gemm" in n.operator] == ["7"]
    assert all(node.turn_ms > node.fastest_ms for node in nodes)  # finer than microseconds, and with what lies between
    assert any(abs(1e3 * node.turn_ms % 1 - 0.5) < 0.49 for node in nodes)


def test_a_profile_that_does_not_fit_on_the_disk_is_said(files):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # as full as a disk gets in a test
        with pytest.raises(EngineError, match="(?s)profile .* is not whole: the disk is full.*TMPDIR"):
            latency_by_node(files[1], repeats=300)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("engine", ["openvino", "openvino-bf16"])
def test_the_time_of_every_layer_is_found_in_openvino(files, engine):
    pytest.importorskip("openvino", reason="the extra slimkit[openvino] is not installed")
    nodes = timed_alike(files[1], "3", engine=engine)
    assert [node.layer for node in nodes if node.operator == "Convolution"] == ["0", "3"]
    assert [node.layer for node in nodes if node.operator == "FullyConnected"] == ["7"]
    assert {node.layer for node in nodes if node.operator == "Reorder"} <= {""}


@pytest.mark.parametrize("swap", [False, True])
def test_a_residual_sum_counts_with_the_convolution_it_is_fused_with(tmp_path, swap):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.short = (nn.Conv2d(16, 16, k, padding=k // 2) for k in (3, 3, 1))
            self.relu = nn.ReLU()

        def forward(self, x):
            long, short = self.second(self.relu(self.first(x))), self.short(x)
            return self.relu(short + long if swap else long + short)

    export_onnx(Block(), tmp_path / "net.onnx", torch.randn(1, 16, 16, 16))
    nodes = latency_by_node(tmp_path / "net.onnx", repeats=2)
    assert sorted(node.layer for node in nodes if node.operator == "Conv") == ["first", "second", "short"]
    # Another build of the engine may fuse further, and name the whole after its last part.
    ran = [("relu/Relu", "FusedConv"), ("short/Conv", "Conv"), ("relu/Relu_1", "FusedConv"), ("new", "Reorder")]
    assert layers_of(tmp_path / "net.onnx", ran) == ["first", "short", "second", ""]


def test_a_noisy_machine_is_judged_by_cpu_time_and_all_files_alike(files, monkeypatch):
    def summary(noisy, threads=1):
        wall = np.array([10.0] * 5 + [20.0] * 3 if noisy else [10.0] * 8) / 1e3
        return latency.summary(wall, wall / wall * 9e-3, None, ("engine", threads, 1))

    quiet, noisy, several = summary(False), summary(True), summary(True, threads=2)
    assert (quiet.clock, quiet.typical_ms) == ("wall", 10) and (noisy.clock, noisy.typical_ms) == ("cpu", 9)
    assert (several.clock, several.typical_ms) == ("wall", 10) and several.noisy and several.fastest_ms == 10
    uneven = [replace(one, fastest_ms=7.0) for one in (quiet, noisy, several)]
    assert [one.typical_ms for one in uneven] == [one.record().quoted for one in uneven] == [10, 9, 7]
    assert [one.record().clock for one in uneven] == ["median", "cpu", "fastest"]
    found = iter([quiet, noisy])
    monkeypatch.setattr(latency, "summary", lambda *_: next(found))
    said = []
    assert [f.noisy for f in measure(files, seconds=0.01, progress=lambda *told: said.append(told))] == [True, True]
    assert said[0] == (f"measuring in onnxruntime {onnxruntime.__version__}", 0) and 0 < said[-1][1] < 1


def test_bench_compares_files_of_other_batches_by_one_image(files, tmp_path, monkeypatch):
    monkeypatch.setattr(benching, "measure", partial(measure, seconds=0.05))
    monkeypatch.setattr("slimkit.measure.probe.check", lambda *_: None)
    proto = onnx.load(files[1])
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(proto, tmp_path / "bound.onnx")
    free, bound = benching.bench([files[1], tmp_path / "bound.onnx"], batch=8)
    assert (free.latency_ms.batch, bound.latency_ms.batch) == (8, 1)
    assert bound.share == pytest.approx(8 * bound.latency_ms.quoted / free.latency_ms.quoted)


@pytest.mark.long
def test_bench_compares_with_the_first_file(files, monkeypatch):
    monkeypatch.setattr(benching, "measure", partial(measure, seconds=0.05))
    rows = benching.bench([*files, files[0]])
    assert [row.name for row in rows] == [str(files[0]), str(files[1]), str(files[0])]
    first, second = (row.latency_ms for row in rows[:2])
    assert rows[0].share == 1 and rows[1].share == second.quoted / first.quoted
    assert [row.bytes for row in rows] == [path.stat().st_size for path in (*files, files[0])]
    with pytest.raises(EngineError, match="'tensorrt': not known here"):
        benching.bench(files, ["onnxruntime", "tensorrt"])


def test_damaged_and_missing_files_are_named(files, tmp_path):
    (tmp_path / "cut.onnx").write_bytes(files[0].read_bytes()[:-100])
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("cut.onnx", "text.onnx", "empty.onnx", "missing.onnx"):
        with pytest.raises(CheckpointError, match=name):
            measure([files[0], tmp_path / name])
    with pytest.raises(CheckpointError, match="no such file"):
        measure([tmp_path / "missing.onnx"])


def test_engines_that_are_unknown_or_not_installed_are_named(files, monkeypatch):
    with pytest.raises(EngineError, match=r"(?s)'tensorrt': not known here.*onnxruntime, openvino"):
        open_runner(files[0], "tensorrt")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"(?s)not installed.*pip install 'slimkit\[openvino\]'"):
        open_runner(files[0], "openvino")


def test_openvino_computes_what_onnx_runtime_computes(files):
    pytest.importorskip("openvino", reason="the extra slimkit[openvino] is not installed")
    image = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    a, b = (open_runner(files[1], engine).run(image)[0] for engine in ("onnxruntime", "openvino"))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_precision_of_openvino_is_that_which_it_really_computes_in(files):
    pytest.importorskip("openvino", reason="the extra slimkit[openvino] is not installed")
    found = [open_runner(files[1], engine) for engine in ("openvino", "openvino-bf16")]
    assert found[0].engine.endswith("(f32)") and re.search(r"\((f32|bf16)\)$", found[1].engine)
    image = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    a, b = (runner.run(image)[0] for runner in found)
    same = bool(np.array_equal(a, b))
    assert same is found[1].engine.endswith("(f32)") and np.abs(a - b).max() < 0.1 * np.abs(a).max()


def test_signals_still_find_their_stack_after_several_models_in_openvino(files):
    """Handlers run on a stack of their own, here faulthandler's; SIGCHLD has a handler once torch loads data."""
    pytest.importorskip("openvino", reason="the extra slimkit[openvino] is not installed")
    code = """
import faulthandler, gc, signal, subprocess, sys
from slimkit.measure.latency import measure
faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
measure(sys.argv[1:], engine="openvino", seconds=0.01)
gc.collect()
subprocess.run([sys.executable, "-c", ""])
"""
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], check=False)
    assert done.returncode == 0


def test_an_engine_without_a_profiler_is_not_timed_by_anothers(files, monkeypatch):
    monkeypatch.setitem(engines.ENGINES, "own", engines.ENGINES["onnxruntime"])
    with pytest.raises(EngineError, match="engine 'own': it does not say how long a layer takes"):
        latency_by_node(files[1], engine="own")
