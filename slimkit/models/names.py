"""Which names of modules, parameters and buffers are taken from a file.

torch.fx and torch.export paste such names into source code that is run, and messages show them: they are plain.
"""

import re

_PART = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)
_MOST = 100  # parts of a path


def is_plain(path: object) -> bool:
    """Tell whether a dotted path consists of letters, digits, `_` and `-`; the empty path is the network."""
    if not isinstance(path, str) or path.count(".") >= _MOST:
        return False
    return path == "" or all(_PART.fullmatch(part) for part in path.split("."))
