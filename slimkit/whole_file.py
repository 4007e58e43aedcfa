"""Files that are written whole or not at all."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slimkit.errors import OutputError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a place beside a file to write to, which takes the file's place when the block ends well.

    Whatever ends the block early, what was there stays and nothing else is left; what is new is on the disk before it
    takes the place. Of a link the file that it points to is replaced; a pipe or a device gets all at the end.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        with tempfile.TemporaryDirectory() as elsewhere:
            part = Path(elsewhere) / path.name
            yield part
            with part.open("rb") as made, path.open("wb") as out:
                shutil.copyfileobj(made, out)
        return
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.name[:100]}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)  # safetensors makes it private
        with part.open("rb") as made:
            os.fsync(made.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def refuse_inputs(path: Path, inputs: Iterable[Path], name: str) -> None:
    """Refuse to write a file over one that is read, by whatever path or link.

    Args:
        path: of what is to be written.
        inputs: what is read.
        name: of the argument that gives `path`, for the message.

    Raises:
        OutputError: it is one of the inputs.
    """
    if path.exists() and any(one.exists() and path.samefile(one) for one in inputs):
        raise OutputError(f"{path}: it is read here, and would be lost.\n  Give another `{name}`")


def check_free(path: Path, force: bool, ours: Callable[[Path], bool], name: str) -> None:
    """Check that a file may be written: nothing is there, or, with `force`, one that slimkit wrote.

    Args:
        path: of what is to be written.
        force: replace an earlier one.
        ours: tells of a file whether it is such an earlier one.
        name: of the argument that gives `path`, for the message.

    Raises:
        OutputError: a file is there without `force`, or one of somebody else's, or a folder.
    """
    if path.is_dir():
        raise OutputError(f"{path}: it is a folder, but a file is to be written.\n  Give another `{name}`")
    if path.exists() and not force:
        raise OutputError(f"{path}: the file exists already.\n  Give another `{name}`, or `force=True` to replace it")
    if path.is_file() and not ours(path):
        raise OutputError(
            f"{path}: slimkit did not write it, so it is not replaced.\n  Give another `{name}`, or move it away"
        )


def write_whole(path: Path, content: str | bytes, what: str) -> None:
    """Write a file that is called so in messages, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with whole(path) as part:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OutputError(
            f"{path}: {what} cannot be written ({error.strerror or error}).\n"
            "  Make room, or choose another place with `out`"
        ) from error
