"""Arms that share data, budget and recipe, trained and compared: `slimkit study`."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slimkit import out_of_memory
from slimkit.errors import OutputError, SlimkitError, SpecError, TrainingError
from slimkit.hardware import with_gradients
from slimkit.methods import Job
from slimkit.progress import Progress, quiet
from slimkit.quantity import number_of
from slimkit.report import page
from slimkit.results import Arm, study_file
from slimkit.runs import begin
from slimkit.runs.arms import ray_workers
from slimkit.runs.arms.arm import Assignment, Ground, ground_of, prepared, train_arm
from slimkit.runs.arms.order import Planned, naming, planned
from slimkit.runs.arms.workers import Here, Processes, WorkerDied, Workers
from slimkit.runs.folder import output as folder
from slimkit.runs.plan import plan
from slimkit.settings import StudySpec, study_spec
from slimkit.whole_file import whole

TRIES = 3  # of an arm whose worker dies
PAGE = "study.html"
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Study:
    """What a study leaves.

    Attributes:
        arms: all that finished, in the order in which they were planned.
        folder: with `study.jsonl` and `study.html`.
        notes: what the user should know.
    """

    arms: tuple[Arm, ...]
    folder: Path
    notes: tuple[str, ...] = ()


@out_of_memory.told()
@with_gradients()
def study(
    spec: StudySpec | Mapping[str, Any],
    out: Path | str | None = None,
    *,
    resume: bool = False,
    workers: str | int = 1,
    progress: Progress = quiet,
) -> Study:
    """Train all arms, write each as it is done, and compare them.

    Args:
        spec: which arms, on what: a spec, or settings by name as a file has them.
        out: folder; default: the architecture's name and `-study`.
        resume: train what the folder lacks; what it has is kept.
        workers: see `hired`.
        progress: called with what is being done, and the share done.

    Raises:
        SlimkitError: whatever the caller can mend. Arms that finished before are in the folder.
    """
    spec = spec if isinstance(spec, StudySpec) else study_spec(spec)
    runs = planned(spec)
    target = Path(out) if out is not None else Path(f"{begin.short_name(spec.arch)}-study")
    with hired(str(workers), spec.shared.get("device", "auto")) as hands, folder.kept(target, resume) as home:
        progress("looking at the arms", None)
        done, notes = _earlier(home, runs, _try_out(spec, runs))
        failed: dict[Key, SlimkitError | WorkerDied] = {}
        for key, answer in _trained(spec, runs, done, hands):
            if isinstance(answer, Arm):
                done[key] = answer
                study_file.append(home / study_file.NAME, answer)
            else:
                failed[key] = answer
            progress(f"{len(done)} of {len(runs)} arms, last {' '.join(map(str, key))}", len(done) / len(runs))
        arms = tuple(done[run.key] for run in runs if run.key in done)
        if arms:
            study_file.write(home / study_file.NAME, arms)
            with whole(home / PAGE) as part:
                part.write_text(page.study_page(arms), encoding="utf-8")
    if failed:
        raise TrainingError(_lost(failed, len(runs) - len(done), target if done else None))
    return Study(arms, target, tuple(notes))


@contextmanager
def hired(word: str, device: str) -> Iterator[Workers]:
    """Give the workers of a study.

    Args:
        word: number of processes of this machine, 0: work in this one; `ray`: the cluster that runs here, else one
            that is begun here; `ray://HOST:PORT`: a cluster's client server.

    Raises:
        SpecError: it is none of these.
        EngineError: Ray is not installed, or not reachable.
    """
    if word == "ray" or word.startswith("ray://"):
        with ray_workers.cluster(word, train_arm, device) as remote:
            yield remote
    elif re.fullmatch(r"\d{1,3}", word):
        with _local(int(word)) as local:
            yield local
    else:
        raise SpecError(f"workers is {word!r}: it must be a number of processes, ray or ray://HOST:PORT.")


@contextmanager
def _local(count: int) -> Iterator[Workers]:
    if not count:
        yield Here(train_arm)
        return
    local = Processes(count, train_arm)
    try:
        yield local
    finally:
        local.close()


def _work(spec: StudySpec, run: Planned, found: Mapping[Key, Arm], workers: Workers | None = None) -> Assignment:
    shared = (workers.readers, workers.alone) if workers else ()
    return Assignment(run.arm, run.budget, run.resolved(found), spec.images, spec.pixels, spec.latency, *shared)


def _try_out(spec: StudySpec, runs: list[Planned]) -> Ground:
    """Prepare every arm that waits for nobody, and look at each of its budgets: hours are not spent on a mistake.

    Budgets that have to be measured are left to the runs.

    Returns:
        What all arms share.

    Raises:
        SlimkitError: the data is missing, does not fit, or a method cannot work on the network.
    """
    jobs: dict[str, Job] = {}
    widths: dict[tuple[str, str], tuple[int, ...]] = {}
    once = {(run.arm, run.budget): run for run in reversed(runs)}
    for run in (run for run in once.values() if run.waits is None):
        asked = run.plan({})
        if run.arm not in jobs:
            job = jobs[run.arm] = prepared(_work(spec, run, {}), asked)
        elif asked.spec.budget.kind in ("ratio", "macs", "params"):
            known = jobs[run.arm]
            job = replace(known, selection=replace(known.selection, budget=asked.spec.budget, measured=None))
        else:
            continue
        with naming(run.arm):
            asked.method.check(job, asked.config)
        if asked.method.removes and (counts := job.selection.counts_beforehand(job.graph)):
            widths[run.arm, run.budget] = counts
    for run in once.values():
        if run.waits and run.settings.get("control") == "permuted" and (counts := widths.get(run.waits[:2])):
            _look(spec, run, counts)
    return ground_of(job)  # all arms share it, and one at least waits for nobody


def _look(spec: StudySpec, run: Planned, widths: tuple[int, ...]) -> None:
    """Look at an arm whose reference will have widths that are known already.

    Raises:
        SlimkitError: it cannot work with them.
    """
    settings = run.stood_in(widths)
    asked = plan(settings, source=f"arm {run.arm!r}", ignoring=run.settings)
    job = prepared(Assignment(run.arm, run.budget, settings, spec.images, spec.pixels, spec.latency), asked)
    with naming(run.arm):
        asked.method.check(job, asked.config)


def _earlier(home: Path, runs: list[Planned], ground: Ground) -> tuple[dict[Key, Arm], list[str]]:
    """Return the arms that are there already; `ground` is what this study trains on.

    Raises:
        OutputError: some are none of this study.
        RecordError: the file is damaged.
    """
    path = home / study_file.NAME
    if not path.exists():
        if any(home.iterdir()):
            raise OutputError(f"{home}: there is no {study_file.NAME} in it to go on from.\n  Give another `out`")
        return {}, []
    arms, dropped = study_file.read(path)
    notes = [dropped] if dropped else []
    done = {arm.key: arm for arm in arms}
    wanted = {run.key: run for run in runs}
    for key, arm in done.items():
        wrong = "the study that is asked for has no such arm"
        if key in wanted:
            run = wanted[key]
            if run.waits is None or run.waits in done:
                wrong = _other_settings(arm, run.plan(done).settings())
            else:
                wrong = f"it takes widths or cost of {run.waits[0]}, of which no arm is here; `like` names another"
            wrong = ground.other(arm) or wrong or _otherwise_timed(arm)
        if wrong:
            raise OutputError(
                f"{path}: it holds {' '.join(map(str, key))} of another study: {wrong}.\n  Give another `out`"
            )
    study_file.write(path, arms)  # without what was dropped
    commits = {f"{arm.slimkit} {arm.commit or ''}".strip() for arm in arms}
    if len(commits) > 1:
        notes.append(f"arms were made by different versions: {', '.join(sorted(commits))}")
    return done, notes


def _other_settings(arm: Arm, wanted: Mapping[str, Any]) -> str:
    """Say in which setting an arm is not what is asked for; nothing where it is.

    One that the version which trained the arm did not know yet has to be what it is by default.
    """
    usual = plan({name: wanted[name] for name in ("arch", "data", "method")}).settings()
    had = _plain({**usual, **arm.settings})
    for name, value in _plain(wanted).items():
        if had[name] != value:
            return f"its {name} is {had[name]!r}, not {value!r}"
    return ""


def _otherwise_timed(arm: Arm) -> str:
    """Say that the latency of an arm is not what its settings say: versions that named no engine went by their own."""
    settings, own = arm.settings, {"runtime": "onnxruntime", "threads": 1, "batch": 1}
    if arm.clock.latency_ms is None or arm.clock.engine is not None:
        return ""
    other = next((name for name, value in own.items() if settings.get(name, value) != value), None)
    return "" if other is None else f"its latency is of {other} {own[other]}, whatever its settings say"


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they compare: as a file has them, and a search that trains as all else does by that name."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    if plain.get("search_precision") == "auto":
        plain["search_precision"] = plain["precision"]
    return plain


def _trained(
    spec: StudySpec, runs: list[Planned], done: Mapping[Key, Arm], workers: Workers
) -> Iterator[tuple[Key, Arm | SlimkitError | WorkerDied]]:
    """Train what is not done; give answers as they come. The caller enters them in `done`, for those that wait."""
    waiting = {run.key: run for run in runs if run.key not in done}
    running: dict[Key, Planned] = {}
    tries: dict[Key, int] = {}
    while True:
        for key, run in list(waiting.items()):
            if workers.free <= 0:
                break
            if run.waits is None or run.waits in done:
                running[key] = waiting.pop(key)
                try:
                    workers.begin(key, _work(spec, run, done, workers))
                except SpecError as error:  # what it waited for has no such thing
                    del running[key]
                    yield key, error
        if not running:
            return  # those that still wait, wait for one that failed
        for key, answer in workers.finished():
            tries[key] = tries.get(key, 0) + 1
            run = running.pop(key)
            if isinstance(answer, WorkerDied) and tries[key] < TRIES:
                waiting[key] = run
            elif isinstance(answer, (SlimkitError, WorkerDied)):
                yield key, answer
            elif isinstance(answer, Exception):
                raise answer  # a fault of ours
            else:
                yield key, Arm.from_dict(answer)


def _lost(failed: Mapping[Key, Exception], count: int, target: Path | None) -> str:
    """Say which arms have failed, and what to do; `target` is where the others are, if there are any."""
    said = [
        f"  {' '.join(map(str, key)).replace('  ', ' ')}: {str(error).splitlines()[0]}" for key, error in failed.items()
    ]
    more = [f"  and {len(said) - 10} more"] if len(said) > 10 else []
    last = list(failed.values())[-1]
    hint = str(last).partition("\n")[2].strip()
    rest = f"; the others are in {target}, and `resume=True` trains what is lacking" if target else ""
    return "\n".join(
        [
            f"{number_of(count, 'arm')} of the study did not finish:",
            *said[:10],
            *more,
            f"  {hint or 'Mend what is wrong'}{rest}",
        ]
    )
