"""`python -m slimkit`: the command, where no console script is on the path."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not sys.flags.safe_path and Path.cwd() != Path(__file__).parents[1]:
        del sys.path[0]  # the current folder, which Python puts there: a file in it may be called as a library is
    from slimkit.cli import main

    sys.exit(main())
