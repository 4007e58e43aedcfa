"""The page of a run: one HTML file that needs nothing else, readable on any screen and on paper."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from slimkit.report.parts import Section
from slimkit.report.sections import account, gains, network, quality, search
from slimkit.report.sections.arms import comparison_of_arms
from slimkit.report.sections.several import Compared, comparison
from slimkit.report.verdict import short_name, verdict
from slimkit.results import Arm, LatencyEntry, Report
from slimkit.results.report_file import to_json
from slimkit.settings.words import as_flags

SECTIONS: tuple[Callable[[Report], Section | None], ...] = (
    gains.gains,
    network.silhouette,
    network.work,
    search.draw,
    search.training,
    quality.recovery,
    account.cost,
    network.gamma_histogram,
    quality.proof,
    network.kept,
    account.usage,
    account.conditions,
)


def is_page(path: Path) -> bool:
    """Tell whether a file is a page that slimkit wrote."""
    try:
        text = path.read_text("utf-8", "replace").lstrip()
    except OSError:
        return False
    return text.startswith("<!doctype html>") and "<footer>Written by slimkit" in text


def run_page(report: Report) -> str:
    """Write the page of one run."""
    facts = [report.command, report.arch.name, report.spec.get("data"), report.created[:10]]
    return _render(
        title=f"{short_name(report)}, slimmed",
        facts=[str(fact) for fact in facts if fact],
        version=report.slimkit,
        verdict=verdict(report),
        warnings=[as_flags(warning) for warning in report.warnings],
        sections=[section for make in SECTIONS if (section := make(report)) is not None],
        data=to_json(report.to_dict()),
    )


def comparison_page(runs: Sequence[tuple[str, Report]], times: Sequence[LatencyEntry | None] = ()) -> str:
    """Write one page that compares several runs: (name, report); `times` of their files, measured side by side."""
    again: Sequence[LatencyEntry | None] = times or [None] * len(runs)
    listed = [
        Compared(name=name, report=report, place=place, latency=again[place])
        for place, (name, report) in enumerate(runs)
    ]
    said, found = comparison(listed)
    data = {"runs": [{"name": name, "report": report.to_dict()} for name, report in runs]}
    return _render(
        title="Runs compared",
        facts=["report", f"{len(runs)} runs"],
        version=runs[0][1].slimkit,
        verdict=said,
        warnings=[],
        sections=found,
        data=to_json(data),
        source="the report.json of each run" + (", but for times measured side by side for it" if times else ""),
    )


def study_page(arms: Sequence[Arm]) -> str:
    """Write the page of a study, from its lines alone."""
    said, found = comparison_of_arms(arms)
    versions = dict.fromkeys(f"{arm.slimkit} {arm.commit or ''}".strip() for arm in arms)
    return _render(
        title="A study",
        facts=["study", str(arms[0].settings.get("arch", "")), arms[0].data],
        version=", ".join(versions),
        verdict=said,
        warnings=[],
        sections=found,
        data=to_json({"arms": [arm.to_dict() for arm in arms]}),
        source="study.jsonl",
    )


def _render(source: str = "report.json", **content: Any) -> str:
    content["source"] = source
    environment, style, script = _template()
    # JSON inside <script> must not contain "</script" or "<!--"; escaped like this it stays the same JSON.
    content["data"] = Markup(content["data"].replace("<", "\\u003c"))  # noqa: S704
    page = environment.get_template("page.html")
    return page.render(style=Markup(style), script=Markup(script), kind=lambda part: type(part).__name__, **content)


@cache
def _template() -> tuple[Environment, str, str]:
    folder = files("slimkit.report") / "assets"
    page, style, script = ((folder / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js"))
    environment = Environment(
        loader=DictLoader({"page.html": page}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment, style, script
