"""Latency tables made on one machine and used on another: `bench --table`, then `compress --latency-table`."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import slimkit
from slimkit.cli import main
from slimkit.errors import EngineError, OutputError
from slimkit.measure import engines
from slimkit.measure.layer_table import LatencyTable, check_fits, load
from slimkit.measure.layers import layers
from slimkit.runs import bench as benching
from slimkit.runs.start import allowed_widths
from slimkit.settings import CompressSpec

IMAGE = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def network(width: int = 48) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 64, 3, 2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5),
    ).eval()  # fmt: skip


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    slimkit.export_onnx(network(), tmp_path / "dense.onnx", IMAGE)
    return tmp_path / "dense.onnx"


def table_of(dense: Path, **changes: object) -> Path:
    """Make a table by the command; then let it be that of a machine whose time is multiply-adds, and quiet."""
    path = dense.with_name("table.json")
    assert main(["bench", str(dense), "--table", str(path), "--json"]) == 0
    table = json.loads(path.read_text()) | {"fixed_ms": 0.0, "varying_ms": 0.0, "clock": "wall"}
    for row in table["rows"]:
        each = row["layer"]["area"] * math.prod(row["layer"]["shape"]["kernel"]) * 1e-6
        row["ms"] = [[each * i * o for o in row["outputs"]] for i in row["inputs"]]
    path.write_text(json.dumps(table | changes))
    return path


@pytest.mark.long
def test_a_table_from_elsewhere_decides_and_the_report_says_whose_it_is(dense: Path, tmp_path: Path) -> None:
    path = table_of(dense, cpu="a phone", network_ms=8.0)
    result = slimkit.compress(network(), IMAGE, max_latency="4ms", latency_table=str(path))
    budget = result.report.budget
    assert budget.by_table and budget.where.startswith("a phone, onnxruntime ")
    assert (budget.original, budget.target) == (8.0, 4.0) and 3.0 <= budget.reached <= 4.0
    assert any("by the table of a phone" in note for note in budget.notes)
    assert result.report.after.latency_ms.median < 1.0  # measured here
    share = slimkit.compress(network(), IMAGE, max_latency=0.5, latency_table=str(path))
    assert share.report.budget.target == 4.0 and torch.equal(share.mask.keep, result.mask.keep)


@pytest.mark.long
@pytest.mark.parametrize("runtime", ["tensorrt", "openvino"])
def test_a_table_of_an_engine_that_does_not_run_here_is_aimed_at(
    runtime: str, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    path = table_of(dense, cpu="a board", network_ms=8.0, runtime=runtime, engine=f"{runtime} 10 (fp16)", step=32)
    report = slimkit.compress(network(), IMAGE, max_latency="6ms", latency_table=str(path)).report
    assert report.budget.by_table and report.budget.where.startswith(f"a board, {runtime} 10 (fp16)")
    assert any("measured on this machine, in onnxruntime" in note for note in report.budget.notes)
    assert allowed_widths(CompressSpec(max_latency="6ms", latency_table=str(path))).step == 32


@pytest.mark.long
def test_the_command_says_what_is_wrong_with_a_table(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = table_of(dense)
    network_file = tmp_path / "net.safetensors"
    slimkit.compress(network(), IMAGE, 0.0, out=tmp_path / "whole")
    (tmp_path / "whole" / "model.pt2").rename(network_file.with_suffix(".pt2"))
    there = json.loads(path.read_text())

    def refused(given: str, *words: str) -> str:
        path.write_text(given)
        capsys.readouterr()
        arguments = ["compress", str(network_file.with_suffix(".pt2")), "--latency-table", str(path), *words]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2 and not (tmp_path / "out").exists()
        said = capsys.readouterr()
        assert said.out == ""
        return said.err

    half = ("--max-latency", "0.5")
    assert "not a latency table (Expecting property name" in refused("{", *half)
    assert "of another network: it has 3 layers, this one has 4" in refused(
        json.dumps(there | {"rows": there["rows"][:-1]}), *half
    )
    monkeypatch.setattr(engines, "_openvino", lambda: None)  # as where it is installed
    assert "Add --runtime openvino, or" in refused(json.dumps(there | {"runtime": "openvino"}), *half)
    assert "Add --threads 2, or" in refused(json.dumps(there | {"threads": 2}), *half)
    said = refused(json.dumps(there), "--max-latency", "0.01")
    assert "the smallest that the allowed widths reach is" in said and "most of it is held by " in said
    assert "of use only to a latency budget" in refused(json.dumps(there))


@pytest.mark.long
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_torch_exported_gives_a_table_that_fits(dense: Path, tmp_path: Path, dynamo: bool) -> None:
    path = tmp_path / "torch.onnx"
    free = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {"dynamic_axes": {"x": {0: "n"}}}
    torch.onnx.export(network(), (IMAGE,), str(path), dynamo=dynamo, input_names=["x"], verbose=False, **free)
    _, table = benching.make_table(path, tmp_path / "torch.json")
    check_fits(table, tmp_path / "torch.json", layers(dense), "onnxruntime", 1, 1)


def test_a_table_is_not_written_over_the_network(dense: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, link = dense.read_bytes(), dense.with_name("table.json")
    link.symlink_to(dense)
    for place in (dense, link):
        assert main(["bench", str(dense), "--table", str(place), "--force"]) == 2
        assert "would be lost.\n  Give another --table" in capsys.readouterr().err
    assert dense.read_bytes() == before


def test_a_table_is_not_written_over_another_another_file_and_not_measured_for_nothing(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "table.json"
    file.write_text("mine")
    with monkeypatch.context() as patched:
        patched.setattr(benching, "measure", lambda *_, **__: pytest.fail("measured"))
        with pytest.raises(OutputError, match="the file exists already"):
            benching.make_table(dense, file)
        for other in ("mine", "[1]", '{"rows": []}', "{"):
            file.write_text(other)
            with pytest.raises(OutputError, match="slimkit did not write it"):
                benching.make_table(dense, file, force=True)
            assert file.read_text() == other
        file.write_text(json.dumps({"rows": "damaged", "table": "slimkit.latency-table/1"}))
        patched.setitem(sys.modules, "openvino", None)
        with pytest.raises(EngineError, match="pip install"):
            benching.make_table(dense, tmp_path / "other.json", "openvino")
    shares: list[float | None] = []
    rows, table = benching.make_table(dense, file, force=True, progress=lambda _, share: shares.append(share))
    assert load(file) == table and isinstance(table, LatencyTable) and len(table.rows) == 4
    assert len(rows) == 1 and shares and all(0 <= (share or 0) < 1 for share in shares)
    assert table.network_ms == rows[0].latency_ms.quoted


def test_a_file_without_layers_makes_no_table(tmp_path: Path) -> None:
    slimkit.export_onnx(nn.ReLU(), tmp_path / "relu.onnx", IMAGE)
    with pytest.raises(EngineError, match="no convolution and no linear layer"):
        benching.make_table(tmp_path / "relu.onnx", tmp_path / "table.json")
    assert not (tmp_path / "table.json").exists()


def test_an_engine_that_is_missing_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    said: list[str] = []
    with pytest.raises(EngineError, match=r"pip install 'slimkit\[openvino\]'"):
        slimkit.compress(network(), IMAGE, runtime="openvino", progress=lambda words, _: said.append(words))
    assert said == []


@pytest.mark.parametrize("engine", ["openvino", "openvino-bf16"])
def test_a_table_of_openvino_is_made_and_met(dense: Path, tmp_path: Path, engine: str) -> None:
    pytest.importorskip("openvino", reason="the extra slimkit[openvino] is not installed")
    _, table = benching.make_table(dense, tmp_path / "table.json", engine)
    assert table.runtime == engine and table.engine.startswith("openvino ")
    result = slimkit.compress(
        network(), IMAGE, max_latency=0.95, runtime=engine, latency_table=str(tmp_path / "table.json")
    )
    assert result.report.after.latency_ms.engine == table.engine
    assert 0 < result.report.budget.reached <= 0.95 * table.network_ms
