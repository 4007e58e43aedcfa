"""Several budgets in one run of `compress`: traced, ranked and timed once; a folder each, and a page with the curve."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from slimkit import training
from slimkit.errors import BudgetError, MaskError, OutputError
from slimkit.measure.stages import stages_on
from slimkit.progress import Progress, Watcher, quiet
from slimkit.report.page import comparison_page, is_page
from slimkit.results import SweepReport
from slimkit.runs.compress import about, finished, kept, reads, store_of
from slimkit.runs.cut.begun import begin, check_watched, opened
from slimkit.runs.folder import output
from slimkit.runs.folder import resume as resuming
from slimkit.settings import CompressSpec
from slimkit.settings.output import OutputOptions
from slimkit.training import trackers
from slimkit.whole_file import check_free, write_whole

PAGE = "comparison.html"


@dataclass(frozen=True)
class Sweep:
    """What a sweep leaves.

    Attributes:
        report: of the budgets that were reached.
        folder: where their folders lie, and the page that compares them.
    """

    report: SweepReport
    folder: Path


def sweep_checkpoint(
    path: Path,
    specs: Sequence[CompressSpec],
    options: OutputOptions,
    progress: Progress = quiet,
    watchers: Sequence[Watcher] = (),
) -> Sweep:
    """Make the network in a file smaller, once for each of several budgets.

    Args:
        path: the checkpoint.
        specs: settings that differ in the value of the budget alone.
        options: of the folder in which each budget gets its own, and the page lies.
        progress: called with what is being done, and the share done.
        watchers: told how retrainings go.

    Raises:
        BudgetError: some were out of reach; those that were reached are written, and the message says which.
        SlimkitError: whatever else the caller can mend.
    """
    target = options.folder(path.stem)
    names = [named(spec) for spec in specs]
    if not options.force and not options.resume and target.exists():
        raise OutputError(
            f"{target}: the output folder exists already.\n  Give another `out`, or replace it: `force=True`"
        )
    page = target / PAGE
    check_free(page, True, is_page, "out")
    homes = {name: target / name for name in names}
    stages = stages_on(specs[0].device)
    begins = cache(lambda: opened(path, specs[0], progress, stages))
    same = cache(lambda: about(begins()))
    found = {
        name: done
        for name, spec in zip(names, specs, strict=True)
        if (done := resuming.complete(homes[name], options, asdict(spec), reads(path, spec), same))
    }
    lacking = {name: spec for name, spec in zip(names, specs, strict=True) if name not in found}
    missed: dict[str, BudgetError | MaskError] = {}
    if lacking:
        begun = begin(begins(), stages, specs=specs)
        if options.track:
            check_watched(begun.given, f"track is {', '.join(options.track)}")
    for name, spec in lacking.items():
        progress(f"{name}, {names.index(name) + 1} of {len(specs)}", None)
        home = homes[name]
        try:
            with (
                output.claim(home, options.force, reads(path, spec)) as work,
                trackers.opened(options.track, home, asdict(spec)) as more,
            ):
                store = store_of(home, options.resume, spec)
                given = replace(kept(begun.given, store, work), watchers=(*watchers, *more))
                result = finished(replace(begun, given=given), spec, work, stages.branch())
            if options.force:
                page.unlink(missing_ok=True)  # it is of what was there before
            training.forget(store)
            found[name] = result.report
        except (BudgetError, MaskError) as error:
            missed[name] = error
    reports = {name: found[name] for name in names if name in found}
    if len(reports) > 1:
        write_whole(page, comparison_page(list(reports.items())), "the page")
    if missed:
        raise BudgetError(_said(missed, list(reports), target))
    return Sweep(SweepReport(names=tuple(reports), runs=tuple(reports.values())), target)


def named(spec: CompressSpec) -> str:
    """Return what the folder of a budget is called: `max-latency-0.5`."""
    [name] = [name for name in spec.budgets() if getattr(spec, name) is not None]
    return re.sub(r"[^\w.-]+", "-", f"{name.replace('_', '-')}-{getattr(spec, name)}")


def _said(missed: dict[str, BudgetError | MaskError], reached: list[str], target: Path) -> str:
    first = next(iter(missed.values()))
    if not reached and len(missed) == 1:
        return str(first)
    done = f"{', '.join(reached)} {'are' if len(reached) > 1 else 'is'} in {target}" if reached else "none was reached"
    return f"{len(missed)} of {len(missed) + len(reached)} budgets are out of reach; {done}.\n  {first}"
