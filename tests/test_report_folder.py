"""The output folder: refused before any work, all or nothing, never a trace of what failed."""

import errno
from pathlib import Path

import pytest

from slimkit.errors import OutputError
from slimkit.runs.output import claim


def listing(folder: Path) -> list[str]:
    return sorted(str(entry.relative_to(folder)) for entry in folder.rglob("*"))


def test_the_result_appears_only_at_the_end(tmp_path):
    out = tmp_path / "new" / "run"
    with claim(out) as work:
        (work / "report.json").write_text("{}")
        assert not out.exists()
        assert work.parent == out.parent
    assert listing(tmp_path) == ["new", "new/run", "new/run/report.json"]


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
        ("run", False, "exists already.*\n.*--force"),
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
    assert listing(tmp_path) == ["run", "run/report.json"]
    assert (out / "report.json").read_text() == "new"


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


def test_what_appears_in_the_meantime_is_not_overwritten(tmp_path):
    with pytest.raises(OutputError, match="cannot be moved"), claim(tmp_path / "run") as work:
        (work / "report.json").write_text("ours")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "theirs").write_text("x")
    assert listing(tmp_path) == ["run", "run/theirs"]


def test_an_error_that_already_says_what_to_do_is_left_as_it_is(tmp_path):
    with pytest.raises(OutputError, match="go on with --resume"), claim(tmp_path / "run"):
        raise OutputError("go on with --resume") from OSError(errno.ENOSPC, "No space left on device")
