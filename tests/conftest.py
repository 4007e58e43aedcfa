"""One thread for every test: two threads on busy cores can be ten times slower than one."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
