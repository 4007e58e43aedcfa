"""Everything that may run on a GPU runs on one, where there is one, and on a second device that the compiler makes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).with_name("device")
sys.path.insert(0, str(HERE))


def same_as_on_the_cpu(device: str) -> None:
    """Hold a device against the CPU, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "on_second_device.py")],
        env=os.environ | {"SECOND_DEVICE": device, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_a_second_device_does_what_the_cpu_does(tmp_path: Path) -> None:
    import second  # type: ignore[import-not-found]

    same_as_on_the_cpu(str(second.build(tmp_path)))


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_does_what_the_cpu_does() -> None:
    same_as_on_the_cpu("cuda")
