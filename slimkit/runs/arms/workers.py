"""Who trains the arms of a study: this process, or others of this machine."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch

from slimkit import out_of_memory, own_code
from slimkit.errors import SlimkitError, TrainingError
from slimkit.hardware import cores, take_accelerator

Handler = Callable[[Any], Any]
_GRACE = 10.0  # seconds that a process has to end those that it has started


class WorkerDied(Exception):
    """A worker ended before it had done its work."""


class _Ended(BaseException):
    """Ends a process as SIGTERM asks for; no SystemExit, which the user's own code may raise."""


class Workers(Protocol):
    """Do pieces of work, each with one thread.

    Attributes:
        readers: processes that may read data for each piece of work; None: as many as for a training alone.
        alone: no other piece of work is done on its machine meanwhile.
    """

    readers: int | None
    alone: bool

    @property
    def free(self) -> int:
        """How many more pieces would be begun at once."""
        ...

    def begin(self, name: Any, work: Any) -> None:
        """Begin a piece of work; not called where nobody is free."""
        ...

    def finished(self) -> list[tuple[Any, Any]]:
        """Wait until a piece of work is done; give names and answers, an exception where there is no other."""
        ...


class Here:
    """This process: one piece of work at a time."""

    readers: int | None = None
    alone = True

    def __init__(self, task: Handler) -> None:
        self._task, self._next = task, list[tuple[Any, Any]]()

    @property
    def free(self) -> int:
        return 1 - len(self._next)

    def begin(self, name: Any, work: Any) -> None:
        self._next.append((name, work))

    def finished(self) -> list[tuple[Any, Any]]:
        name, work = self._next.pop()
        with one_thread():
            return [(name, answer(self._task, work))]


@dataclass(frozen=True, eq=False)
class _Process:
    """One that works for a study: our end of the link to it, and its place, 0 to the number of them less one."""

    link: Connection
    process: BaseProcess
    place: int


class Processes:
    """Processes of this machine, started as they are needed; one that dies takes its piece of work with it."""

    def __init__(self, count: int, task: Handler) -> None:
        self._task, self._count = task, count
        self.readers: int | None = max(0, cores() // count - 1)
        self.alone = count == 1
        self._places = list(range(count))[::-1]
        self._idle: list[_Process] = []
        self._busy: dict[Connection, tuple[_Process, Any]] = {}

    def _start(self) -> _Process:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        ours, theirs = context.Pipe()
        method, place = multiprocessing.get_start_method(), self._places.pop()
        # Daemons may start no others.
        process = context.Process(target=_serve, name=f"arm-{place}", args=(theirs, self._task, method, place))
        process.start()
        theirs.close()
        return _Process(ours, process, place)

    @property
    def free(self) -> int:
        return self._count - len(self._busy)

    def begin(self, name: Any, work: Any) -> None:
        one = self._idle.pop() if self._idle else self._start()
        try:
            one.link.send(work)
        except OSError:  # it has died while it waited
            self._places.append(one.place)
            one = self._start()
            one.link.send(work)
        self._busy[one.link] = one, name

    def finished(self) -> list[tuple[Any, Any]]:
        done: list[tuple[Any, Any]] = []
        for link in wait(list(self._busy)):
            assert isinstance(link, Connection)
            one, name = self._busy.pop(link)
            try:
                done.append((name, link.recv()))
                self._idle.append(one)
            except (EOFError, OSError):
                one.process.join(5)
                self._places.append(one.place)
                done.append((name, WorkerDied(f"a process ended with {one.process.exitcode}")))
        return done

    def close(self) -> None:
        """End all processes, also those that work, with those that they have started."""
        processes = [one.process for one in (*self._idle, *(one for one, _ in self._busy.values()))]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_GRACE)
            process.kill()
            process.join()


def _serve(link: Connection, task: Handler, method: str, place: int) -> None:
    """Work until the other end of the link is gone; processes are started here by `method`, not as this one was.

    The processes of a machine with several accelerators share them out by their places.
    """
    multiprocessing.set_start_method(method, force=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_follow, daemon=True).start()
    torch.set_num_threads(1)
    take_accelerator(place)
    with suppress(EOFError, OSError, _Ended):
        while True:
            link.send(answer(task, link.recv()))


def _end(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Ended


def _follow() -> None:
    """End this process soon after the one that started it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)


def answer(task: Handler, work: Any) -> Any:
    """Do a piece of work; give an exception as the answer where it raises one, in a form that can be sent."""
    try:
        return task(work)
    except SlimkitError as error:
        return error
    except (Exception, SystemExit) as error:
        if found := out_of_memory.of(error):
            return found
        if own := own_code.failure(error):
            return TrainingError(own)
        return RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread in this block: sums of several may round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
