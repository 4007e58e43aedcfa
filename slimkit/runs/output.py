"""The output folder of a run: checked before any work, moved in place when all is done."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slimkit.errors import OutputError

FILES = (
    "model.onnx",
    "model.int8.onnx",
    "model.safetensors",
    "model.pt2",
    "report.json",
    "report.html",
    "run.toml",
)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_WORDS = ("no space left", "quota exceeded", "file too large")  # of libraries that raise no OSError


@contextmanager
def claim(out: Path, force: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `out` to write into; move it in place when the block ends well.

    With `force` an earlier run's folder at `out` is replaced, but only then. Whatever ends the block early,
    an interrupt too, removes the temporary folder and leaves `out` as it was.

    Raises:
        OutputError: before the block: `out` exists (without `force`), is a file, holds files that are not
            ours, or cannot be written; in or after the block: the disk is full.
    """
    out = Path(os.path.abspath(out))
    _check(out, force)
    missing = [folder for folder in out.parents if not folder.exists()]
    work = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    try:
        try:
            work.mkdir(parents=True)
            (work / ".writable").write_bytes(b"x")
            (work / ".writable").unlink()
        except OSError as error:
            hint = "Free some space, or give" if error.errno in _FULL else "Give"
            raise OutputError(
                f"{out}: the output folder cannot be made ({error.strerror}).\n  {hint} another --out"
            ) from None
        try:
            yield work
        except Exception as error:
            if isinstance(error, OutputError) or not disk_is_full(error):
                raise
            raise OutputError(
                f"{out}: the disk is full; nothing was written.\n  Free some space, or give another --out"
            ) from error
        _move_in_place(work, out, force)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for folder in missing:  # the innermost first; those that now hold the result stay
            with suppress(OSError):
                folder.rmdir()


def disk_is_full(error: BaseException | None) -> bool:
    """Tell whether an exception, or what it came from, says that the disk is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(words in str(error).lower() for words in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _check(out: Path, force: bool) -> None:
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise OutputError(f"{out}: it is a file, but the output is a folder.\n  Give another --out")
    if not force:
        raise OutputError(f"{out}: the output folder exists already.\n  Give another --out, or --force to replace it")
    foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in FILES)
    if foreign:
        raise OutputError(
            f"{out}: it holds files that slimkit did not write ({', '.join(foreign[:3])}), "
            "so --force does not replace it.\n  Give another --out, or move them away"
        )


def _move_in_place(work: Path, out: Path, force: bool) -> None:
    old = work.with_suffix(".old")
    try:
        if force and out.is_dir():
            out.rename(old)
        work.rename(out)
    except OSError as error:
        if old.exists():
            old.rename(out)
        raise OutputError(f"{out}: the result cannot be moved in place ({error.strerror}).") from error
    shutil.rmtree(old, ignore_errors=True)
