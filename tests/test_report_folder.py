"""The output folder: refused before any work, all or nothing, never a trace of what failed."""

import errno
from pathlib import Path

import pytest

from slimkit.cli import main
from slimkit.errors import OutputError
from slimkit.report import rebuild
from slimkit.runs.folder.output import MANIFEST, claim

WORDS = "--arch zoo:resnet8 --data digits --method scratch --epochs 1 --force"


def listing(folder: Path) -> list[str]:
    return sorted(str(entry.relative_to(folder)) for entry in folder.rglob("*"))


def test_the_result_appears_only_at_the_end(tmp_path):
    out = tmp_path / "new" / "run"
    with claim(out) as work:
        (work / "report.json").write_text("{}")
        assert not out.exists()
        assert work.parent == out.parent
    assert listing(tmp_path) == ["new", "new/run", f"new/run/{MANIFEST}", "new/run/report.json"]


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(tmp_path, end):
    with pytest.raises(end), claim(tmp_path / "a" / "b" / "run") as work:
        (work / "model.onnx").write_text("half")
        raise end
    assert listing(tmp_path) == []


def test_what_exists_is_refused_and_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text("old")
    (tmp_path / "file").write_text("mine")
    for name, force, words in (
        ("run", False, "(?s)exists already.*force=True"),
        ("file", False, "it is a file"),
        ("file", True, "it is a file"),
        ("file/run", False, "cannot be made"),
    ):
        with pytest.raises(OutputError, match=words), claim(tmp_path / name, force):
            pytest.fail("the work was begun")
    assert (tmp_path / "file").read_text() == "mine"
    assert listing(tmp_path) == ["file", "run", "run/report.json"]


def test_force_replaces_only_after_success(tmp_path):
    out = tmp_path / "run"
    with claim(out) as work:
        (work / "report.json").write_text("old")
        (work / "model.pt2").write_text("old")
    with pytest.raises(RuntimeError), claim(out, force=True) as work:
        raise RuntimeError
    assert (out / "report.json").read_text() == "old"
    with claim(out, force=True) as work:
        (work / "report.json").write_text("new")
        assert (out / "report.json").read_text() == "old"
    assert listing(tmp_path) == ["run", f"run/{MANIFEST}", "run/report.json"]
    assert (out / "report.json").read_text() == "new"


def test_a_folder_among_the_files_is_ours_and_what_was_put_into_it_is_not(tmp_path):
    out = tmp_path / "run"

    def write(force):
        with claim(out, force) as work:
            (work / "model.mlpackage" / "Data").mkdir(parents=True)
            (work / "model.mlpackage" / "Data" / "weights.bin").write_bytes(b"1")

    write(False)
    write(True)
    for other in (out / "model.mlpackage" / "mine.txt", out / "model.mlpackage" / "Data" / "weights.bin"):
        before = other.read_bytes() if other.exists() else None
        other.write_text("mine")
        with pytest.raises(OutputError, match=other.name):
            write(True)
        assert other.read_text() == "mine"
        other.unlink() if before is None else other.write_bytes(before)
    write(True)


def test_force_does_not_take_the_run_whose_widths_are_read(tmp_path, capsys):
    out = tmp_path / "run"
    with claim(out) as work:
        (work / "report.json").write_text("{}")
    assert main(["train", *WORDS.split(), "--like", str(out), "--out", str(out)]) == 2
    assert "report.json lies in it, which this run reads" in capsys.readouterr().err
    assert (out / "report.json").exists()


def test_force_does_not_take_what_is_not_ours(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="thesis.tex"), claim(tmp_path, force=True):
        pytest.fail("the work was begun")
    assert listing(tmp_path) == ["thesis.tex"]


def test_a_place_that_cannot_be_written():
    with pytest.raises(OutputError, match="cannot be made"), claim(Path("/proc/slimkit-out")):
        pytest.fail("the work was begun")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk(tmp_path, error):
    with pytest.raises(OutputError, match="the disk is full") as caught, claim(tmp_path / "run"):
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("unexpected position in the file") from inner
    assert "Free some space" in str(caught.value)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("force", [False, True])
def test_what_appears_in_the_meantime_is_not_overwritten_and_the_result_not_lost(tmp_path, force):
    with pytest.raises(OutputError, match="cannot be moved") as caught, claim(tmp_path / "run", force) as work:
        (work / "report.json").write_text("ours")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "theirs").write_text("x")
    theirs, ours = sorted((entry for entry in tmp_path.iterdir()), key=lambda entry: len(entry.name))
    assert listing(theirs) == ["theirs"]
    assert listing(ours) == [MANIFEST, "report.json"]
    assert str(ours) in str(caught.value)


def earlier(out: Path) -> Path:
    with claim(out) as work:
        for name in ("model.onnx", "report.html", "report.json"):
            (work / name).write_text(name)
    return out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda out: (out / "model.onnx").write_text("my own"), "model.onnx"),
        (lambda out: (out / "model.safetensors").write_text("my own"), "model.safetensors"),
        (lambda out: ((out / "report.html").unlink(), (out / "report.html").mkdir()), "report.html"),
        (lambda out: (out / "run.toml").symlink_to(out / "report.json"), "run.toml"),
        (lambda out: (out / MANIFEST).unlink(), "model.onnx"),
        (lambda out: (out / MANIFEST).write_text("[" * 10**5), "model.onnx"),
        (lambda out: (out / MANIFEST).write_text('{"schema": "slimkit.manifest/1", "files": 3}'), "model.onnx"),
    ],
)
def test_ours_is_what_carries_our_mark_not_what_bears_our_names(change, named, tmp_path):
    out = earlier(tmp_path / "run")
    change(out)
    before = listing(out)
    with pytest.raises(OutputError, match=named), claim(out, force=True):
        pytest.fail("the work was begun")
    assert listing(out) == before


def test_a_page_that_was_drawn_again_is_still_ours(tmp_path):
    out = earlier(tmp_path / "run")
    (out / "report.html").write_text("drawn again")
    with claim(out, force=True) as work:
        (work / "report.json").write_text("new")
    assert listing(out) == [MANIFEST, "report.json"]


def test_an_input_is_never_in_what_is_replaced(tmp_path):
    out = earlier(tmp_path / "run")
    (tmp_path / "link.pt").symlink_to(out / "model.onnx")
    for name in (out / "model.onnx", tmp_path / "link.pt"):
        with pytest.raises(OutputError, match="which this run reads"), claim(out, force=True, inputs=[name]):
            pytest.fail("the work was begun")
    assert (out / "model.onnx").read_text() == "model.onnx"


def test_a_link_is_not_replaced(tmp_path):
    out = earlier(tmp_path / "run")
    (tmp_path / "link").symlink_to(out)
    for force in (False, True):
        with pytest.raises(OutputError, match="is a link to"), claim(tmp_path / "link", force):
            pytest.fail("the work was begun")


def test_two_runs_to_one_folder(tmp_path):
    """The second one is a process of its own, as locks are of processes."""
    import subprocess
    import sys

    code = (
        "import sys, pathlib\n"
        "from slimkit.runs.folder.output import claim\n"
        "with claim(pathlib.Path(sys.argv[1])) as work:\n"
        "    print('working', flush=True); sys.stdin.read()\n"
    )
    out = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout.readline() == "working\n"
        with pytest.raises(OutputError, match=rf"process {first.pid} on "), claim(out):
            pytest.fail("the work was begun")
        first.kill()  # leaves its folder and its lock
        first.wait()
    left = [name for name in listing(tmp_path) if name.startswith(".run.")]
    assert {Path(name).suffix for name in left} == {".partial", ".lock"}
    earlier(out)
    assert listing(tmp_path) == ["run", *(f"run/{n}" for n in (MANIFEST, "model.onnx", "report.html", "report.json"))]


def test_killed_between_the_two_moves(tmp_path):
    out = earlier(tmp_path / "run")
    out.rename(tmp_path / ".run.0123abcd.old")
    (tmp_path / ".run.0123abcd.partial").mkdir()
    with pytest.raises(OutputError, match="exists already"), claim(out):
        pytest.fail("the work was begun")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run"]


def test_an_error_that_already_says_what_to_do_is_left_as_it_is(tmp_path):
    with pytest.raises(OutputError, match="go on with `resume=True`"), claim(tmp_path / "run"):
        raise OutputError("go on with `resume=True`") from OSError(errno.ENOSPC, "No space left on device")


def test_a_run_is_not_compared_with_itself(tmp_path):
    (tmp_path / "run").mkdir()
    for same in (tmp_path / "run", tmp_path / "run" / "report.json", tmp_path / "run" / ".." / "run"):
        with pytest.raises(OutputError, match="is the same run as .*\n  Give each run once"):
            rebuild.rebuild([tmp_path / "run", same], tmp_path / "page.html")
