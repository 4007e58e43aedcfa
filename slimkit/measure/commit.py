"""The commit that slimkit was run from, where it is run from a checkout."""

import subprocess
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


@cache
def commit() -> str | None:
    """Return the short hash of slimkit's own checkout, with a plus where its files differ from it; None elsewhere."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=_PACKAGE, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != _PACKAGE.parent.resolve():
            return None  # installed within somebody else's checkout
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", "../model_zoo")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
