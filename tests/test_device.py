"""Everything that may run on a GPU runs on a second device, which the C++ compiler makes where there is no GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).with_name("device")
sys.path.insert(0, str(HERE))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_a_second_device_does_what_the_cpu_does(tmp_path: Path) -> None:
    import second  # type: ignore[import-not-found]

    library = second.build(tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "on_second_device.py")],
        env=os.environ | {"SECOND_DEVICE": str(library), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
