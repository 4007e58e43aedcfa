"""The output folder of a run: claimed before any work, moved in place when all is done, ours by its manifest."""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from slimkit.errors import OutputError

MANIFEST = ".manifest.json"
SCHEMA = "slimkit.manifest/1"
_REDRAWN = "report.html"  # `slimkit report` writes it anew, from report.json
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_WORDS = ("no space left", "quota exceeded", "file too large")  # of libraries that raise no OSError


@contextmanager
def claim(out: Path, force: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Give a temporary folder beside `out` to write into; move it in place when the block ends well.

    With `force` a folder at `out` is replaced, but only then, and only if a run of slimkit wrote all that is in it.
    Whatever ends the block early, an interrupt too, removes the temporary folder and leaves `out` as it was; what a
    killed run left is removed by the next one. While the block runs, no other run can claim `out`.

    Args:
        out: the folder.
        force: replace the output of an earlier run.
        inputs: files that the run reads: none may lie in what is replaced.

    Raises:
        OutputError: before the block: `out` exists (without `force`), is a file or a link, holds files that are not
            ours or an input, is being written by another run, or cannot be written; in or after the block: the disk
            is full.
    """
    out = Path(os.path.abspath(out))
    missing = [folder for folder in out.parents if not folder.exists()]
    work = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    try:
        with _writable(out, missing), locked(out):
            _recover(out)
            _check(out, force, inputs)
            read = {path.name: _digest(path) for path in inputs if path.is_file()}
            _make(work, out)
            with _told_when_full(out, "nothing was written.\n  Free some space, or give another `out`"):
                yield work
            _move_in_place(work, out, force, inputs, read)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for folder in missing:  # the innermost first; those that now hold the result stay
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _told_when_full(out: Path, what: str) -> Iterator[None]:
    """Say what a full disk means for a folder."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutputError) or not disk_is_full(error):
            raise
        raise OutputError(f"{out}: the disk is full; {what}") from error


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


@contextmanager
def _writable(out: Path, missing: Sequence[Path]) -> Iterator[None]:
    """Make the folder that `out` is to lie in."""
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _unmade(out, error) from None
    yield


def _unmade(out: Path, error: OSError) -> OutputError:
    hint = "Free some space, or give" if error.errno in _FULL else "Give"
    return OutputError(f"{out}: the output folder cannot be made ({error.strerror}).\n  {hint} another `out`")


@contextmanager
def kept(out: Path, resume: bool = False) -> Iterator[Path]:
    """Give a folder to which a long run adds as it goes, so that what it has is there when it is killed.

    Args:
        out: the folder; while the block runs, no other run can write there.
        resume: it may be there, and hold what an earlier run has left.

    Raises:
        OutputError: it is there (without `resume`), is a file or a link, is being written by another run, cannot be
            written, or the disk is full.
    """
    out = Path(os.path.abspath(out))
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    with _writable(out, missing[1:] if out in missing else missing), locked(out):
        if os.path.lexists(out) and (out.is_symlink() or not out.is_dir()):
            _check(out, False, ())
        if out.is_dir() and not resume and any(out.iterdir()):
            raise OutputError(f"{out}: the folder exists already.\n  Go on in it: `resume=True`, or give another `out`")
        try:
            rest = "what was finished is kept.\n  Free some space, and go on: `resume=True`"
            with _writable(out, [out]), _told_when_full(out, rest):
                yield out
        finally:
            for folder in missing:  # the innermost first; those that hold something stay
                with suppress(OSError):
                    folder.rmdir()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other runs from `out`; the system takes the lock away from a run that is killed."""
    path = out.parent / f".{out.name}.lock"
    try:
        file = _open_lock(path)
    except BlockingIOError:
        with suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
            holder = json.loads(path.read_text())
            raise OutputError(
                f"{out}: another run writes there (process {holder['process']} on {holder['host']}).\n"
                "  Wait for it, or give another `out`"
            ) from None
        raise OutputError(f"{out}: another run writes there.\n  Wait for it, or give another `out`") from None
    except OSError as error:
        raise _unmade(out, error) from None
    with file:
        file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _open_lock(path: Path) -> IO[str]:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the run that held it removed it in between


def _recover(out: Path) -> None:
    """Put back, or remove, what a killed run left beside `out`: nobody writes there while the lock is ours."""
    left = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{8}}\.(partial|old)")
    for folder in sorted(out.parent.iterdir()):
        found = left.fullmatch(folder.name)
        if found is None or folder.is_symlink():
            continue
        if found[1] == "old" and not os.path.lexists(out):
            folder.rename(out)  # killed between the two moves
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _make(work: Path, out: Path) -> None:
    try:
        work.mkdir()
        (work / ".writable").write_bytes(b"x")
        (work / ".writable").unlink()
    except OSError as error:
        raise _unmade(out, error) from None


def _check(out: Path, force: bool, inputs: Sequence[Path]) -> None:
    if not os.path.lexists(out):
        return
    if out.is_symlink():
        raise OutputError(
            f"{out}: it is a link to {os.readlink(out)}, and a run replaces folders.\n  Give the folder itself"
        )
    if not out.is_dir():
        raise OutputError(f"{out}: it is a file, but the output is a folder.\n  Give another `out`")
    if not force:
        raise OutputError(
            f"{out}: the output folder exists already.\n  Give another `out`, or replace it: `force=True`"
        )
    for path in inputs:
        if out.resolve() in path.resolve().parents:
            raise OutputError(
                f"{out}: {path} lies in it, which this run reads, so it is not replaced.\n  Give another `out`"
            )
    foreign = _foreign(out)
    if foreign:
        raise OutputError(
            f"{out}: it holds files that slimkit did not write, or that were changed since "
            f"({', '.join(foreign[:3])}), so it is not replaced.\n  Give another `out`, or move them away"
        )


def note(work: Path, about: Mapping[str, Any]) -> None:
    """Write into a claimed folder of what its output is made, for `about` to give; JSON-able."""
    (work / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "about": about}), encoding="utf-8")


def about(out: Path) -> dict[str, Any]:
    """Return what the run noted of whose output `out` is; nothing where it noted nothing."""
    return _noted(out, "about")


def changed(out: Path, inputs: Sequence[Path]) -> list[Path]:
    """List the files that are not as the run read them whose complete output is in `out`."""
    read = _noted(out, "read")
    return [path for path in inputs if path.is_file() and read.get(path.name) not in (None, _digest(path))]


def _noted(out: Path, part: str) -> dict[str, Any]:
    """Return a part of the manifest in a folder; nothing where there is none, or one of somebody else's."""
    try:
        manifest: Any = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    noted = manifest.get(part) if isinstance(manifest, dict) and manifest.get("schema") == SCHEMA else {}
    return noted if isinstance(noted, dict) else {}


def _foreign(out: Path) -> list[str]:
    """List what in a folder no run of slimkit wrote, by the manifest in it; of a folder in it, what that holds."""
    ours, found = _noted(out, "files"), [path for path in out.rglob("*") if path.is_symlink() or not _full(path)]
    named = {path.relative_to(out).as_posix(): path for path in found}
    return sorted(name for name, path in named.items() if name != MANIFEST and not _is_ours(path, ours.get(name)))


def _full(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


def _is_ours(path: Path, digest: object) -> bool:
    if digest is None or path.is_symlink() or not path.is_file():
        return False
    return path.name == _REDRAWN or _digest(path) == digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move_in_place(work: Path, out: Path, force: bool, inputs: Sequence[Path], read: dict[str, str]) -> None:
    """Move the result to `out`; where something else came to lie there in the meantime, beside it."""
    old = work.with_suffix(".old")
    try:
        made = sorted(path for path in work.rglob("*") if path.is_file() and path != work / MANIFEST)
        files = {path.relative_to(work).as_posix(): _digest(path) for path in made}
        manifest = {"schema": SCHEMA, "files": files, "read": read, "about": about(work)}
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        _check(out, force, inputs)
        if out.is_dir():
            out.rename(old)
        work.rename(out)
    except (OSError, OutputError) as error:
        if old.exists():
            old.rename(out)
        beside = out.with_name(f"{out.name}{work.suffixes[-2]}")
        with suppress(OSError):
            work.rename(beside)
        why = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise OutputError(
            f"{out}: the result cannot be moved in place ({why}).\n  It lies in {beside} instead"
        ) from error
    shutil.rmtree(old, ignore_errors=True)
