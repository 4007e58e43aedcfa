"""Which names of modules, parameters and buffers are taken from a file.

Where the file holds the modules themselves, torch.fx and torch.export paste their names into source code that is run:
they are plain. Where it only names modules of a network that its architecture builds, messages show them.
"""

import re

_LONGEST = 200  # letters of a part
_PART = re.compile(rf"[A-Za-z0-9_-]{{1,{_LONGEST}}}", re.ASCII)
_MOST = 100  # parts of a path
_QUOTES = set("\"'\\")


def is_plain(path: object) -> bool:
    """Tell whether a dotted path consists of letters, digits, `_` and `-`; the empty path is the network."""
    if not isinstance(path, str) or path.count(".") >= _MOST:
        return False
    return path == "" or all(_PART.fullmatch(part) for part in path.split("."))


def is_shown(path: object) -> bool:
    """Tell whether a dotted path can stand in a message: none of it moves a cursor, turns text, or ends a quotation."""
    return (
        isinstance(path, str)
        and path.isprintable()
        and not _QUOTES & set(path)
        and path.count(".") < _MOST
        and all(len(part) <= _LONGEST for part in path.split("."))
    )
