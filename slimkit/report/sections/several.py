"""Several runs side by side: those of one network and one data set are compared, with each other only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slimkit.report.figures import tradeoff
from slimkit.report.numbers import CLOCKS, MISSING, Show, amount, change, interval, metric, milliseconds, ratio
from slimkit.report.parts import Cell, Section, Table, picture, words
from slimkit.report.verdict import Headline, Verdict, asked, behind, short_name
from slimkit.results import Accuracy, Figures, LatencyEntry, Measured, Report

# Shares by which ratios of two times were off: of files timed in turns, and of runs that were timed one after another.
_IN_TURNS, _APART = 0.02, 0.1


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A run to compare.

    Attributes:
        name: to call it.
        report: of it.
        place: where the data of the page has it.
        latency: of its ONNX file, measured again beside the others'; None: what its report says counts.
    """

    name: str
    report: Report
    place: int
    latency: LatencyEntry | None = None

    @property
    def right(self) -> Measured | None:
        """Its accuracy."""
        return self.report.after.accuracy.quoted if self.report.after.accuracy else None

    @property
    def time(self) -> LatencyEntry | None:
        """Time of its file."""
        return self.latency or self.report.after.latency_ms


def comparison(runs: Sequence[Compared]) -> tuple[Verdict, list[Section]]:
    """Sum several runs up: what to say first, and the sections that show it."""
    kinds = _kinds(runs)
    sections = []
    for place, (kind, alike) in enumerate(kinds.items()):
        name = str(place) if place else ""
        sections += [s for s in (_tradeoff(kind, name, alike), _table(kind, name, alike)) if s is not None]
    if len(kinds) == 1:
        return _verdict(next(iter(kinds)), runs), sections
    listed = "; ".join(f"{len(alike)} of {kind}" for kind, alike in kinds.items())
    sentence = f"{len(runs)} runs of {len(kinds)} kinds: {listed}."
    note = "Runs of different networks or data are not compared with each other."
    return Verdict(sentence, (), (note,)), sections


def _kinds(runs: Sequence[Compared]) -> dict[str, list[Compared]]:
    """Sort runs by network and data; networks of one name and several sizes are several.

    Data that was given as it is has no name: then by how much of it there is.
    """
    sizes: dict[str, set[int | None]] = {}
    for run in runs:
        sizes.setdefault(short_name(run.report), set()).add(run.report.before.params)
    kinds: dict[str, list[Compared]] = {}
    for run in runs:
        name, data = short_name(run.report), run.report.spec.get("data") or (run.right and run.right.of)
        wide = f" of {amount(run.report.before.params)} parameters" if len(sizes[name]) > 1 else ""
        kinds.setdefault(f"{name}{wide}" + (f" on {data}" if data else ""), []).append(run)
    return kinds


def _comparable(runs: Sequence[Compared]) -> bool:
    """Tell whether the times of runs may be put side by side: same engine, threads, batch, clock and processor."""
    times = [run.time for run in runs]
    how = {
        (time.engine, time.threads, time.batch, time.clock, None if run.latency else run.report.environment.get("cpu"))
        for run, time in zip(runs, times, strict=True)
        if time
    }
    return all(times) and len(how) == 1


def _verdict(kind: str, runs: Sequence[Compared]) -> Verdict:
    headlines, clauses, notes = [], [], []
    if best := _best(runs, _badness):
        right = best.right
        assert right is not None
        shown = metric(right.value, right.by.unit)
        headlines.append(Headline(f"best {right.split} {right.by.metric}", shown, best.name))
        does = "gets the most right" if right.by.metric == "accuracy" else f"has the best {right.by.metric}"
        clauses.append(f"“{best.name}” {does} ({shown} of {right.of})")
        close = [run.name for run in runs if run is not best and _close(run.right, right)]
        if close:
            named = " and ".join(f"“{name}”" for name in close)
            notes.append(f"On so many images that is no certain lead over {named}: their 95 % intervals overlap.")
    if not _comparable(runs):
        notes.append("Latencies were measured on different machines, engines or settings, so they are not compared.")
    elif best := _best(runs, lambda run: run.time.quoted if run.time else None):
        time = best.time
        assert time is not None
        headlines.append(Headline("lowest latency", milliseconds(time.quoted), best.name))
        noise = _IN_TURNS if all(run.latency for run in runs) else _APART
        close = [
            run.name for run in runs if run is not best and run.time and run.time.quoted * (1 - noise) < time.quoted
        ]
        if close:
            named = " and ".join(f"“{name}”" for name in close)
            notes.append(f"Times are good to {100 * noise:.0f} %: “{best.name}” has no certain lead over {named}.")
        else:
            clauses.append(f"“{best.name}” is the fastest ({milliseconds(time.quoted)})")
    if best := _best(runs, lambda run: run.report.after.bytes):
        size = amount(best.report.after.bytes, "B")
        headlines.append(Headline("smallest", size, best.name))
        clauses.append(f"“{best.name}” is the smallest ({size})")
    slow = [f"“{run.name}” takes {found}" for run in runs if not run.latency and (found := behind(run.report))]
    if slow:  # of files that are timed again the dense one is not, so that no share of it is known
        notes.append(f"Time fell less than work: {'; '.join(slow)}.")
    if all(run.latency for run in runs):
        notes.append("For this page the files of all runs were timed again on this machine, in turns.")
    elif _comparable(runs):
        notes.append("Latencies are those of the runs, measured at different times.")
    sentence = f"Of {len(runs)} runs of {kind}, {'; '.join(clauses)}." if clauses else f"{len(runs)} runs of {kind}."
    return Verdict(sentence, tuple(headlines), tuple(notes))


def _close(one: Measured | None, best: Measured) -> bool:
    """Tell whether an accuracy may well be as good as the best."""
    if one is None or one.split != best.split or not (one.interval and best.interval):
        return False
    return one.interval[1] >= best.interval[0] and one.interval[0] <= best.interval[1]


def _badness(run: Compared) -> float | None:
    if run.right is None:
        return None
    return run.right.value if run.right.by.better == "lower" else -run.right.value


def _tradeoff(kind: str, place: str, runs: Sequence[Compared]) -> Section | None:
    axes: tuple[tuple[str, Show, Callable[[Figures, Compared | None], float | None]], ...] = (
        (f"latency, {next((CLOCKS[run.time.clock] for run in runs if run.time), '')}", milliseconds, _time),
        ("MACs an image", amount, lambda side, run: side.macs),
    )
    by = next((run.right.by for run in runs if run.right), None)
    if by is None:
        return None
    for label, show, cost in axes[0 if _comparable(runs) else 1 :]:
        found: dict[tuple[str, float, float], tradeoff.Point] = {}  # the dense one of several runs: once
        for run in runs:
            again = run.latency is not None and cost is _time  # then the dense one was not timed with it
            for side, name, role in ((run.report.before, "dense", "before"), (run.report.after, run.name, "after")):
                right = side.accuracy.quoted if side.accuracy else None
                spent = None if again and role == "before" else cost(side, run if role == "after" else None)
                if spent is not None and right is not None:
                    own = spent if role == "after" else 0.0
                    found.setdefault((name, own, right.value), tradeoff.Point(name, spent, right.value, role))
        known = list(found.values())
        if sum(point.role == "after" for point in known) > 1:
            return _drawn(kind, place, known, label, show, by)
    return None


def _time(side: Figures, run: Compared | None) -> float | None:
    time = run.time if run else side.latency_ms
    return time.quoted if time else None


def _drawn(kind: str, place: str, known: list[tradeoff.Point], label: str, show: Show, by: Accuracy) -> Section:
    roles = {point.role for point in known}
    drawn = picture(
        f"tradeoff{place}",
        f"Accuracy against {label}",
        lambda width: tradeoff.accuracy_against(known, label, show, by, width),
        legend=[("after", "runs"), *([("before", "dense")] if "before" in roles else [])],
    )
    about = f"{kind}. {tradeoff.best(by)}. The axis of cost starts at nothing."
    return Section(name=f"tradeoff{place}", title="Accuracy against cost", about=about, parts=[drawn])


def _table(kind: str, place: str, runs: Sequence[Compared]) -> Section:
    head = ["run", "asked", "accuracy", "latency", "MACs", "parameters", "size"]
    rows = []
    asked_of = {run.right.of for run in runs if run.right}
    for run in runs:
        before, after = run.report.before, run.report.after
        path = f"runs/{run.place}/report/after"
        rows.append(
            [
                Cell(text=run.name, mono=True),
                words(asked(run.report)),
                _accuracy(run, path, alike=len(asked_of) == 1),
                _latency(run, path),
                *(
                    _figure(name, getattr(before, name), getattr(after, name), path, show)
                    for name, show in (("macs", amount), ("params", amount), ("bytes", lambda v: amount(v, "B")))
                ),
            ]
        )
    about = f"{kind}. Each number of the slim network; below it, what became of the dense one’s."
    if len(asked_of) == 1:
        about += f" Accuracy on {asked_of.pop()}, with its 95 % interval."
    return Section(name=f"runs{place}", title="All runs", about=about, parts=[Table(head=head, rows=rows)])


def _accuracy(run: Compared, path: str, alike: bool) -> Cell:
    """Return the accuracy of a run; on what is said above the table where it is `alike` for all."""
    right, old = run.right, run.report.before.accuracy.quoted if run.report.before.accuracy else None
    if right is None:
        return Cell(text=MISSING, number=True)
    notes = [change(right.value, old.value, right.by.unit)] if old else []
    notes += [interval(right.interval, right.by.unit)] if right.interval else []
    notes += [] if alike else [f"on {right.of}"]
    return Cell(
        text=metric(right.value, right.by.unit, 2),
        number=True,
        path=f"{path}/accuracy/{right.split}",
        value=right.value,
        note=", ".join(notes),
    )


def _latency(run: Compared, path: str) -> Cell:
    if run.latency is not None:
        return Cell(text=milliseconds(run.latency.quoted), number=True, note="timed again")
    time, old = run.report.after.latency_ms, run.report.before.latency_ms
    if time is None:
        return Cell(text=MISSING, number=True)
    return _figure(f"latency_ms/{time.clock}", old.quoted if old else None, time.quoted, path, milliseconds)


def _figure(name: str, old: float | None, new: float | None, path: str, show: Show) -> Cell:
    note = f"× {ratio(new, old)}" if old and new is not None else None
    return Cell(text=show(new), number=True, path=f"{path}/{name}", value=new, note=note)


def _best(runs: Sequence[Compared], badness: Callable[[Compared], float | None]) -> Compared | None:
    known = [(value, place) for place, run in enumerate(runs) if (value := badness(run)) is not None]
    return runs[min(known)[1]] if known else None
