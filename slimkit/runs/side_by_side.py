"""The ONNX files of several runs, timed again in turns: what runs measured at different times says little."""

from collections.abc import Sequence
from pathlib import Path

from slimkit.errors import SlimkitError
from slimkit.measure import probe
from slimkit.measure.latency import measure
from slimkit.progress import Progress, quiet
from slimkit.results import Latency, Report
from slimkit.runs.files import ONNX


def timed(runs: Sequence[tuple[Path, Report]], progress: Progress = quiet) -> list[Latency | None]:
    """Return the time of each run's file, measured in turns; None for all where one cannot be.

    Files are tried in a process of its own first: they may come from anywhere. The engine's settings are those of the
    runs where these agree, else one thread and one image.

    Args:
        runs: output folder and report of each.
        progress: called with what is being done, and the share done.
    """
    nothing: list[Latency | None] = [None] * len(runs)
    files = [folder / ONNX for folder, _ in runs]
    if not all(file.is_file() for file in files):
        return nothing
    asked = {(report.spec.get("runtime"), report.spec.get("threads"), report.spec.get("batch")) for _, report in runs}
    given = asked.pop() if len(asked) == 1 else (None, None, None)
    engine, threads, batch = str(given[0] or "onnxruntime"), int(given[1] or 1), int(given[2] or 1)
    try:
        for file in files:
            progress("trying the files of the runs", None)
            probe.check(file, engine, batch=batch)
        times = measure(files, threads=threads, batch=batch, engine=engine, progress=progress)
        return [time.record() for time in times]
    except SlimkitError:
        return nothing
