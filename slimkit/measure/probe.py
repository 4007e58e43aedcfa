"""Try a foreign ONNX file in a process of its own, before it is opened in ours.

An engine runs what the file says: a loop without end, a layer of all memory, an operator that brings it down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from slimkit.errors import EngineError, SlimkitError
from slimkit.measure.engines import open_runner
from slimkit.measure.latency import random_batch
from slimkit.measure.onnx_bytes import bytes_of_onnx
from slimkit.settings.data import Shapes

SECONDS = 60.0  # the largest network of torchvision takes 2 s on one old core
_FACTOR, _FLOOR = 16, 8 * 2**30  # bytes of address space: times the file, and for the engine itself
_REFUSED = 2


def check(
    path: Path,
    engine: str = "onnxruntime",
    input_shape: Shapes | None = None,
    batch: int = 1,
    seconds: float = SECONDS,
) -> None:
    """Open a file in an engine and compute one batch, elsewhere and within bounds.

    Args:
        path, engine, input_shape, batch: as for `latency.measure`.
        seconds: how long that may take.

    Raises:
        EngineError: the file cannot be read or run, takes too long or too much memory, or brings the engine down.
    """
    words = json.dumps([str(path), engine, input_shape, batch])
    command = [sys.executable, "-P", "-m", "slimkit.measure.probe", words]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # modules come from where this process has them
    try:
        done = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"{path}: one inference in {engine} does not end within {seconds:.0f} s.\n  Give a file that does"
        ) from None
    if done.returncode == _REFUSED:
        raise EngineError(done.stderr.strip().rpartition("\0")[2])
    if done.returncode:
        raise EngineError(
            f"{path}: {engine} comes down on it (exit status {done.returncode}).\n  Give a file that it can run"
        )


def _bound(size: int) -> None:
    """Bound the address space of this process for a file of so many bytes."""
    import resource  # of POSIX systems

    most, (_, hard) = max(_FLOOR, _FACTOR * size), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _try(path: str, engine: str, input_shape: list[int] | dict[str, list[int]] | None, batch: int) -> None:
    file = Path(path)
    try:
        _bound(file.stat().st_size if file.is_file() else 0)
        if file.is_file():
            _bound(bytes_of_onnx(file))  # with the weights that it keeps in others
        runner = open_runner(path, engine)
        shapes: Any = tuple(input_shape) if isinstance(input_shape, list) else input_shape
        runner.run(random_batch(path, runner, shapes, batch))
    except SlimkitError as error:
        wrong = str(error)
    except Exception as error:  # engines have no base class of their own
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        wrong = f"{path}: {engine} cannot run it ({line[:300]}).\n  Give a network that it can run"
    else:
        return
    print(f"\0{wrong}", file=sys.stderr)  # after whatever the engine wrote there
    sys.exit(_REFUSED)


if __name__ == "__main__":
    _try(*json.loads(sys.argv[1]))
