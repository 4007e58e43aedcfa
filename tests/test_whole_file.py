"""Files beside a run are written whole or not at all: what was there before a disk is full stays."""

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

import slimkit
from slimkit import zoo
from slimkit.errors import OutputError
from slimkit.report.rebuild import rebuild
from slimkit.results import report_file, study_file
from slimkit.whole_file import write_whole
from tests.report_sample import bare_report
from tests.study_sample import arm


@contextmanager
def full() -> Iterator[None]:
    """Bound the size of files, which is as full as a disk gets in a test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def runs(root: Path) -> list[Path]:
    homes = [root / "first", root / "second"]
    for home in homes:
        home.mkdir()
        report_file.write(bare_report(), home)
    return homes


def of_study(root: Path) -> list[Path]:
    study_file.write(root / study_file.NAME, [arm("plain", 300, seed) for seed in range(2)])
    return [root]


PRECIOUS = "<!doctype html><footer>Written by slimkit 0.0.0, and dear to somebody.</footer>"
WRITERS: dict[str, tuple[str, Callable[[Path], list[Path]], Callable[[Path, list[Path]], object]]] = {
    "a run": ("first/report.html", runs, lambda path, homes: rebuild(homes[:1])),
    "a run, elsewhere": ("page.html", runs, lambda path, homes: rebuild(homes[:1], path, force=True)),
    "a comparison": ("page.html", runs, lambda path, homes: rebuild(homes, path, force=True)),
    "a study": ("study.html", of_study, lambda path, homes: rebuild(homes)),
    "any text": ("text", lambda root: [], lambda path, homes: write_whole(path, "x" * 9000, "the text")),
}


@pytest.mark.parametrize("there", [True, False], ids=["there", "new"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there(name: str, there: bool, tmp_path: Path) -> None:
    file, prepare, write = WRITERS[name]
    homes, path = prepare(tmp_path), tmp_path / file
    if there:
        path.write_text(PRECIOUS)
    before = sorted(tmp_path.rglob("*"))
    with full(), pytest.raises(OutputError, match=r"(?s)cannot be written \(File too large\).*Make room"):
        write(path, homes)
    assert sorted(tmp_path.rglob("*")) == before
    assert not there or path.read_text() == PRECIOUS
    write(path, homes)
    assert path.stat().st_size > 4096


def test_links_stay_links_and_pipes_pipes(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole(tmp_path / "link", "text", "the text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_whole(tmp_path / "pipe", "text", "the text")
    reader.join()
    assert said == ["text"] and (tmp_path / "pipe").is_fifo()


WRITTEN: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_whole(path, "text", "the text"),
    "slim": lambda path: slimkit.save(slimkit.load(zoo.CHECKPOINTS["resnet8-digits"]), path),
    "onnx": lambda path: slimkit.export_onnx(nn.Sequential(nn.Conv2d(1, 2, 3)).eval(), path, torch.zeros(1, 1, 4, 4)),
}


@pytest.mark.parametrize("mask", [0o022, 0o077])
@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_every_file_follows_links_is_on_the_disk_and_as_open_as_others(
    write: Callable[[Path], object], mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link was replaced, and the file that it points to left as it was, by two of three mechanisms."""
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), real(handle)))
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text("old")
    before = os.umask(mask)
    try:
        write(tmp_path / "link")
    finally:
        os.umask(before)
    written = (tmp_path / "file").stat()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() != b"old"
    assert written.st_ino in synced and written.st_mode & 0o777 == 0o666 & ~mask
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
