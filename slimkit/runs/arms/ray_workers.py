"""A Ray cluster as workers of a study: one task an arm, on whichever node has a processor free."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slimkit.errors import EngineError
from slimkit.runs.arms.workers import Handler, WorkerDied, answer, one_thread

_AHEAD = 2  # pieces of work handed over beyond what the cluster has processors or GPUs for, so that none waits for us


@contextmanager
def cluster(address: str, task: Handler, device: str) -> Iterator["Ray"]:
    """Give the workers of a cluster.

    Args:
        address: `ray://HOST:PORT` of its client server; `ray`: the one that runs here, else one that is begun here and
            ends with the block.
        task: what is done.
        device: where the networks are to be: for `cuda`, and for `auto` where the cluster has GPUs, a task has a GPU of
            its own; Ray hides them from tasks that ask for none.

    Raises:
        EngineError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise EngineError(
            f"workers is {address!r}, but Ray is not installed.\n  Install it: pip install 'slimkit[ray]'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("ray").setLevel(logging.ERROR)
            ray.init(address=None if address == "ray" else address, log_to_driver=False)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError: whatever its client meets
        line = " ".join((str(error).strip() or type(error).__name__).split())[:200]
        raise EngineError(
            f"workers is {address!r}: no Ray cluster can be reached there ({line}).\n"
            "  Start one with `ray start --head`, and give ray://HOST:10001, or leave workers out"
        ) from None
    try:
        yield Ray(ray, task, device)
    finally:
        ray.shutdown()


class Ray:
    """A cluster that is connected."""

    readers: int | None = 0  # a task has one processor
    alone = False

    def __init__(self, ray: Any, task: Handler, device: str) -> None:
        self._ray, self._names = ray, dict[Any, Any]()
        gpu = device.startswith("cuda") or (device == "auto" and self._there("GPU") > 0)
        self._scarce = "GPU" if gpu else "CPU"
        self._remote = ray.remote(num_cpus=1, num_gpus=int(gpu), max_retries=0)(_work)
        self._task = task

    def _there(self, what: str) -> int:
        return int(self._ray.cluster_resources().get(what, 0))

    @property
    def free(self) -> int:
        return self._there(self._scarce) + _AHEAD - len(self._names)

    def begin(self, name: Any, work: Any) -> None:
        self._names[self._remote.remote(self._task, work)] = name

    def finished(self) -> list[tuple[Any, Any]]:
        done, _ = self._ray.wait(list(self._names), num_returns=1)
        return [(self._names.pop(reference), self._answer(reference)) for reference in done]

    def _answer(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # the worker or its node died, or its memory was taken
            return WorkerDied(f"Ray: {type(error).__name__}")


def _work(task: Handler, work: Any) -> Any:
    with one_thread():
        return answer(task, work)
