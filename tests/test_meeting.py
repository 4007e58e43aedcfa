"""Processes that train together, when some of them have died."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Timer

import pytest
from torch._C._distributed_c10d import HashStore, Store, TCPStore

from slimkit.training import meeting

SOON = timedelta(seconds=20)


def met(store: Store, ranks: int, order: list[int]) -> set[str]:
    with ThreadPoolExecutor(ranks) as threads:
        found = [threads.submit(meeting.meet, store, rank, ranks, SOON) for rank in order]
        return {one.result() for one in found}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_processes_agree_on_a_name_and_those_that_are_started_again_on_another(order: list[int]) -> None:
    store = HashStore()
    (first,), (second,) = met(store, 3, order), met(store, 3, order)
    assert first != second


@pytest.mark.parametrize("gone", [0, 1])
def test_a_process_that_died_while_it_waited_is_not_taken_for_the_one_in_its_place(gone: int) -> None:
    store = HashStore()
    with pytest.raises(TimeoutError):
        meeting.meet(store, gone, 2, timedelta(seconds=0.2))
    with pytest.raises(TimeoutError):  # it is called, or called by, the one that is gone
        meeting.meet(store, 1 - gone, 2, timedelta(seconds=0.2))
    assert len(met(store, 2, [gone, 1 - gone])) == 1


TOGETHER = """
import torch
from slimkit.errors import LostProcessError
from slimkit.training import distributed

print("here", flush=True)
try:
    with distributed.joined(torch.device("cpu")) as world:
        while True:
            print(distributed.mean(torch.tensor(float(world.rank)), world).item(), flush=True)
            input()
except LostProcessError as error:
    print(error, flush=True)
"""


Start = Callable[[int], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes as a launcher does, which keeps one store while they come and go."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    pipe, found, timers = subprocess.PIPE, [], []

    def start(rank: int) -> subprocess.Popen[str]:
        own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-c", TOGETHER]
        found.append(subprocess.Popen(command, env=own, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True))
        timers.append(Timer(90, found[-1].kill))  # else a failure would be waited for without end
        timers[-1].start()
        return found[-1]

    yield start
    for process, timer in zip(found, timers, strict=True):
        timer.cancel()
        process.kill()
        process.communicate()


@pytest.mark.long
def test_processes_that_are_started_again_do_not_call_those_that_are_gone(start: Start) -> None:
    for alone in (0, 3):  # seconds: time to find the addresses of those that are gone
        pair = [start(0)]
        assert pair[0].stdout.readline() == "here\n"
        time.sleep(alone)
        pair.append(start(1))
        assert pair[1].stdout.readline() == "here\n"
        assert [process.stdout.readline() for process in pair] == ["0.5\n"] * 2
        for process in pair:
            process.kill()
            process.wait()


@pytest.mark.long
def test_who_is_left_says_that_another_process_has_died(start: Start) -> None:
    pair = [start(rank) for rank in (0, 1)]
    assert [process.stdout.readlines(6) for process in pair] == [["here\n", "0.5\n"]] * 2
    pair[0].kill()
    pair[0].wait()
    said = pair[1].communicate("\n", 60)[0]
    assert said.startswith("another process of this run has died") and "with `resume=True`" in said
