"""`python -m slimkit`: the command, where no console script is on the path."""

import sys

from slimkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
