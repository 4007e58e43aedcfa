"""The command: quick help, the right status for every way to end, flags that reach the spec."""

import dataclasses
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from slimkit import models, own_code, runs
from slimkit.cli import main
from slimkit.errors import CheckpointError
from slimkit.report.numbers import milliseconds
from slimkit.results import Benched, InspectedGroup, Inspection, LatencyEntry, TableSummary, report_file
from slimkit.runs import bench as benching
from slimkit.runs.plan import plan
from slimkit.settings import CompressSpec, from_toml, to_toml
from slimkit.settings.output import OutputOptions

NETWORK = Path(models.__file__).parents[2] / "model_zoo" / "resnet8-digits.safetensors"
HEAVY = (
    "torch",
    "torchvision",
    "onnxruntime",
    "onnx",
    "torch_pruning",
    "matplotlib",
    "sklearn",
    "rich",
)
COMMANDS = ("", "compress", "train", "methods", "inspect", "bench", "report", "evaluate", "export")
REPORT = report_file.read(Path(__file__).parent / "reports" / "compress-1.json")


class FakeRuns(types.ModuleType):
    """Stands in for the modules of `slimkit.runs`: notes what it was called with, or raises."""

    def __init__(self) -> None:
        super().__init__("slimkit.runs.compress")
        self.calls = []
        self.error = None

    def _answer(self, *call):
        self.calls.append(call)
        print("noise of a library")
        if self.error is not None:
            raise self.error
        return types.SimpleNamespace(report=REPORT, folder=Path("resnet8-slim"), before=False)

    def compress_checkpoint(self, path, spec, options, progress, watchers):
        progress("tracing", 0.5)
        return self._answer(path, spec, options)

    def train_network(self, spec, options, progress, watchers):
        return self._answer(spec, options)

    def inspect_checkpoint(self, path, spec, progress):
        self._answer(path, spec)
        group = InspectedGroup(name="conv1", layers=("conv1",), channels=16, batch_norm=True, macs=1000)
        return Inspection(
            slimkit="1",
            arch=REPORT.arch,
            channels=REPORT.channels,
            groups=(group,),
            gammas=REPORT.gammas,
            macs=1000,
            params=100,
        )


class FakeBenching(types.ModuleType):
    """Stands in for `slimkit.runs.bench`: notes what it was called with."""

    one_model = staticmethod(benching.one_model)

    def __init__(self) -> None:
        super().__init__("slimkit.runs.bench")
        self.calls = []

    def bench(self, paths, engines, *, threads, batch, input_shape, progress):
        self.calls.append((paths, engines, threads, batch, input_shape))
        return [
            Benched(
                name=str(path),
                bytes=10,
                share=1.0,
                latency_ms=LatencyEntry(
                    median=1.0,
                    q25=1.0,
                    q75=1.0,
                    fastest=1.0,
                    cpu=1.0,
                    engine=engine,
                    threads=1,
                    batch=1,
                    repeats=7,
                    noisy=False,
                ),
            )
            for engine in engines
            for path in paths
        ]

    def make_table(self, path, file, engine, *, force, progress, **settings):
        rows = self.bench((path,), (engine,), progress=progress, **settings)
        self.calls.append((file, force))
        how = {"runtime": engine, "engine": engine, "threads": settings["threads"], "batch": 1, "cpu": "a processor"}
        summary = TableSummary(path=str(file), layers=21, step=8, network_ms=36.1, clock="cpu", **how)
        return rows, types.SimpleNamespace(summary=lambda path: summary)


@pytest.fixture
def bench(monkeypatch):
    fake = FakeBenching()
    monkeypatch.setitem(sys.modules, "slimkit.runs.bench", fake)
    monkeypatch.setattr(runs, "bench", fake, raising=False)
    return fake


@pytest.fixture
def run(monkeypatch):
    fake = FakeRuns()
    for name in ("compress", "train", "inspect"):
        monkeypatch.setitem(sys.modules, f"slimkit.runs.{name}", fake)
    return fake


def test_help_is_quick_and_imports_nothing_heavy():
    code = """
import sys, time
from slimkit.cli import main
for command in {commands!r}:
    try:
        main([command, "--help"] if command else ["--help"])
    except SystemExit:
        pass
print("HEAVY", [name for name in {heavy!r} if name in sys.modules])
print(time.process_time(), file=sys.stderr)
"""
    seconds = []
    for _ in range(5):  # on a busy core the same words take twice the time, for a while
        done = subprocess.run(
            [sys.executable, "-c", code.format(commands=COMMANDS, heavy=HEAVY)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("HEAVY []\n")
        seconds.append(float(done.stderr.split()[-1]))
        if seconds[-1] < 1:
            break
    assert min(seconds) < 1, seconds  # 0.15 on an idle core; what must not be imported is the guard
    for words in (
        "Usage: slimkit compress",
        "--ratio",
        "round-to",
        "Usage: slimkit report",
        "schedule",
    ):
        assert words in done.stdout


def test_flags_are_few():
    import slimkit.cli

    for command in slimkit.cli.slimkit.commands.values():
        assert sum(not getattr(option, "hidden", False) for option in command.params) <= 15, command.name


def test_flags_reach_the_spec(run):
    words = "compress net.pt --ratio 0.3 --data digits --round-to 16 --no-distill --trust-pickle --out o --force"
    assert main(words.split()) == 0
    path, spec, options = run.calls[0]
    assert (path, options) == (Path("net.pt"), OutputOptions(out=Path("o"), force=True))
    assert spec == CompressSpec(ratio=0.3, data="digits", round_to=16, distill=False, trust_pickle=True)


def test_train_flags_reach_the_spec(run):
    words = "--arch zoo:resnet8 --data digits --max-latency 2.5ms --set watch=[0.3,0.7] --draw epoch:2 --resume"
    assert main(["train", *words.split()]) == 0
    known = {"arch": "zoo:resnet8", "data": "digits"}
    assert run.calls == [
        (
            plan({**known, "max_latency": "2.5ms", "watch": (0.3, 0.7), "at": 2, "method": "early-bird"}),
            OutputOptions(resume=True),
        )
    ]
    for words, settings in (
        ("--watch 0.3 --watch 0.7", {"watch": (0.3, 0.7)}),
        ("--watch 0.3,0.7 --normalised --threshold=.2", {"watch": (0.3, 0.7), "normalised": True, "threshold": 0.2}),
        ("--watch [0.3,0.7] --no-normalised", {"watch": (0.3, 0.7)}),
        ("--method network-slimming --passes 2 --rewind-step 0", {"method": "network-slimming", "passes": 2}),
        ("--rule window --set deadline=0.25", {"rule": "window", "deadline": 0.25}),
    ):
        method = [] if "method" in settings else ["--method", "early-bird"]
        assert main(["train", "--arch", "zoo:resnet8", "--data", "digits", *method, *words.split()]) == 0
        assert run.calls[-1][0] == plan(known | {"method": "early-bird"} | settings), words


def test_a_settings_file_holds_the_method_too(run, tmp_path):
    before = plan({"arch": "zoo:resnet8", "data": "digits", "method": "network-slimming", "passes": 2, "seed": 3})
    config = tmp_path / "run.toml"
    config.write_text(to_toml(before.spec, before.config))
    assert main(["train", "--config", str(config)]) == 0
    assert main(["train", "--config", str(config), "--passes", "3"]) == 0
    assert [call[0] for call in run.calls] == [before, dataclasses.replace(before, config=run.calls[1][0].config)]
    assert run.calls[1][0].config == dataclasses.replace(before.config, passes=3)  # type: ignore[call-arg]


def test_methods_are_listed_with_their_settings(capsys):
    assert main(["methods"]) == 0 and "network-slimming" in capsys.readouterr().out
    assert main(["methods", "scratch"]) == 0 and "longest" in capsys.readouterr().out
    assert main(["methods", "scrach"]) == 2 and "Did you mean scratch?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "engine, setting", [("torch-pruning", {"tracer": "torch-pruning"}), ("openvino", {"runtime": "openvino"})]
)
def test_engine_names_the_tracer_or_the_runtime(run, engine, setting):
    assert main(["compress", "net.pt", "--engine", engine]) == 0
    assert run.calls[0][1] == CompressSpec(**setting)


def test_a_tracer_and_a_runtime_may_both_be_engines(run):
    assert main(["compress", "net.pt", "--engine", "torch-pruning", "--engine", "openvino", "--set", "seed=1"]) == 0
    assert run.calls[0][1] == CompressSpec(tracer="torch-pruning", runtime="openvino", seed=1)


def test_flags_win_over_the_settings_file(run, tmp_path):
    before = CompressSpec(ratio=0.3, cap=0.8, round_to=8, data="digits")
    config = tmp_path / "run.toml"
    config.write_text(to_toml(before))
    assert main(["compress", "net.pt", "--config", str(config)]) == 0
    assert main(["compress", "net.pt", "--config", str(config), "--max-macs", "0.4", "--set", "cap=0.7"]) == 0
    assert run.calls[0][1] == before == from_toml(config.read_text(), CompressSpec)
    assert run.calls[1][1] == CompressSpec(max_macs=0.4, cap=0.7, round_to=8, data="digits")


@pytest.mark.parametrize(
    "words, message",
    [
        ("compress net.pt --ratio 50", "ratio is 50: it must be in [0, 1)"),
        ("compress net.pt --ratio half", "ratio is 'half': it must be a number"),
        ("compress net.pt --ratio 0.5 --max-macs 0.5", "a run has one budget"),
        ("compress net.pt --config missing.toml", "missing.toml: the settings file cannot be read"),
        ("compress net.pt --set ration=0.5", "'ration' in the settings: there is no such setting"),
        ("compress net.pt --engine tensorrt", "engine is 'tensorrt'"),
        (
            "compress net.pt --engine openvino --runtime onnxruntime",
            "runtime is onnxruntime and openvino: it is given twice.\n  Leave one of them out",
        ),
        ("compress net.pt --engine slimkit --tracer torch-pruning", "tracer is torch-pruning and slimkit"),
        ("compress net.pt --engine onnxruntime --engine openvino", "runtime is onnxruntime and openvino"),
        ("inspect net.pt --engine slimkit --tracer torch-pruning", "tracer is torch-pruning and slimkit"),
        ("compress net.pt --set ratio=0.3 --ratio 0.5", "ratio is 0.3 and 0.5: it is given twice"),
        ("compress net.pt --set ratio=0.3 --set ratio=0.5", "ratio is 0.3 and 0.5: it is given twice"),
        ("train --method early-bird --threshold 0.3 --set threshold=0.5", "threshold is 0.5 and 0.3: it is given"),
        ("study --arch zoo:resnet8 --images 9 --set images=8", "images is 8 and 9: it is given twice"),
        (
            "compress net.pt --max-macs 0.5 --latency-table t.json",
            "only to a latency budget.\n  Give --max-latency, in place of --max-macs, for example --max-latency 0.5",
        ),
        (
            "compress net.pt --max-drop 1 --latency-table t.json",
            "only to a latency budget.\n  Give --max-latency, in place of --max-drop, for example --max-latency 0.5",
        ),
        ("compress", "Missing argument 'CHECKPOINT'"),
        ("compress net.pt --ratoi 0.5", "--ratoi"),
        ("compres net.pt", "No such command 'compres'"),
        ("train --data digits", "arch is not set"),
        ("train --method early-bird --arch zoo:resnet8 --data digits --rul window", "Did you mean rule"),
        ("train --arch zoo:resnet8 --data digits --passes 2", "It is one of network-slimming"),
        ("train --arch zoo:resnet8 --data digits window", "'window': there is no such argument"),
        (
            "train --method early-bird --arch zoo:resnet8 --data digits --threshold 2",
            "threshold is 2: it must be in (0, 1]",
        ),
        ("report nowhere", "nowhere: no report can be read there"),
        ("report .", ".: no report can be read there (the folder holds no report.json)"),
        (f"compress net.pt --seed {2**64}", f"seed is {2**64}: it must be below"),
        ("compress net.pt --opset 7", "opset is 7: it must be a whole number, 15 or more"),
    ],
)
def test_what_the_user_can_mend(run, capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("slimkit: ") and message in said.err
    assert "Traceback" not in said.err
    assert run.calls == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        "train --data digits --arch URL", "train --data digits --arch URL:make", "train --arch zoo:resnet8 --data URL",
        "train --arch zoo:resnet8 --data URL/net.py:make", "train --arch zoo:resnet8 --data folder:URL",
        "train --arch zoo:resnet8 --data folder:URL --task segmentation", "evaluate NET --data folder:URL",
        "compress NET --calibration folder:URL", "compress NET --data folder:URL", "inspect NET --arch URL",
    ],
)  # fmt: skip
@pytest.mark.parametrize("url", ["https://example.org/data", "hf://somebody/something"])
def test_nothing_is_fetched_from_a_url(words, url, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = Path(__file__).parents[1] / "model_zoo" / "resnet8-digits.safetensors"
    assert main(words.replace("URL", url).replace("NET", str(net)).split()) == 2
    said = capsys.readouterr().err
    assert url in said and "is a URL, and nothing is fetched from there.\n  Give a path on this machine" in said
    assert list(tmp_path.iterdir()) == []


LONG = "n" * 300


@pytest.mark.parametrize(
    "words",
    [
        f"compress {LONG}.pt", f"compress NET --data folder:{LONG}", f"compress NET --calibration folder:{LONG}",
        f"compress NET --arch {LONG}.py:make", f"compress NET --out {LONG}", f"compress NET --out {LONG[:252]}",
        f"compress NET --config {LONG}", f"compress NET --max-latency 0.5 --latency-table {LONG}", f"inspect {LONG}",
        f"train --arch zoo:resnet8 --data fashion-mnist --data-root {LONG}", f"report {LONG}", f"bench {LONG}",
        f"bench NET --table {LONG}",
        f"evaluate {LONG} --data digits", f"export {LONG}", f"export NET --out {LONG}", f"study {LONG}.toml",
        f"train --arch zoo:resnet8 --data digits --epochs 1 --out {LONG[:252]}",
    ],
    ids=lambda words: words.replace(LONG, "LONG").replace(LONG[:252], "LONG"),
)  # fmt: skip
def test_names_longer_than_a_file_system_takes(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = Path(__file__).parents[1] / "model_zoo" / "resnet8-digits.safetensors"
    assert main(words.replace("NET", str(net)).split()) == 2
    assert "Traceback" not in (said := capsys.readouterr().err) and said.startswith("slimkit: ")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_run_is_one_message(run, capsys):
    run.error = CheckpointError("net.pt: there is no such file.\n  Check the path")
    assert main(["compress", "net.pt"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "slimkit: net.pt: there is no such file.\n  Check the path\n" in said.err


def test_an_interrupt_is_130(run, capsys):
    run.error = KeyboardInterrupt()
    assert main(["compress", "net.pt"]) == 130
    assert "slimkit: interrupted" in capsys.readouterr().err


def test_a_bug_of_ours_is_not_swallowed(run, monkeypatch):
    monkeypatch.setattr(own_code, "_folders", set())  # where other tests looked for functions
    run.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        main(["compress", "net.pt"])


def test_json_is_the_report_and_nothing_else(run, capsys):
    assert main(["compress", "net.pt", "--json"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said) == REPORT.to_dict()
    assert said.lstrip("{\n ").startswith('"schema"')


def test_the_table_says_what_was_gained(run, capsys):
    assert main(["compress", "net.pt"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        milliseconds(REPORT.before.latency_ms.quoted),
        "78.6 % of the removable channels were removed; MACs fell to 0.13.",
    ):
        assert words in said
    assert "Report: resnet8-slim/report.html" in said
    assert "noise" not in said


def test_bench_shows_models_side_by_side(bench, capsys):
    words = "bench a.onnx b.onnx --threads 2 --engine onnxruntime --engine openvino-bf16 --input-shape 3,8,8"
    assert main(words.split()) == 0
    paths = (Path("a.onnx"), Path("b.onnx"))
    assert bench.calls == [(paths, ("onnxruntime", "openvino-bf16"), 2, 1, (3, 8, 8))]
    said = capsys.readouterr().out
    assert "a.onnx" in said and "b.onnx" in said and "openvino-bf16" in said
    assert main(["bench", "a.onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["name"] == "a.onnx"


def test_bench_writes_a_table_and_says_how_to_use_it(bench, capsys):
    words = "bench a.onnx --table t.json --engine openvino --threads 4 --force"
    assert main(words.split()) == 0
    assert bench.calls == [((Path("a.onnx"),), ("openvino",), 4, 1, None), (Path("t.json"), True)]
    said = " ".join(capsys.readouterr().out.split())
    assert "Table: t.json, 21 layers, 36.1 ms in all, in CPU time" in said
    assert "--max-latency 0.5 --latency-table t.json --engine openvino --threads 4" in said
    assert main(["bench", "a.onnx", "--table", "t.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["table"]["path"] == "t.json"


@pytest.mark.parametrize(
    "words, message",
    [
        ("bench a.onnx b.onnx --table t.json", "--table with 2 models: a table is of one network on one engine"),
        ("bench a.onnx --table t.json --engine onnxruntime --engine openvino", "--table with 2 engines"),
        ("bench a.onnx --input-shape 3x8x8", "input_shape is '3x8x8': it must be C,H,W"),
    ],
)
def test_what_bench_refuses(bench, capsys, words, message):
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert message in said.err and said.out == "" and bench.calls == []


def test_only_rank_0_of_a_distributed_run_speaks(run, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["compress", "net.pt"]) == 0
    assert capsys.readouterr().out == ""


def test_python_m_slimkit_and_statuses():
    def run(*words):
        return subprocess.run([sys.executable, "-m", "slimkit", *words], capture_output=True, text=True, env=os.environ)

    assert run("--version").stdout.startswith("slimkit, version ")
    assert run().returncode == 0
    refused = run("compress", "net.pt", "--ratio", "2")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("slimkit: ratio is 2: it must be in [0, 1)")


def in_shell(command, **environment):
    return subprocess.run(
        ["bash", "-c", command.replace("slimkit", f"{sys.executable} -m slimkit", 1)],
        capture_output=True, text=True, env={**os.environ, **environment}, timeout=300,
    )  # fmt: skip


def test_a_full_disk_behind_standard_output():
    done = in_shell("slimkit --help > /dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (2, 2)
    assert "cannot be printed (No space left on device)" in done.stderr


def test_a_reader_that_stops_reading():
    done = in_shell("slimkit compress --help | true; echo ${PIPESTATUS[0]}")
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "1")  # as the pipe was read before it closed, or not


@pytest.mark.long
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("words", "status"), [(f"inspect {NETWORK}", 0), ("methods", 0), ("inspect none.pt", 2)])
def test_without_streams_it_ends_as_with_those_to_nowhere(closed, words, status):
    done = in_shell(f"slimkit {words} {closed}")
    assert done.returncode == status
    assert "Traceback" not in done.stdout + done.stderr


def test_files_do_not_take_the_numbers_of_streams_that_are_not_there(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import os, sys\n"
        "def make():\n"
        f"    with open({str(tmp_path / 'said')!r}, 'w') as said:\n"
        "        print(said.fileno() > 2, os.write(2, b'x'), file=said)\n"
        "    sys.exit()\n"
    )
    in_shell(f"slimkit compress {NETWORK} --data {file}:make <&- >&- 2>&-")
    assert (tmp_path / "said").read_text() == "True 1\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_terminals_of_few_characters(encoding, tmp_path):
    path = tmp_path / "\u5f35.pt"
    path.write_bytes(b"")
    done = in_shell(f"slimkit inspect {path}", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert ".pt: the file is empty" in done.stderr
    assert "\u5f35" not in done.stderr or encoding == "ascii"  # click takes ASCII for a mistake and writes UTF-8
