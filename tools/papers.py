"""What held up of seven papers: claims, published numbers, ours, from the studies in studies/.

    python tools/results.py          # writes the tables into docs/results/papers.md

studies/papers.toml lists the claims, each with the study that judges it; studies/NAME.toml says what is trained, and
studies/NAME.jsonl what came out: `slimkit study studies/NAME.toml --out OUT`, then OUT/study.jsonl.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from slimkit.report.sections.arms import rows, span
from slimkit.results import Arm, study_file
from slimkit.results.comparison import Difference, difference, grouped

STUDIES = Path(__file__).parents[1] / "studies"
NOT_RUN = "not run yet"


def page() -> str:
    """Return the claims as a table, and a table of every study that has run."""
    claims = tomllib.loads((STUDIES / "papers.toml").read_text())["claim"]
    heads = ("paper", "claim", "published", "ours", "verdict", "study")
    table = markdown(heads, (row(claim) for claim in claims))
    names = list(dict.fromkeys(claim["study"] for claim in claims))
    return "\n\n".join([table, *(study(name) for name in names if arms_of(name))])


def row(claim: dict[str, Any]) -> tuple[str, ...]:
    """Return the row of a claim."""
    found = judged(claim)
    ours = NOT_RUN if found is None else said(found, claim)
    verdict = NOT_RUN if found is None else verdict_of(found, claim.get("at_least", 0.0))
    place = f"`{claim['study']}`" if found is None else f"[`{claim['study']}`](#{claim['study']})"
    return claim["paper"], claim["says"], claim["published"], ours, verdict, place


def judged(claim: dict[str, Any]) -> Difference | None:
    """Return the difference that a claim is about; None where its arms have not been trained."""
    by_name: dict[str, list[Arm]] = {}
    for (name, budget), arms in grouped(arms_of(claim["study"])).items():
        if claim.get("budget", budget) == budget or not budget:
            by_name.setdefault(name, []).extend(arms)
    arm, other = (by_name.get(claim[key], []) for key in ("arm", "against"))
    return difference(arm, other) if arm and other else None


def verdict_of(found: Difference, least: float) -> str:
    """Say what became of the claim that an arm is better than another by `least` points, or worse by no more."""
    if found.mean.interval is None:
        return "one seed: nothing can be told"
    low, high = (100 * end for end in found.mean.interval)
    if low > least or (low == least != 0):
        return "reproduced"
    if high < least:
        return "not reproduced"
    return "no difference" if least == 0 else "cannot be told"


def said(found: Difference, claim: dict[str, Any]) -> str:
    seeds = f"{found.mean.seeds} seed{'s' if found.mean.seeds > 1 else ''}"
    value = f"{100 * found.mean.value:+.1f}".replace("-", "−")
    between = f" ({span(found.mean, 'share')})" if found.mean.interval else ""
    return f"{claim['arm']} − {claim['against']}: {value}{between}, {seeds}"


def arms_of(name: str) -> list[Arm]:
    """Return what a study gave; nothing where it has not run."""
    path = STUDIES / f"{name}.jsonl"
    return study_file.read(path)[0] if path.exists() else []


def study(name: str) -> str:
    """Return the section of a study: its command, what was trained on, and a table of its arms."""
    arms = arms_of(name)
    first = arms[0]
    commits = ", ".join(dict.fromkeys(arm.commit or arm.slimkit for arm in arms))
    heads = ("arm", "seeds", "test %, with its 95 % interval", "cost", "CPU time", "MACs", "parameters")
    table = []
    for one in rows(arms):
        about = f"{100 * one.test.value:.2f}"
        if one.test.interval:
            about += f" ({100 * one.test.interval[0]:.2f} to {100 * one.test.interval[1]:.2f})"
        clock = "" if one.clock is None else f"{one.clock:.2f}"
        table.append(
            (one.title, str(one.test.seeds), about, f"{one.cost:.2f}", clock, f"{one.macs:.2f}", f"{one.params:.2f}")
        )
    epochs = first.settings["epochs"]
    return (
        f"### {name}\n\n`slimkit study studies/{name}.toml`: {first.settings['arch']}, {first.data}, {epochs} epochs; "
        f"rows made on {commits}.\n\n{markdown(heads, table)}"
    )


def markdown(heads: Any, table: Any) -> str:
    lines = [heads, ["---"] * len(heads), *table]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
