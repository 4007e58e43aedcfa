"""One thread for every test: two threads on busy cores can be ten times slower than one; and what all tests share."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# The same examples each time, however long one takes, or is drawn: a busy machine is no fault of a test.
settings.register_profile("slimkit", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slimkit")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def wide_vectors() -> Iterator[None]:
    """Let widths be those of a machine with AVX-512, whatever machine this is: figures in tests are of such."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slimkit.runs.start.preferred_step", lambda: 16)
        yield
