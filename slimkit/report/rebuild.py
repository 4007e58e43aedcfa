"""Pages made again from `report.json`: of one run, or of several in comparison."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from slimkit.errors import OutputError
from slimkit.report.page import comparison_page, is_page, run_page, study_page
from slimkit.results import LatencyEntry, Report, report_file, study_file
from slimkit.whole_file import check_free, refuse_inputs, write_whole

Timed = Callable[[Sequence[tuple[Path, Report]]], Sequence[LatencyEntry | None]]


def rebuild(folders: Sequence[Path], out: Path | None = None, force: bool = False, timed: Timed | None = None) -> Path:
    """Write the page of one run, or one page that compares several, and give its path.

    Without `out` it is `DIR/report.html` of a single run, which is replaced, or `comparison.html` here.

    Args:
        folders: outputs of runs.
        out: the page.
        force: replace an earlier page.
        timed: times the files of several runs side by side; None where one cannot be.

    Raises:
        OutputError: a report is missing or unreadable, or the page exists (without `force`), is no page of
            slimkit's or another file of a run, or cannot be written.
    """
    if out is not None:
        refuse_inputs(out, _kept(folders), "out")
        check_free(out, force, is_page, "out")
    if len(folders) == 1 and ((folders[0] / study_file.NAME).is_file() or folders[0].name == study_file.NAME):
        return _study(folders[0], out)
    _refuse_twice(folders)
    reports = [report_file.read(folder) for folder in folders]
    if len(reports) == 1:
        home = folders[0] if folders[0].is_dir() else folders[0].parent
        return _written(out or home / "report.html", run_page(reports[0]))
    path = out or Path("comparison.html")
    check_free(path, force, is_page, "out")
    times = timed(list(zip(folders, reports, strict=True))) if timed else ()
    page = comparison_page(_named(folders, reports), times)
    check_free(path, force, is_page, "out")  # timing takes a while
    return _written(path, page)


def _refuse_twice(folders: Sequence[Path]) -> None:
    """Refuse to compare a run with itself, whatever it is called."""
    seen: dict[Path, Path] = {}
    for folder in folders:
        home = (folder if folder.is_dir() else folder.parent).resolve()
        if home in seen:
            raise OutputError(f"{folder}: is the same run as {seen[home]}.\n  Give each run once")
        seen[home] = folder


def _study(folder: Path, out: Path | None) -> Path:
    """Write the page of a study."""
    arms, _ = study_file.read(folder)
    if not arms:
        raise OutputError(f"{folder}: the study has no finished arm yet.\n  Go on with it: slimkit study --resume")
    home = folder if folder.is_dir() else folder.parent
    return _written(out or home / "study.html", study_page(arms))


def _kept(folders: Sequence[Path]) -> Iterator[Path]:
    """Give the files of runs that are no pages."""
    for folder in folders:
        home = folder if folder.is_dir() else folder.parent
        yield from (file for file in home.glob("*") if file.suffix != ".html")


def _written(path: Path, text: str) -> Path:
    write_whole(path, text, "the page")
    return path


def _named(folders: Sequence[Path], reports: Sequence[Report]) -> list[tuple[str, Report]]:
    """Name each run by its folder; by its whole path where two folders are called the same."""
    short = [folder.resolve().name for folder in folders]
    names = [str(folder) if short.count(name) > 1 else name for folder, name in zip(folders, short, strict=True)]
    return list(zip(names, reports, strict=True))
