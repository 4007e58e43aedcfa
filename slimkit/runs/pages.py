"""Pages made again: of one run, or of several, whose ONNX files are timed again in turns.

What runs measured at different times says little about which is the fastest.
"""

from collections.abc import Sequence
from pathlib import Path

from slimkit.errors import SlimkitError
from slimkit.progress import Progress, quiet
from slimkit.report import rebuild
from slimkit.results import LatencyEntry, Report

ONNX = "model.onnx"
_LARGEST_BATCH = 256  # a report may come from anywhere too


def rebuilt(folders: Sequence[Path], out: Path | None, force: bool, progress: Progress = quiet) -> Path:
    """Write the page of a run again, or one that compares several, for which their files are timed in turns."""
    progress("drawing the page", None)
    return rebuild.rebuild(folders, out, force, lambda runs: _timed(runs, progress))


def _timed(runs: Sequence[tuple[Path, Report]], progress: Progress) -> list[LatencyEntry | None]:
    """Return the time of each run's file, measured in turns; None for all where one cannot be.

    Done where all runs were timed alike in ONNX Runtime. Files are tried in a process of its own first: they may come
    from anywhere.

    Args:
        runs: output folder and report of each.
        progress: called with what is being done, and the share done.
    """
    from slimkit.hardware import cores
    from slimkit.measure import probe  # engines: the page of a single run has no use for them
    from slimkit.measure.latency import measure

    nothing: list[LatencyEntry | None] = [None] * len(runs)
    files, times = [folder / ONNX for folder, _ in runs], [report.after.latency_ms for _, report in runs]
    how = {(time.engine.partition(" ")[0], time.threads, time.batch) for time in times if time}
    if len(how) != 1 or not all(times) or not all(file.is_file() for file in files):
        return nothing
    [(engine, threads, batch)] = how
    if engine != "onnxruntime" or threads > cores() or batch > _LARGEST_BATCH:
        return nothing
    try:
        for file in files:
            progress("trying the files of the runs", None)
            probe.check(file, batch=batch)
        return [time.record() for time in measure(files, threads=threads, batch=batch, progress=progress)]
    except SlimkitError:
        return nothing
