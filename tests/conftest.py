"""One thread for every test: two threads on busy cores can be ten times slower than one; and what all tests share."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

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
