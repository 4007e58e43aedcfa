"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimkit.errors import OutputError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a place beside a file to write to, which takes the file's place when the block ends well.

    Whatever ends the block early, what was there stays and nothing else is left. Of a link the file that it points to
    is replaced; a pipe or a device is written to as it is.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.name[:100]}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


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
