"""Latency of ONNX files: several in one go, taken in turns, so that a busy machine slows them all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slimkit import results
from slimkit.errors import EngineError, SpecError
from slimkit.measure.engines import Array, Port, Runner, open_runner
from slimkit.measure.environment import cpu_name
from slimkit.measure.power import processor_meters
from slimkit.progress import quiet
from slimkit.settings.checks import number, whole
from slimkit.settings.data import Shapes

WARM_UPS = 5
_BLOCK = 3  # runs in a row that are timed; one before them fills the caches, which another file's run has emptied
_FEWEST, _MOST = 3, 667  # rounds
_NOISY_SPREAD = 0.1  # interquartile range over median
_UNDISTURBED = 0.05  # share of the runs that nothing disturbed
_NOISY_WAIT = 0.1  # share of the wall time in which a single thread was not running
_READINGS, _QUIETER = 11, 6  # of the energy counter, a turn each; turns that count, those with the least energy


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one inference of one file takes.

    Attributes:
        median_ms, q25_ms, q75_ms: wall time of one batch, milliseconds: median and quartiles.
        fastest_ms: least wall time: what a busy machine disturbs least.
        cpu_ms: CPU time of the process for one batch; above the wall time with several threads. Of the runs in order
            the one after a twentieth, since neighbours on a core or a cache lengthen it: ratios of medians were off by
            10 %, of these by 2 %. Not the least: one reading in thousands of a virtual machine's clock is a third.
        energy_mj: measured energy of one batch, where the processor's counter can be read (RAPL): the median of the
            quieter half of the turns.
        repeats: how many batches were timed.
        noisy: of this file or one timed in turns with it, the quartiles of times or of energies are more than 10 % of
            the median apart, or a single thread had to wait for the processor: something else was running.
        engine: name and version.
        cpu: the processor's name.
    """

    median_ms: float
    q25_ms: float
    q75_ms: float
    fastest_ms: float
    cpu_ms: float
    engine: str
    threads: int
    batch: int
    repeats: int
    noisy: bool
    cpu: str
    energy_mj: float | None = None

    @property
    def clock(self) -> str:
        """What to judge by: `wall`, or `cpu` where the machine was too noisy for one thread's wall time."""
        return "cpu" if self.record().by_cpu else "wall"

    @property
    def typical_ms(self) -> float:
        """Milliseconds by that clock, as reports quote them."""
        return self.record().quoted

    def record(self) -> results.LatencyEntry:
        """Return the figures as a report has them."""
        return results.LatencyEntry(
            median=self.median_ms,
            q25=self.q25_ms,
            q75=self.q75_ms,
            fastest=self.fastest_ms,
            cpu=self.cpu_ms,
            engine=self.engine,
            threads=self.threads,
            batch=self.batch,
            repeats=self.repeats,
            noisy=self.noisy,
        )


def measure(
    paths: Sequence[str | Path],
    input_shape: Shapes | None = None,
    *,
    threads: int = 1,
    batch: int = 1,
    engine: str = "onnxruntime",
    seconds: float = 3.0,
    progress: Callable[[str, float | None], None] = quiet,
) -> list[Latency]:
    """Time ONNX files on random images: inferences in a row, with the file's weights in the caches.

    The files take turns, a few inferences each, so that a busy machine slows them all alike. The first of each turn
    is not timed: beside a large file a small one took six times as long for it.

    Args:
        paths: the files.
        input_shape: (C, H, W), or name -> shape of several inputs, where a file leaves them free; else they are read
            from the file.
        threads: number of threads that compute.
        batch: images per inference; a file with a fixed batch keeps its own.
        engine: a name in `engines.ENGINES`.
        seconds: about how long one file is timed; decides the number of turns, between 3 and 667, of 3 inferences.
        progress: called with what is being done, and the share done.

    Raises:
        CheckpointError: a file is missing or damaged.
        EngineError: the engine is missing, or the input shape cannot be told, or is not the one of the file.
        SpecError: there is no file, or a number is out of range.
    """
    if not paths:
        raise SpecError("paths are none: there is nothing to time.\n  Give ONNX files")
    for name, count in (("threads", threads), ("batch", batch)):
        whole(1)(name, count)
    number(0)("seconds", seconds)
    runners = [open_runner(path, engine, threads) for path in paths]
    images = [random_batch(p, runner, input_shape, batch) for p, runner in zip(paths, runners, strict=True)]
    for runner, image in zip(runners, images, strict=True):
        for _ in range(WARM_UPS):
            runner.run(image)
    first = [_time(runner, image)[0] for runner, image in zip(runners, images, strict=True)]
    turns = seconds * len(paths) / max(sum(first), 1e-9) / (_BLOCK + 1)
    rounds = int(min(max(turns, _FEWEST), _MOST))
    wall, cpu = np.empty((2, len(paths), rounds * _BLOCK))
    for turn in range(rounds):
        progress(f"measuring in {runners[0].engine}", turn / rounds)
        for i, (runner, image) in enumerate(zip(runners, images, strict=True)):
            runner.run(image)
            for place in range(turn * _BLOCK, (turn + 1) * _BLOCK):
                wall[i, place], cpu[i, place] = _time(runner, image)
    joules = joules_a_run(runners, images)
    energies = [None] * len(paths) if joules is None else undisturbed(joules)
    found = [
        summary(wall[i], cpu[i], energies[i], (runner.engine, threads, _images(images[i])))
        for i, runner in enumerate(runners)
    ]
    noisy = any(latency.noisy for latency in found)  # else a share would mix two clocks
    noisy = noisy or (joules is not None and any(map(_scattered, joules)))
    return [replace(latency, noisy=noisy) for latency in found]


def random_batch(path: str | Path, runner: Runner, input_shape: Shapes | None, batch: int) -> list[Array]:
    """Return one random batch that fits the file, [batch, ...] for each input; seeded. Whole numbers are 0, single 1.

    Args:
        path: for messages.
        runner: the file.
        input_shape: of one input, or name -> shape, where the file leaves it free.
        batch: images, where the file leaves that free.

    Raises:
        EngineError: the file leaves more free than the batch, and `input_shape` doesn't say it, or says something else.
    """
    if not any(port.shape for port in runner.inputs):
        raise EngineError(f"{path}: its input is a single number.\n  Give a file that takes a tensor of images")
    generator = np.random.default_rng(0)
    named = _named(path, runner.inputs, input_shape)
    return [_random(path, port, named.get(port.name), batch, generator) for port in runner.inputs]


def _named(path: str | Path, ports: Sequence[Port], given: Shapes | None) -> Mapping[str, tuple[int, ...]]:
    """Return the shape that each input of a file is asked to have; one shape is that of all that it fits."""
    names = [port.name for port in ports]
    if isinstance(given, Mapping):
        strange = sorted(set(given) - set(names))
        if strange and not set(names) <= set(given):  # beside all others one that nothing reads is none of the file's
            raise EngineError(
                f"input_shape names {strange[0]!r}: the inputs of {path} are {', '.join(names)}.\n  Name one of them"
            )
        return given
    if given is None or len(ports) == 1:
        return {} if given is None else {names[0]: given}
    fitting = {port.name: given for port in ports if port.shape and _fits(port, given)}
    if not fitting:
        takes = ", ".join(f"{port.name} {port.shape[1:]}" for port in ports)
        raise EngineError(
            f"input_shape is {tuple(given)}: {path} takes {takes}, None where it is free.\n"
            f"  Leave it out, or give it by name: {names[0]}=C,H,W"
        )
    return fitting


def _fits(port: Port, given: Sequence[int]) -> bool:
    sizes = port.shape[1:]
    return len(given) == len(sizes) and all(size in (None, asked) for size, asked in zip(sizes, given, strict=True))


def _random(
    path: str | Path, port: Port, own: Sequence[int] | None, batch: int, generator: np.random.Generator
) -> Array:
    if not port.shape:
        return np.ones((), port.dtype)
    if own is not None and not _fits(port, own):
        raise EngineError(
            f"input_shape is {tuple(own)}: {path} takes {port.shape[1:]}, None where it is free.\n"
            "  Leave it out, or give a file of that shape"
        )
    shape = [port.shape[0] or batch, *(port.shape[1:] if own is None else own)]
    if None in shape:
        raise EngineError(
            f"{path}: its input shape {port.shape} leaves more free than the batch.\n"
            f"  Give the shape of one image (`input_shape=C,H,W`; of several inputs {port.name}=C,H,W)"
        )
    sizes = [int(size or 1) for size in shape]
    if port.dtype.kind != "f":
        return np.zeros(sizes, port.dtype)
    return generator.standard_normal(sizes).astype(port.dtype)


def _images(arrays: Sequence[Array]) -> int:
    """Return the batch of what one inference takes."""
    return next(len(array) for array in arrays if array.ndim)


def _time(runner: Runner, image: Sequence[Array]) -> tuple[float, float]:
    """Return wall and CPU seconds of one inference."""
    cpu, wall = time.process_time(), time.perf_counter()
    runner.run(image)
    return time.perf_counter() - wall, time.process_time() - cpu


def joules_a_run(runners: Sequence[Runner], images: Sequence[Sequence[Array]], seconds: float = 0.1) -> Array | None:
    """Return the energy of one inference by the processor's own counter, [files, 11]; None where it cannot be read.

    The files take turns here too: the counter is of the whole processor, and so of whatever else it is doing.

    Args:
        runners: the files.
        images: what each is run on.
        seconds: of inferences in a turn, since the counter is coarse.
    """
    meters = processor_meters()
    if not meters:
        return None
    found = np.empty((len(runners), _READINGS))
    for turn in range(_READINGS):
        for place, (runner, image) in enumerate(zip(runners, images, strict=True)):
            runner.run(image)  # it fills the caches
            before, start, runs = sum(meter.joules() for meter in meters), time.perf_counter(), 0
            while not runs or time.perf_counter() - start < seconds:
                runner.run(image)
                runs += 1
            found[place, turn] = (sum(meter.joules() for meter in meters) - before) / runs
    return found


def undisturbed(joules: Array) -> list[float]:
    """Return the energy of each file: its median over the turns that took least, which are the same for all files.

    Args:
        joules: [files, turns].
    """
    shares = joules / np.maximum(np.median(joules, 1, keepdims=True), np.finfo(float).tiny)
    quieter = np.argsort(shares.sum(0), kind="stable")[:_QUIETER]
    found: list[float] = np.median(joules[:, quieter], 1).tolist()
    return found


def _scattered(values: Array) -> bool:
    """Tell whether something disturbed some of many measurements of one thing."""
    q25, median, q75 = np.percentile(values, [25, 50, 75])
    return bool(q75 - q25 > _NOISY_SPREAD * median)


def summary(wall: Array, cpu: Array, joules: float | None, conditions: tuple[str, int, int]) -> Latency:
    """Return what many inferences took in all.

    Args:
        wall, cpu: seconds of each by the two clocks, [repeats].
        joules: of one, if it was measured.
        conditions: engine, threads, images in a batch.
    """
    engine, threads, batch = conditions
    q25, median, q75 = np.percentile(wall * 1e3, [25, 50, 75])
    waited = threads == 1 and float(np.median(cpu)) * 1e3 < (1 - _NOISY_WAIT) * median
    return Latency(
        median_ms=float(median),
        q25_ms=float(q25),
        q75_ms=float(q75),
        fastest_ms=float(wall.min()) * 1e3,
        cpu_ms=float(np.quantile(cpu, _UNDISTURBED, method="lower")) * 1e3,
        engine=engine,
        threads=threads,
        batch=batch,
        repeats=len(wall),
        noisy=bool(waited) or _scattered(wall),
        cpu=cpu_name(),
        energy_mj=None if joules is None else joules * 1e3,
    )
